"""A model of another kind is called what it is."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.names.families import family
from sparse_ist_tf.errors import RequestError

FAMILIES = {
    "Swin Transformer": [
        "patch_embed.proj.weight",
        "layers.0.blocks.0.attn.relative_position_bias_table",
        "layers.0.blocks.0.norm1.weight",
    ],
    "Swin Transformer V2": ["patch_embed.proj.weight", "layers.0.blocks.0.attn.logit_scale"],
    "ConvNeXt": ["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"],
    "ConvNeXt V2": ["stages.0.blocks.0.conv_dw.weight", "stages.0.blocks.0.mlp.grn.weight"],
    "BEiT": ["patch_embed.proj.weight", "blocks.0.attn.relative_position_bias_table"],
    "MobileViT": ["stem.conv.weight", "stages.2.1.conv_kxk.conv.weight"],
    "EVA": ["patch_embed.proj.weight", "blocks.0.attn.rope.freqs", "blocks.0.attn.q_bias"],
    "SAM's image encoder": ["image_encoder.blocks.0.attn.rel_pos_h"],
    "DINOv3": ["patch_embed.proj.weight", "rope_embed.periods"],
    "CLIP": ["visual.transformer.resblocks.0.attn.in_proj_weight", "visual.class_embedding"],
    "torchvision's ViT": ["conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight"],
    "EfficientNet": ["conv_stem.weight", "blocks.0.0.se.conv_reduce.weight"],
    "MobileNet": ["features.0.0.weight", "features.1.conv.0.0.weight"],
    "ResNet": ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"],
    "VGG": ["features.0.weight", "classifier.0.weight"],
    "DenseNet": ["features.conv0.weight", "features.denseblock1.denselayer1.norm1.weight"],
    "SegFormer": ["segformer.encoder.patch_embeddings.0.proj.weight"],
    "text model": ["bert.embeddings.word_embeddings.weight"],
}
OTHER_NAMES = {
    "Swin Transformer": "swin.encoder.layers.0.blocks.0.layernorm_before.weight",
    "BEiT": "beit.encoder.layer.0.attention.attention.relative_position_bias."
    "relative_position_bias_table",
    "ConvNeXt": "convnext.encoder.stages.0.layers.0.dwconv.weight",
    "MobileViT": "mobilevit.encoder.layer.2.conv_1x1.convolution.weight",
    "ResNet": "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight",
}


@pytest.mark.parametrize("prefix", ["", "model.", "module.backbone."])
@pytest.mark.parametrize("called", FAMILIES)
def test_a_family_is_known_by_its_names(called, prefix):
    assert family(f"{prefix}{name}" for name in FAMILIES[called]) == called


@pytest.mark.parametrize("called", OTHER_NAMES)
def test_transformers_names_too(called):
    assert family([OTHER_NAMES[called]]) == called


def test_a_plain_vit_is_no_family():
    names = ["cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"]
    assert family(names) == ""
    assert family(["embeddings.cls_token", "encoder.layer.0.layernorm_before.weight"]) == ""


@pytest.mark.parametrize("called", FAMILIES)
def test_loading_says_so_in_one_line(tmp_path, called):
    path = tmp_path / "w.safetensors"
    shapes = {"patch_embed.proj.weight": (8, 3, 4, 4)}
    save_file({n: np.ones(shapes.get(n, 8), np.float32) for n in FAMILIES[called]}, path)
    with pytest.raises(RequestError, match=rf"it looks like a {called}, must be") as caught:
        load_encoder(str(path))
    assert len(str(caught.value).splitlines()) == 1
