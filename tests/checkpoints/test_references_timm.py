"""Features equal timm's, for weights that it made and for those that we export to it."""

import functools
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.writing import export_to_timm, save_encoder
from sparse_ist_tf.encoder.positions import resample_positions
from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.encoder.vit import ViT

# Sizes that make a model small where its kind, not its size, is looked at.
TINY = {"embed_dim": 64, "depth": 3, "num_heads": 4}
NAMED = [
    ("vit_tiny_patch16_224", {}),
    ("vit_small_patch16_224", {}),
    ("deit_tiny_distilled_patch16_224", {}),
    ("vit_small_patch14_dinov2", {"img_size": 224}),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 224}),
    ("vit_base_patch16_224", {"depth": 4}),
    ("vit_base_patch16_clip_quickgelu_224", TINY | {"num_heads": 1}),
    ("vit_base_patch16_224", TINY | {"class_token": False, "global_pool": "avg"}),
    ("vit_base_patch16_224", TINY | {"global_pool": "avg"}),
    ("vit_base_patch16_224", TINY | {"global_pool": "avg", "fc_norm": False}),
    ("vit_giant_patch14_reg4_dinov2", TINY | {"img_size": 56, "mlp_ratio": 4}),
    ("vit_base_patch16_224", TINY | {"qkv_bias": False, "init_values": 1e-5}),
]


@pytest.fixture(scope="module")
def timm(torch):
    return pytest.importorskip("timm", reason="needs timm: the extra 'references'")


class Keep:
    """Stands in for timm's patch_drop: keeps the given patches of each image."""

    def __init__(self, torch, places, prefix):
        self.torch, self.places, self.prefix = torch, places, prefix

    def __call__(self, x):
        rows = self.torch.arange(len(x))[:, None]
        kept = x[:, self.prefix :][rows, self.torch.from_numpy(self.places).long()]
        return self.torch.cat([x[:, : self.prefix], kept], dim=1)


def their_outputs(torch, model, images, places):
    """(feature that goes to the head, all tokens after the final norm) of timm's model."""
    drop = model.patch_drop
    del model.patch_drop
    model.patch_drop = Keep(torch, places, model.num_prefix_tokens)
    try:
        with torch.no_grad():
            tokens = model.forward_features(torch.from_numpy(images))
            return model.forward_head(tokens, pre_logits=True).numpy(), tokens.numpy()
    finally:
        del model.patch_drop
        model.patch_drop = drop


def store_as_timm(model, name, arguments, folder):
    """The files that timm.save_for_hf writes: weights and a config.json."""
    save_file({k: v.numpy() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    config = {
        "architecture": name,
        "global_pool": model.global_pool,
        "model_args": arguments,
        "pretrained_cfg": {k: model.pretrained_cfg[k] for k in ("mean", "std", "crop_pct")},
    }
    (folder / "config.json").write_text(json.dumps(config))


def compare(torch, model, encoder, make_case, ratio, tolerance=1e-4):
    images, places, inputs = make_case(encoder.image_size, encoder.patch_size, ratio)
    feature, tokens = their_outputs(torch, model, images, places)
    ours = np.asarray(encoder.model.tokens(inputs))
    if encoder.model.spec.pool != "mean_norm":
        # timm's DeiT averages CLS and the distillation token for its head: tokens are compared.
        np.testing.assert_allclose(ours, tokens, rtol=0, atol=tolerance)
    assert np.abs(tokens).max() > 1
    if not hasattr(model, "head_dist"):
        ours = np.asarray(encoder.model(inputs))
        np.testing.assert_allclose(ours, feature, rtol=0, atol=tolerance)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75])
