"""The pretrain command on real digits."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from sparse_ist_tf.encoder.weights import load_encoder
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.pretrain import decoded_images, pretrain
from sparse_ist_tf.pretrain_config import get_config, validate


def _config(tmp_path):
    config = get_config()
    config.dataset.name = "digits"
    config.dataset.cache_dir = str(tmp_path / "images")
    config.preset, config.dtype = "vit_pico", "float32"
    config.augment = ("crop",)
    config.batch_size, config.total_steps, config.warmup_steps = 32, 20, 2
    config.log_every, config.eval_every, config.checkpoint_every = 10, 10, 10
    config.eval_images = 64
    return config


def test_digits_are_pre_trained_and_the_encoder_loads(tmp_path):
    record = pretrain(_config(tmp_path), tmp_path / "run")
    assert {"test_accuracy@0.0", "test_accuracy@0.5", "test_accuracy@0.75"} <= record.keys()
    encoder = load_encoder(str(tmp_path / "run" / "encoder.safetensors"))
    fresh = load_encoder("random:vit_pico")
    assert encoder.feature_dim == 96
    assert encoder.digest != fresh.digest
    again = pretrain(_config(tmp_path), tmp_path / "run")  # finished: nothing left to train
    assert again["step"] == 20


def test_images_are_decoded_once(tmp_path):
    split = datasets.load("digits")["test"]
    first = decoded_images(split, 64, tmp_path)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    second = decoded_images(split, 64, tmp_path)
    assert file.stat().st_mtime_ns == stamp
    assert np.array_equal(first, second)
    assert first.shape == (360, 64, 64, 3)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("objective", "gan", "objective='gan'"),
        ("schedule", "stairs", "schedule='stairs'"),
        ("batch_size", 0, "batch_size=0"),
        ("mask_ratios", (1.0,), "mask_ratios"),
        ("mask_probabilities", (0.5, 0.5, 0.5), "mask_probabilities"),
        ("label_smoothing", 1.5, "label_smoothing=1.5"),
    ],
)
def test_bad_settings_are_named(key, value, words):
    config = get_config()
    config[key] = value
    with pytest.raises(RequestError, match=words):
        validate(config)


@pytest.mark.parametrize("name", ["pretrain_vit_micro", "pretrain_vit_pico"])
def test_every_file_in_configs_is_valid(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    validate(config)
    assert config.preset == name.removeprefix("pretrain_")


def test_a_bad_request_is_one_line(tmp_path):
    command = [sys.executable, "-m", "sparse_ist_tf.pretrain", f"--workdir={tmp_path / 'run'}"]
    for arguments, words in (
        ([], "tiny-imagenet"),
        (["--config.preset=vit_giga"], "preset='vit_giga'"),
        (["--config.objective=gan"], "objective='gan'"),
        (["--config.mask_ratio=0.5"], "mask_ratio"),
    ):
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert words in done.stderr
    assert not (tmp_path / "run").exists()
