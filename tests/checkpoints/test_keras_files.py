"""Keras' own files of a ViT are read without deserialising a class, and match what Keras reads."""

import json
import shutil
import zipfile
from dataclasses import asdict

import h5py
import keras
import numpy as np
import pytest

from sparse_ist_tf.checkpoints.keras_files import (
    check_unfolded,
    parse_json,
    read_keras,
    read_weights_h5,
)
from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.encoder.bundle import stored_arrays
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.errors import RequestError

SMALL = {"image_size": 16, "patch_size": 4, "width": 64, "depth": 2, "num_heads": 1}
VARIANTS = [
    {},
    {"positions": "learned"},
    {"extra_tokens": 4, "positions": "learned"},
    {"extra_tokens": 1},
    {"class_token": False, "pool": "mean"},
    {"class_token": False, "extra_tokens": 3, "pool": "mean"},
    {"pre_norm": True},
    {"activation": "swiglu", "mlp_ratio": 2.5},
    {"depth": 11},  # block_10 comes after block_9, not after block_1
]


def randomised(**changes):
    model = ViT(ViTSpec(**SMALL | changes))
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape))
    return model


def assert_same(tensors, model):
    wanted = stored_arrays(model)
    assert tensors.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(tensors[key], value, err_msg=key)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_both_kinds_hold_what_the_model_has(changes, tmp_path):
    model = randomised(**changes)
    model.save(tmp_path / "e.keras")
    config, tensors, preprocessing = read_keras(tmp_path / "e.keras")
    assert config == asdict(model.spec)
    assert preprocessing == {}
    assert_same(tensors, model)

    model.save_weights(tmp_path / "e.weights.h5")
    config, tensors = read_weights_h5(tmp_path / "e.weights.h5")
    assert_same(tensors, model)
    assert config == asdict(model.spec)


@pytest.mark.parametrize("name", ["vit_pico", "vit_micro", "vit_tiny"])
def test_shapes_find_the_preset(name, tmp_path):
    """What no shape tells, such as vit_micro's three heads, comes from the preset of its sizes."""
    model = create_encoder(name)
    model.save_weights(tmp_path / "e.weights.h5")
    assert read_weights_h5(tmp_path / "e.weights.h5")[0] == asdict(model.spec)


def test_another_model_is_told(tmp_path):
    inputs = keras.Input((4,))
    other = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    other.save(tmp_path / "e.keras")
    with pytest.raises(RequestError, match=r"a Keras model of class Functional, not sparse_ist_tf"):
        read_keras(tmp_path / "e.keras")
    other.save_weights(tmp_path / "e.weights.h5")
    with pytest.raises(RequestError, match=r"not this library's ViT: no embed/kernel"):
        read_weights_h5(tmp_path / "e.weights.h5")


def test_a_lambda_in_the_configuration_is_never_made(tmp_path):
    """A .keras file can carry Python code for Lambda layers: ours is never deserialised."""
    made = tmp_path / "made"
    layer = keras.layers.Lambda(eval(f"lambda x: (open({str(made)!r}, 'w').close(), x)[1]"))
    spy = keras.Sequential([keras.Input((4,)), layer])
    spy.save(tmp_path / "spy.keras")
    made.unlink()
    keras.models.load_model(tmp_path / "spy.keras", safe_mode=False)(np.zeros((1, 4)))
    assert made.exists()  # Keras runs it when told to
    made.unlink()

    randomised().save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    config["config"]["activation"] = json.loads(spy.to_json())["config"]["layers"][-1]
    content["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "e.keras", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    config, _, _ = read_keras(tmp_path / "e.keras")
    assert isinstance(config["activation"], dict)  # data, which ViT then refuses
    with pytest.raises(RequestError, match="activation"):
        load_encoder(str(tmp_path / "e.keras"))
    assert not made.exists()


def test_links_and_odd_arrays_in_h5_are_not_followed(tmp_path):
    randomised().save_weights(tmp_path / "good.weights.h5")
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["numbers"] = np.ones((3, 3), np.float32)

    def spoil(file, how):
        if how == "external":
            file["layers"]["more"] = h5py.ExternalLink(str(secret), "/numbers")
        elif how == "soft":
            file["layers"]["more"] = h5py.SoftLink("/vars")
        elif how == "raw":
            raw = [(str(secret), 0, 36)]
            file["layers"].create_dataset("more", (3, 3), "f4", external=raw)
        elif how == "virtual":
            layout = h5py.VirtualLayout((3, 3), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "numbers", (3, 3))
            file["layers"].create_virtual_dataset("more", layout)
        elif how == "text":
            file["layers"]["more"] = "text"
        elif how == "loop":
            file["layers"]["more"] = file["layers"]
        elif how == "deep":
            file.create_group("/".join("a" * 20))

    for how in ("external", "soft", "raw", "virtual", "text", "loop", "deep"):
        path = tmp_path / f"{how}.weights.h5"
        shutil.copy(tmp_path / "good.weights.h5", path)
        with h5py.File(path, "r+") as file:
            spoil(file, how)
        with pytest.raises(RequestError, match=r"is a link|no plain array|nested as no") as caught:
            read_weights_h5(path)
        assert len(str(caught.value).splitlines()) == 1


def test_an_h5_bomb_is_refused_before_it_unfolds(tmp_path):
    path = tmp_path / "e.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("vars/0", (2**18, 2**14), "f4", chunks=(2**8, 2**8), compression="gzip")
    with pytest.raises(RequestError, match=r"\d+ bytes that unfold to 17179869184"):
        read_weights_h5(path)


def test_unfolding_is_refused_by_ratio_beyond_a_gibibyte():
    check_unfolded(2**30, 1, "w")
    check_unfolded(20 * 2**31, 2**31, "w")
    with pytest.raises(RequestError, match="w: 1 bytes that unfold to 1073741825"):
        check_unfolded(2**30 + 1, 1, "w")


def test_preprocessing_travels_beside_and_keras_still_loads_the_file(tmp_path):
    model = randomised()
    model.save(tmp_path / "plain.keras")
    path = shutil.copy(tmp_path / "plain.keras", tmp_path / "e.keras")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("preprocessing.json", json.dumps({"mean": [0.1, 0.2, 0.3]}))
    assert read_keras(path)[2] == {"mean": [0.1, 0.2, 0.3]}
    loaded = keras.models.load_model(path)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_json_that_is_nested_too_deeply_is_a_value_error():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