@pytest.mark.parametrize(("name", "arguments"), NAMED, ids=str)
def test_features_equal_timms(torch, timm, randomise, make_case, tmp_path, name, arguments, ratio):
    model = randomise(timm.create_model(name, num_classes=0, **arguments))
    store_as_timm(model, name, arguments, tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert encoder.mean == tuple(model.pretrained_cfg["mean"])
    compare(torch, model, encoder, make_case, ratio)


def test_another_scale_of_attention_equals_timms(torch, timm, randomise, make_case, tmp_path):
    model = randomise(timm.create_model("vit_base_patch16_224", num_classes=0, **TINY))
    for block in model.blocks:
        block.attn.scale, block.attn.fused_attn = 0.4, False
    store_as_timm(model, "vit_base_patch16_224", TINY | {"qk_scale": 0.4}, tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert "attention scores are scaled by 0.4: multiplied into the query" in encoder.notes
    compare(torch, model, encoder, make_case, 0.5)


@pytest.mark.parametrize(
    "name", ["vit_base_patch32_siglip_gap_256", "vit_base_patch16_siglip_gap_224"]
)
def test_activations_that_timms_code_alone_tells(torch, timm, randomise, make_case, tmp_path, name):
    arguments = TINY | {"img_size": 64}
    model = randomise(timm.create_model(name, num_classes=0, **arguments))
    store_as_timm(model, name, arguments, tmp_path)
    encoder = load_encoder(str(tmp_path))
    tanh = isinstance(model.blocks[0].mlp.act, timm.layers.GELUTanh)
    assert encoder.model.spec.activation == ("gelu_tanh" if tanh else "gelu")
    compare(torch, model, encoder, make_case, 0.5)


@pytest.mark.large
@pytest.mark.parametrize("name", ["vit_base_patch16_224", "deit_base_distilled_patch16_224"])
def test_features_equal_timms_at_full_size(torch, timm, randomise, make_case, tmp_path, name):
    model = randomise(timm.create_model(name, num_classes=0))
    store_as_timm(model, name, {}, tmp_path)
    for ratio in (0.0, 0.75):
        compare(torch, model, load_encoder(str(tmp_path)), make_case, ratio)


EXPORTS = [
    {},
    {"positions": "learned", "activation": "gelu_tanh"},
    {"extra_tokens": 4, "positions": "learned", "activation": "gelu"},
    {"activation": "swiglu", "mlp_ratio": 2.5},
    {"class_token": False, "pool": "mean"},
    {"pool": "mean_norm", "epsilon": 1e-5},
    {"pre_norm": True, "positions": "learned"},
]


@pytest.mark.parametrize("changes", EXPORTS, ids=str)
def test_timm_loads_what_is_exported_and_agrees(torch, timm, make_case, tmp_path, changes):
    sizes = {"image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "num_heads": 4}
    vit = ViT(ViTSpec(**sizes | changes))
    rng = np.random.default_rng(0)
    for variable in vit.trainable_variables:
        variable.assign(np.asarray(variable) + 0.1 * rng.standard_normal(variable.shape))
    save_encoder(tmp_path / "ours.safetensors", vit, dtype="float32")
    encoder = load_encoder(str(tmp_path / "ours.safetensors"))
    expression = export_to_timm(encoder, tmp_path / "timm.safetensors")
    known = {"timm": timm, "torch": torch, "functools": functools}
    model = eval(expression, known).eval()
    for ratio in (0.0, 0.5):
        compare(torch, model, encoder, make_case, ratio)


@pytest.mark.parametrize(("old", "new"), [(14, 10), (14, 24), (16, 37)])
def test_positions_are_resampled_as_timm_does(torch, timm, old, new):
    table = np.random.default_rng(0).standard_normal((old * old, 8)).astype(np.float32)
    theirs = timm.layers.resample_abs_pos_embed(
        torch.from_numpy(table[None]), (new, new), (old, old), num_prefix_tokens=0
    )
    np.testing.assert_allclose(resample_positions(table, new), theirs[0].numpy(), rtol=0, atol=1e-5)


def test_another_image_size_equals_timms(torch, timm, randomise, make_case, tmp_path):
    model = randomise(timm.create_model("vit_base_patch16_224", num_classes=0, **TINY))
    store_as_timm(model, "vit_base_patch16_224", TINY, tmp_path)
    large = timm.create_model("vit_base_patch16_224", num_classes=0, img_size=160, **TINY).eval()
    fitted = timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), large)
    large.load_state_dict(fitted)
    compare(torch, large, load_encoder(str(tmp_path), image_size=160), make_case, 0.5)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("member", ["model", None])
def test_what_torch_saves_is_read_as_it_is(torch, timm, randomise, tmp_path, legacy, member):
    model = randomise(timm.create_model("vit_base_patch16_224", num_classes=0, **TINY))
    content = model.state_dict() if member is None else {member: model.state_dict(), "epoch": 3}
    path = tmp_path / "w.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    save_file({k: v.numpy() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = [load_encoder(f"{tmp_path}/w.{kind}?num_heads=4") for kind in ("pth", "safetensors")]
    assert loaded[0].digest == loaded[1].digest
    half = {k: v.bfloat16().t() if v.ndim == 2 else v.half() for k, v in model.state_dict().items()}
    torch.save(half, path, _use_new_zipfile_serialization=not legacy)
    from sparse_ist_tf.checkpoints.torch_files import read_torch

    tensors, _ = read_torch(path)
    for key, value in half.items():
        np.testing.assert_array_equal(tensors[key].astype(np.float32), value.float().numpy())
