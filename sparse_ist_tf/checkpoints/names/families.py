"""What a model that is no plain ViT is called, by the names of its tensors."""

import re
from collections.abc import Iterable

# (what it is, a name that others don't have), from the more particular to the more common. Source:
# state dicts of timm, transformers, torchvision and the models' own repositories.
_FAMILIES = [
    (
        "Swin Transformer V2",
        r"layers\.\d+\.blocks\.\d+\.attn(\.self)?\.(logit_scale|cpb_mlp)|^swinv2\.",
    ),
    ("Swin Transformer V2", r"continuous_position_bias_mlp"),
    ("Swin Transformer", r"layers\.\d+\.blocks\.\d+\..*relative_position_|^swin\."),
    ("Swin Transformer", r"layers\.\d+\.(downsample\.(reduction|norm)|blocks\.\d+\.layernorm_)"),
    ("Swin Transformer", r"^features\.\d+\.\d+\.attn\.relative_position_"),
    ("ConvNeXt V2", r"\.grn\.(gamma|beta|weight|bias)$|^convnextv2\."),
    ("ConvNeXt", r"stages\.\d+\.((blocks|layers)\.)?\d+\.(dwconv|conv_dw)\.|^convnext\."),
    ("MobileViT", r"\.(conv_kxk|conv_kxn|conv_1x1_exp)\.|^mobilevit"),
    ("EVA", r"\.attn\.rope|^rope\.|\.mlp\.(fc1_g|ffn_ln)|\.attn\.inner_attn_ln"),
    ("BEiT", r"relative_position_bias_table|^beit\.|\.attn\.[qv]_bias$|^rel_pos_bias\."),
    ("SAM's image encoder", r"\.attn\.rel_pos_[hw]$"),
    ("DINOv3", r"rope_embed|\.attn\.qkv\.bias_mask|^layer\.\d+\.attention\.[qkvo]_proj"),
    ("CLIP", r"(visual|vision_model)\..*(resblocks|self_attn\.[qkv]_proj|class_embedding)"),
    ("CLIP", r"^(transformer\.)?resblocks\.\d+"),
    ("torchvision's ViT", r"encoder\.layers\.encoder_layer_\d+|^conv_proj\.weight"),
    ("CaiT", r"blocks_token_only"),
    ("XCiT", r"cls_attn_blocks"),
    ("Pyramid Vision Transformer", r"patch_embed\d\.proj|block\d\.\d+\.attn\.sr\."),
    ("SegFormer", r"patch_embeddings\.\d\.proj|^segformer\."),
    ("MaxViT", r"\.(attn_block|attn_grid|grid_attn|block_attn|attn_layer)\."),
    ("Hiera", r"^pos_embed_(spatial|window)|^hiera\."),
    ("MLP-Mixer", r"\.mlp_(tokens|channels)\.|token_mixing|mixer"),
    ("LeViT", r"attention_biases|^levit\."),
    (
        "EfficientNet",
        r"\.(se|squeeze_excite)\.(conv_reduce|fc1|reduce)|_depthwise_conv|^efficientnet",
    ),
    ("MobileNet", r"(blocks|features)\.\d+\.(\d+\.|conv\.|block\.)*(conv_pw|conv_dw|0\.0\.weight)"),
    ("DenseNet", r"denseblock\d"),
    ("VGG", r"^features\.\d+\.weight$"),
    ("ResNet", r"(^|\.)layer[1-4]\.\d+\.(conv|bn)\d|resnet\.|bottleneck"),
    ("text model", r"word_embeddings|token_embd|^(transformer\.)?wte\.|embed_tokens"),
    ("diffusion model", r"down_blocks\.\d|time_embed|diffusion_model"),
]


def family(names: Iterable[str]) -> str:
    """What a model is called that is no plain ViT.

    Returns:
        A name such as "Swin Transformer"; "" where none is recognised.

    Example:
        >>> from sparse_ist_tf.checkpoints.names.families import family
        >>> family(["layers.0.blocks.0.attn.relative_position_bias_table"])
        'Swin Transformer'
    """
    names = [re.sub(r"^((module|model|backbone|net)\.)+", "", name) for name in names]
    for called, pattern in _FAMILIES:
        if any(re.search(pattern, name) for name in names):
            return called
    return ""
