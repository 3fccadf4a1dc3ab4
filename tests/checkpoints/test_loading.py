"""Encoders from wherever a user names them, and the command that exports them."""

import hashlib
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from sparse_ist_tf.checkpoints.loading import PACKAGED, load_configured, load_encoder
from sparse_ist_tf.checkpoints.writing import export_to_keras, export_to_timm, save_encoder
from sparse_ist_tf.encoder.bundle import (
    Preprocessing,
    make_encoder,
    resized,
    stored_arrays,
)
from sparse_ist_tf.encoder.positions import resample_positions, sincos_positions
from sparse_ist_tf.encoder.presets import PRESETS, create_encoder
from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.errors import RequestError, RunError


def features(encoder, seed=0, visible=16):
    """Features of two random images."""
    rng = np.random.default_rng(seed)
    pixels = 3 * encoder.patch_size**2
    patches = rng.standard_normal((2, visible, pixels)).astype(np.float32)
    places = np.stack([rng.permutation(encoder.num_patches)[:visible] for _ in range(2)])
    inputs = {"patches": patches, "positions": places.astype(np.int32)}
    return keras.ops.convert_to_numpy(keras.ops.cast(encoder.model(inputs), "float32"))


@pytest.fixture(scope="module")
def micro():
    return load_encoder("packaged:vit_micro")


@pytest.mark.parametrize("name", ["vit_micro", "vit_micro_sensor"])
def test_packaged_weights_are_those_of_their_card(name):
    micro = load_encoder(f"packaged:{name}")
    card = (PACKAGED / f"{name}.md").read_text()
    count = int(re.search(r"([\d,]+) parameters", card)[1].replace(",", ""))
    assert micro.model.count_params() == count
    size = os.path.getsize(PACKAGED / f"{name}.safetensors")
    assert f"({size / 1e6:.1f} MB)" in card
    depth, heads = re.search(r"(\d+) blocks, (\d+) heads", card).groups()
    assert (micro.model.spec.depth, micro.model.spec.num_heads) == (int(depth), int(heads))
    assert f"width {micro.feature_dim}" in card.lower()
    assert (
        f"{micro.image_size} x {micro.image_size} pixels in patches of {micro.patch_size}" in card
    )
    assert micro.model.spec == PRESETS["vit_micro"]
    assert micro.mean == micro.std == (0.5, 0.5, 0.5)
    assert "licence" in card


def test_packaged_weights_tell_images_apart(micro):
    """Trained weights see one picture in two masks of it: noise would not."""
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images  # a temple and a flower
    rng = np.random.default_rng(0)
    out = []
    for image in images:
        for row in range(2):
            crop = np.asarray(image[40 + 20 * row :, 100 + 20 * row :][:320:5, :320:5], np.float32)
            grid = (crop / 127.5 - 1).reshape(8, 8, 8, 8, 3).transpose(0, 2, 1, 3, 4)
            places = rng.permutation(64)[:32].astype(np.int32)
            patches = grid.reshape(64, 192)[places]
            out.append(
                np.asarray(micro.model({"patches": patches[None], "positions": places[None]}))[0]
            )
    out = np.stack(out)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    alike = out @ out.T
    assert min(alike[0, 1], alike[2, 3]) > alike[:2, 2:].max() + 0.1


def test_same_seed_same_weights_and_digest():
    one, same = load_encoder("random:vit_pico"), load_encoder("random:vit_pico")
    other = load_encoder("random:vit_pico?seed=1")
    assert one.digest == same.digest != other.digest
    np.testing.assert_array_equal(features(one), features(same))
    assert np.abs(features(one) - features(other)).max() > 0.01


def test_digest_is_of_weights_and_architecture_and_not_of_the_dtype():
    digests = {
        load_encoder("random:vit_pico").digest,
        load_encoder("random:vit_pico", dtype="bfloat16").digest,
    }
    assert len(digests) == 1
    assert load_encoder("random:vit_pico", pool="mean").digest not in digests


