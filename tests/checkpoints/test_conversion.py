"""Weights come back bit for bit from timm's names, and what doesn't fit is listed."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sparse_ist_tf.checkpoints.conversion import from_timm, to_timm
from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.naming import named_tensors
from sparse_ist_tf.checkpoints.writing import export_to_timm, save_encoder
from sparse_ist_tf.encoder.bundle import stored_arrays
from sparse_ist_tf.encoder.presets import PRESETS, _listed, nearest_preset
from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.errors import RequestError

SMALL = {"image_size": 16, "patch_size": 4, "width": 64, "depth": 2, "num_heads": 4}
VARIANTS = [
    {},
    {"positions": "learned", "activation": "gelu"},
    {"extra_tokens": 4, "positions": "learned"},
    {"extra_tokens": 1, "activation": "gelu_tanh"},
    {"class_token": False, "pool": "mean", "positions": "learned"},
    {"class_token": False, "pool": "mean_norm", "positions": "learned"},
    {"pool": "mean"},
    {"pool": "mean_norm", "epsilon": 1e-5},
    {"activation": "swiglu", "mlp_ratio": 2.5},
]


def randomised(seed=3, **changes):
    model = ViT(ViTSpec(**SMALL | changes))
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        value = rng.standard_normal(variable.shape).astype(np.float32)
        value.flat[0] = -0.0  # adding zeros anywhere on the way would lose the sign
        variable.assign(value)
    return model


def assert_bits(tensors, model):
    wanted = stored_arrays(model)
    assert tensors.keys() == wanted.keys()
    for key, value in wanted.items():
        assert tensors[key].dtype == np.float32
        assert np.ascontiguousarray(tensors[key]).tobytes() == value.tobytes(), key


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_ours_to_timm_to_ours_is_bit_identical(changes, tmp_path):
    model = randomised(**changes)
    tensors, arguments = to_timm(model.spec, stored_arrays(model))
    assert all(array.flags["C_CONTIGUOUS"] for array in tensors.values())
    names = ("num_heads", "activation", "epsilon", "pool", "positions")
    settings = {name: getattr(model.spec, name) for name in names}
    config, back, _ = from_timm(named_tensors(tensors), settings)
    assert_bits(back, model)
    assert config == model.spec
    assert arguments["embed_dim"] == 64

    save_encoder(tmp_path / "ours.safetensors", model, (0.1, 0.2, 0.3), dtype="float32")
    encoder = load_encoder(str(tmp_path / "ours.safetensors"))
    export_to_timm(encoder, tmp_path / "timm.safetensors")
    again = load_encoder(str(tmp_path / "timm.safetensors"))
    assert_bits(stored_arrays(again.model), model)
    assert again.model.spec == model.spec
    assert again.preprocessing == encoder.preprocessing
    assert again.digest == encoder.digest


def test_a_norm_before_the_blocks_moves_the_bias_into_the_positions():
    """Timm's embedding has no bias then: the function stays, the split of it doesn't."""
    model = randomised(pre_norm=True, positions="learned")
    ours = stored_arrays(model)
    tensors, _ = to_timm(model.spec, ours)
    assert "patch_embed.proj.bias" not in tensors
    _, back, _ = from_timm(named_tensors(tensors), {"num_heads": 4, "positions": "learned"})
    np.testing.assert_array_equal(
        back["position_table"], ours["position_table"] + ours["embed/bias"]
    )
    assert not back["embed/bias"].any()


def timm_tensors(width=64, depth=2, patch=4, grid=4, hidden=256, prefix=1, seed=0):
    """A ViT's tensors in timm's names, random."""
    rng = np.random.default_rng(seed)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, grid**2 + prefix, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(depth):
        shapes |= {
            f"blocks.{i}.norm1.weight": (width,),
            f"blocks.{i}.norm1.bias": (width,),
            f"blocks.{i}.attn.qkv.weight": (3 * width, width),
            f"blocks.{i}.attn.qkv.bias": (3 * width,),
            f"blocks.{i}.attn.proj.weight": (width, width),
            f"blocks.{i}.attn.proj.bias": (width,),
            f"blocks.{i}.norm2.weight": (width,),
            f"blocks.{i}.norm2.bias": (width,),
            f"blocks.{i}.mlp.fc1.weight": (hidden, width),
            f"blocks.{i}.mlp.fc1.bias": (hidden,),
            f"blocks.{i}.mlp.fc2.weight": (width, hidden),
            f"blocks.{i}.mlp.fc2.bias": (width,),
        }
    return {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


def convert(tensors, **settings):
    return from_timm(named_tensors(tensors), {"num_heads": 4} | settings)


def test_architecture_is_read_off_the_shapes():
    spec, _, notes = convert(timm_tensors(hidden=160))
    assert dataclasses.asdict(spec) == {
        "image_size": 16,
        "patch_size": 4,
        "width": 64,
        "depth": 2,
        "num_heads": 4,
        "mlp_ratio": 2.5,
        "positions": "learned",
        "class_token": True,
        "extra_tokens": 0,
        "pool": "cls",
        "pre_norm": False,
        "activation": "gelu",
        "epsilon": 1e-6,
    }
    assert notes == []


def test_a_position_of_cls_is_added_to_it():
    tensors = timm_tensors()
    _, ours, _ = convert(tensors)
    position = tensors["pos_embed"][0]
    np.testing.assert_array_equal(ours["position_table"], position[1:])
    np.testing.assert_array_equal(ours["cls_token"][0, 0], tensors["cls_token"][0, 0] + position[0])


def test_layer_scale_goes_into_the_weights_before_it():
    tensors = timm_tensors()
    gamma = np.float32([2, 0.5] * 32)
    scaled = tensors | {f"blocks.{i}.ls{k}.gamma": gamma for i in (0, 1) for k in (1, 2)}
    _, plain, _ = convert(tensors)
    _, ours, notes = convert(scaled)
    for i in (0, 1):
        for part in ("proj", "fc2"):
            for kind in ("kernel", "bias"):
                key = f"block_{i}/{part}/{kind}"
                np.testing.assert_array_equal(ours[key], plain[key] * gamma)
        np.testing.assert_array_equal(ours[f"block_{i}/fc1/kernel"], plain[f"block_{i}/fc1/kernel"])
    assert notes == ["layer scale is multiplied into proj and fc2"]


def test_separate_query_key_and_value_are_joined():
    tensors = timm_tensors()
    split = {}
    for name, value in tensors.items():
        if ".attn.qkv." in name:
            for part, one in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                block, kind = name.split(".")[1], name.split(".")[-1]
                split[f"encoder.layer.{block}.attention.attention.{part}.{kind}"] = one
        else:
            split[name] = value
    _, ours, notes = convert(split)
    for key, value in convert(tensors)[1].items():
        np.testing.assert_array_equal(ours[key], value)
    assert notes == ["query, key and value are joined"]
    without = {
        k: v for k, v in split.items() if not k.endswith(("query.bias", "key.bias", "value.bias"))
    }
    _, ours, notes = convert(without)
    assert not ours["block_0/qkv/bias"].any()
    assert "query, key and value have no bias" in notes


def test_another_scale_of_attention_goes_into_the_query():
    tensors = timm_tensors()
    plain, (_, scaled, notes) = convert(tensors)[1], convert(tensors, qk_scale=0.5)
    factor = np.ones(192, np.float32)
    factor[:64] = 0.5 * 16**0.5
    for name, value in plain.items():
        expected = value * factor if "/qkv/" in name else value
        np.testing.assert_array_equal(scaled[name], expected, err_msg=name)
    assert notes == ["attention scores are scaled by 0.5: multiplied into the query"]
    with pytest.raises(RequestError, match="qk_scale=-1: must be a number above 0"):
        convert(tensors, qk_scale=-1)


def test_decoders_and_heads_are_left_out_knowingly():
    extra = {
        "mask_token": (1, 1, 32),
        "decoder_pos_embed": (1, 17, 32),
        "decoder_blocks.0.attn.qkv.weight": (96, 32),
        "head.weight": (10, 64),
        "head.bias": (10,),
    }
    tensors = timm_tensors() | {k: np.zeros(s, np.float32) for k, s in extra.items()}
    assert convert(tensors)[2] == [
        "left out: 3 weights of the decoder",
        "left out: 2 weights of the classifier",
    ]


def test_what_does_not_fit_is_listed_with_the_nearest_architecture():
    tensors = timm_tensors(width=192, depth=12, patch=16, grid=2, hidden=768)
    del tensors["blocks.3.norm1.bias"]
    tensors["blocks.0.attn.relative_position"] = np.zeros(3, np.float32)
    tensors["blocks.5.mlp.fc1.bias"] = np.zeros(5, np.float32)
    with pytest.raises(RequestError) as caught:
        convert(tensors)
    text = str(caught.value)
    assert "missing: blocks.3.norm1.bias;" in text
    assert "unexpected: blocks.0.attn.relative_position;" in text
    assert "misshapen: blocks.5.mlp.fc1.bias is (5,), not (768,)" in text
    assert "12 blocks of width 192 with patches of 16" in text
    assert text.endswith("the nearest known architecture is vit_tiny)")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda t: t.pop("patch_embed.proj.weight"), r"patch_embed.*is None"),
        (
            lambda t: t.update({"patch_embed.proj.weight": np.zeros((64, 3, 4, 5), np.float32)}),
            r"must be \[width, 3, size, size\], is \(64, 3, 4, 5\)",
        ),
        (
            lambda t: t.update({"patch_embed.proj.weight": np.zeros((64, 1, 4, 4), np.float32)}),
            "patch_embed",
        ),
        (
            lambda t: [t.pop(k) for k in list(t) if k.startswith("blocks.")],
            "no weights of transformer blocks",
        ),
        (
            lambda t: t.update(pos_embed=np.zeros((1, 19, 64), np.float32)),
            "pos_embed has 19 rows: no square grid of patches behind 0 or 1",
        ),
        (lambda t: t.pop("pos_embed"), "missing: pos_embed"),
        (
            lambda t: t.update({"module.norm.bias": np.zeros(64, np.float32)}),
            r"norm\.bias and module\.norm\.bias are the same weight",
        ),
        (
            lambda t: t.update({"blocks.7.norm1.bias": np.zeros(64, np.float32)}),
            r"missing: .*blocks\.2",
        ),
    ],
)
def test_strange_tensors_are_told(spoil, told):
    tensors = timm_tensors()
    spoil(tensors)
    with pytest.raises(RequestError, match=told) as caught:
        convert(tensors)
    assert len(str(caught.value).splitlines()) == 1


def test_heads_that_nobody_knows_must_be_given():
    tensors = timm_tensors(width=96, hidden=96)
    with pytest.raises(RequestError, match="num_heads is not known of a ViT of width 96"):
        from_timm(named_tensors(tensors), {})
    assert from_timm(named_tensors(tensors), {"num_heads": 3})[0].num_heads == 3
    assert from_timm(named_tensors(timm_tensors(width=128)), {})[0].num_heads == 2


def test_a_table_of_sincos_positions_is_recognised():
    model = randomised()
    tensors, _ = to_timm(model.spec, stored_arrays(model))
    assert convert(tensors)[0].positions == "sincos"
    tensors["pos_embed"] = tensors["pos_embed"].copy()
    tensors["pos_embed"][0, 5, 5] += 1e-6
    assert convert(tensors)[0].positions == "learned"


def test_the_exported_file_is_plain_safetensors_with_the_settings_beside(tmp_path):
    path = tmp_path / "t.safetensors"
    text = export_to_timm(load_encoder("random:vit_micro"), path)
    assert text.startswith("timm.create_model('vit_base_patch16_224', checkpoint_path=")
    assert "num_heads=3" in text
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["sparse_ist_tf"])["num_heads"] == 3
    save_file(load_file(path), path)  # without them, as another tool would store it
    with pytest.raises(RequestError, match="activation"):
        load_encoder(str(path), activation="relu")
    plain = load_encoder(str(path), activation="quick_gelu")
    assert_bits(stored_arrays(plain.model), load_encoder("random:vit_micro").model)


def test_nearest_preset_of_every_preset_is_itself():
    for name, preset in PRESETS.items():
        sizes = (preset.width, preset.depth, preset.patch_size)
        assert nearest_preset(*sizes) == name


def test_long_lists_are_cut():
    assert _listed("missing", list("abcdefghijk")) == "missing: a, b, c, d, e, f, g, h and 3 more"
    assert _listed("missing", ["a"]) == "missing: a"


def test_a_feature_that_timm_does_not_have_is_refused(tmp_path):
    path = tmp_path / "timm.safetensors"
    with pytest.raises(RequestError, match=r"cls_mean.*timm"):
        export_to_timm(load_encoder("random:vit_pico", pool="cls_mean"), path)
    assert not path.exists()