def test_bfloat16_is_computed_in_and_close(micro):
    low = load_encoder("packaged:vit_micro", dtype="bfloat16")
    inputs = {
        "patches": np.zeros((1, 4, 192), np.float32),
        "positions": np.zeros((1, 4), np.int32),
    }
    assert keras.backend.standardize_dtype(low.model(inputs).dtype) == "bfloat16"
    exact, close = features(micro), features(low)
    assert np.linalg.norm(close - exact) < 0.05 * np.linalg.norm(exact)
    assert low.digest == micro.digest


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_stored_comes_back(tmp_path, dtype):
    encoder = load_encoder("random:vit_pico")
    path = tmp_path / "e.safetensors"
    save_encoder(
        path, encoder.model, (0.1, 0.2, 0.3), (1, 2, 3), dtype=dtype, extra_metadata={"by": "me"}
    )
    again = load_encoder(str(path))
    assert (again.mean, again.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    for key, value in stored_arrays(encoder.model).items():
        np.testing.assert_array_equal(
            stored_arrays(again.model)[key], value.astype(dtype).astype(np.float32)
        )
    assert "position_table" not in load_file(path)
    if dtype == "float32":
        assert again.digest == encoder.digest


def test_what_can_not_be_stored_leaves_the_old_file(tmp_path):
    path = tmp_path / "e.safetensors"
    encoder = load_encoder("random:vit_pico")
    save_encoder(path, encoder.model)
    before = hashlib.sha256(path.read_bytes()).digest()
    encoder.model.norm.scale.assign(np.full(96, 1e6))
    with pytest.raises(ValueError, match="norm/scale: not every weight is a finite float16"):
        save_encoder(path, encoder.model)
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert os.listdir(tmp_path) == ["e.safetensors"]
    with pytest.raises(ValueError, match="dtype='int8'"):
        save_encoder(path, encoder.model, dtype="int8")


def test_another_image_size_resamples_the_positions_and_says_so(caplog):
    small = load_encoder("random:vit_pico")
    large = load_encoder("random:vit_pico", image_size=96)
    assert large.image_size == 96
    assert large.num_patches == 144
    said = "position embeddings are resampled (bicubic) from 64 to 96 px"
    assert said in large.notes
    assert said in large.describe()
    np.testing.assert_array_equal(
        stored_arrays(large.model)["position_table"],
        resample_positions(sincos_positions(8, 96), 12),
    )
    np.testing.assert_array_equal(
        stored_arrays(large.model)["block_3/fc1/kernel"],
        stored_arrays(small.model)["block_3/fc1/kernel"],
    )
    assert small.notes == ()
    for size in (90, 0, -8):
        with pytest.raises(RequestError, match=f"image_size={size}: must be a multiple of"):
            load_encoder("random:vit_pico", image_size=size)


def test_resized_leaves_its_arguments_alone():
    model = create_encoder("vit_pico", positions="learned")
    spec, tensors = model.spec, stored_arrays(model)
    before = tensors["position_table"].copy()
    new_spec, new_tensors, _ = resized(spec, tensors, 32)
    assert (spec.image_size, new_spec.image_size) == (64, 32)
    np.testing.assert_array_equal(tensors["position_table"], before)
    assert new_tensors["position_table"].shape == (16, 96)
    assert resized(spec, tensors, 64) == (spec, tensors, [])


@pytest.mark.parametrize("name", ["vit_pico", "vit_micro", "vit_tiny"])
def test_shapes_are_known_before_the_model_is_made(name):
    for changes in ({}, {"positions": "learned", "extra_tokens": 3, "activation": "swiglu"}):
        model = create_encoder(name, **changes)
        shapes = {key: value.shape for key, value in stored_arrays(model).items()}
        assert model.spec.weight_shapes() == shapes
    headless = ViT(ViTSpec(16, 4, 8, 1, 2, class_token=False, pool="mean", pre_norm=True))
    shapes = {key: value.shape for key, value in stored_arrays(headless).items()}
    assert headless.spec.weight_shapes() == shapes


def test_settings_that_are_given_win(tmp_path):
    model = create_encoder("vit_micro")
    save_encoder(tmp_path / "e.safetensors", model)
    encoder = load_encoder(
        f"{tmp_path}/e.safetensors?num_heads=6&epsilon=1e-5",
        activation="gelu",
        pool="mean",
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    found = encoder.model.spec
    assert (found.num_heads, found.activation) == (6, "gelu")
    assert (found.epsilon, found.pool) == (1e-5, "mean")
    assert (encoder.mean, encoder.std) == ((0.0,) * 3, (1.0,) * 3)


def test_an_encoder_of_a_configuration(tmp_path):
    nothing = {"image_size": 0, "activation": "", "pool": ""}
    weights = "random:vit_pico?epsilon=1e-5"
    config = ConfigDict({"weights": weights, "dtype": "float32", "batch_size": 64})
    config.update(nothing | {"mean": (), "std": ()})
    plain = load_encoder(weights)
    assert load_configured(config).digest == plain.digest
    assert load_configured({"weights": weights}).digest == plain.digest
    config.update({"image_size": 96, "pool": "mean", "mean": (0.1, 0.2, 0.3)})
    other = load_configured(config)
    assert (other.image_size, other.model.spec.pool, other.model.spec.epsilon) == (96, "mean", 1e-5)
    assert other.mean == (0.1, 0.2, 0.3)


def test_settings_of_the_configuration_beside_are_read_and_printed(tmp_path):
    encoder = load_encoder("random:vit_pico")
    export_to_timm(encoder, tmp_path / "model.safetensors")
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    config = {
        "model_type": "vit",
        "num_attention_heads": 3,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-12,
    }
    images = {
        "do_normalize": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "do_center_crop": True,
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
        "resample": 3,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    found = load_encoder(str(tmp_path))
    assert found.preprocessing == Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.875, "bicubic")
    text = found.describe()
    for part in ("3 heads", "gelu_tanh", "1e-12", "0.1, 0.2, 0.3", "0.875", "bicubic"):
        assert part in text
    timm = {
        "architecture": "vit_tiny_patch16_224",
        "global_pool": "avg",
        "model_args": {"num_heads": 3, "act_layer": "quick_gelu"},
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9},
    }
    (tmp_path / "config.json").write_text(json.dumps(timm))
    found = load_encoder(str(tmp_path))
    assert (found.model.spec.pool, found.model.spec.activation) == ("mean", "quick_gelu")
    assert found.preprocessing.crop_fraction == 0.9
    timm["model_args"] = {"num_heads": 3}
    for name, activation in (
        ("vit_so400m_patch16_siglip_gap_384", "gelu_tanh"),
        ("vit_so400m_patch14_siglip_gap_378", "gelu"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(timm | {"architecture": name}))
        assert load_encoder(str(tmp_path)).model.spec.activation == activation
    timm["architecture"] = "vit_base_patch16_rpn_224"
    (tmp_path / "config.json").write_text(json.dumps(timm))
    with pytest.raises(RequestError, match="normalise after attention and MLP"):
        load_encoder(str(tmp_path))


def test_assumed_preprocessing_is_said(tmp_path):
    export_to_timm(load_encoder("random:vit_pico"), tmp_path / "t.safetensors")
    path = tmp_path / "plain.safetensors"
    save_file(load_file(tmp_path / "t.safetensors"), path)
    encoder = load_encoder(f"{path}?num_heads=3")
    assert encoder.mean == (0.485, 0.456, 0.406)
    assert "mean and std are ImageNet's: none are stated" in encoder.describe()


@pytest.mark.parametrize(
    ("weights", "given", "told"),
    [
        ("packaged:vit_nano", {}, "no such packaged weights; there are: vit_micro"),
        ("random:vit_nano", {}, "random:='vit_nano': must be one of vit_pico"),
        ("ftp:somewhere", {}, "must be packaged:NAME, random:PRESET"),
        ("", {}, "."),
        ("random:vit_pico", {"dtype": "float8"}, "dtype='float8': must be one of float32"),
        ("random:vit_pico", {"activation": "relu"}, "activation='relu'"),
        ("random:vit_pico", {"pool": "max"}, "pool='max'"),
        ("random:vit_pico?num_heads=5", {}, "num_heads=5"),
        ("random:vit_pico?num_heads=0", {}, "num_heads=0: must be a whole number above 0"),
        ("random:vit_pico?num_heads=1.5", {}, "num_heads=1.5: must be a whole number above 0"),
        ("packaged:vit_pico?seed=1", {}, "seed=1: must not be given"),
        ("random:vit_pico?heads=3", {}, "?heads=3: must be num_heads, qk_scale, epsilon, seed"),
        ("random:vit_pico?", {}, "?: must be num_heads"),
        ("random:vit_pico", {"mean": (1, 2)}, "must be three each"),
        ("random:vit_pico", {"std": (1, 0, 1)}, "stds positive"),
        ("random:vit_pico?epsilon=0.0", {}, "epsilon=0.0: must be a number above 0"),
        ("random:vit_pico?epsilon=nan", {}, "epsilon=nan: must be a number above 0"),
        ("random:vit_pico?qk_scale=0.1", {}, "qk_scale=0.1: must not be given"),
    ],
)
def test_what_can_not_be_met_is_one_line(weights, given, told):
    with pytest.raises(RequestError, match=re.escape(told)) as caught:
        load_encoder(weights, **given)
    assert str(caught.value).startswith(f"encoder.weights={weights!r}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "module"), [("hf", "huggingface_hub"), ("keras_hub", "keras_hub")]
)
def test_a_hub_without_its_extra_is_told(source, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RequestError, match=rf"needs {module}.*pip install 'sparse-ist-tf\["):
        load_encoder(f"{source}:someone/something")


def test_huggingface_hub_offline_reads_its_cache_only(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    encoder = load_encoder("random:vit_pico")
    snapshot = tmp_path / "hub/models--someone--vit/snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "hub/models--someone--vit/refs").mkdir()
    (tmp_path / "hub/models--someone--vit/refs/main").write_text("0" * 40)
    export_to_timm(encoder, snapshot / "model.safetensors")
    code = """
import sys
from sparse_ist_tf.checkpoints.loading import load_encoder
for name in sys.argv[1:]:
    try:
        print(load_encoder(name).digest)
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "hf:someone/vit", "hf:someone/other", "hf:../x y"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == encoder.digest, done.stderr
    assert lines[1].startswith("RunError hf:someone/other: not in the cache"), lines[1]
    assert lines[2].startswith("RequestError"), lines[2]
    assert len(lines) == 3


def test_a_damaged_weight_is_not_half_loaded():
    model = create_encoder("vit_pico", depth=1)
    tensors = stored_arrays(model)
    for spoiled in (
        {k: v for k, v in tensors.items() if k != "cls_token"},
        tensors | {"more": np.zeros(1, np.float32)},
        tensors | {"cls_token": np.zeros((1, 96), np.float32)},
        tensors | {"cls_token": np.full((1, 1, 96), np.nan, np.float32)},
    ):
        with pytest.raises(RequestError, match=r"cls_token|more"):
            make_encoder(model.spec, spoiled, name="mine")


def test_export_to_an_unwritable_place_is_a_run_error(tmp_path):
    encoder = load_encoder("random:vit_pico")
    (tmp_path / "file").write_text("")
    for export, suffix in ((export_to_timm, "safetensors"), (export_to_keras, "keras")):
        with pytest.raises(RunError, match=rf"e\.{suffix} can't be written: "):
            export(encoder, tmp_path / f"file/e.{suffix}")
    with pytest.raises(RunError, match="can't be written: "):
        save_encoder(tmp_path / "file/e.safetensors", encoder.model)
