"""The pretrain command on real digits."""

import dataclasses
import importlib
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.decoded import decoded_images
from sparse_ist_tf.pretrain import _check_preset, _load_images, pretrain
from sparse_ist_tf.pretrain_config import completed, get_config, validate
from sparse_ist_tf.pretraining.tensorflow_run import Pretraining
from sparse_ist_tf.reports.checkpoint_file import read_checkpoint
from sparse_ist_tf.reports.run_directory import RunDirectory
from tests.fixtures.presets import SMALL_PRESET


def _config(tmp_path):
    config = get_config()
    config.dataset.name = "digits"
    config.dataset.cache_dir = str(tmp_path / "images")
    config.preset, config.dtype = SMALL_PRESET, "float32"
    config.augment = ("crop",)
    config.batch_size, config.total_steps, config.warmup_steps = 32, 20, 2
    config.log_every, config.eval_every, config.checkpoint_every = 10, 10, 10
    config.eval_images = 64
    return config


@pytest.mark.usefixtures("small_preset")
def test_digits_are_pre_trained_and_the_encoder_loads(tmp_path):
    record = pretrain(_config(tmp_path), tmp_path / "run")
    assert {"test_accuracy@0.0", "test_accuracy@0.5", "test_accuracy@0.75"} <= record.keys()
    encoder = load_encoder(str(tmp_path / "run" / "encoder.safetensors"))
    assert encoder.feature_dim == 32
    assert "(pretraining.svg)" in (tmp_path / "run" / "report.md").read_text()
    again = pretrain(_config(tmp_path), tmp_path / "run")  # finished: nothing left to train
    assert again == record


MAE = {
    "dataset.name": "digits",
    "preset": SMALL_PRESET,
    "dtype": "float32",
    "decoder.width": 32,
    "decoder.depth": 1,
    "decoder.num_heads": 2,
    "batch_size": 16,
    "learning_rate": 4e-3,
    "warmup_steps": 2,
    "total_steps": 6,
    "log_every": 3,
    "eval_every": 3,
    "checkpoint_every": 3,
    "probe.images": 100,
    "probe.every": 6,
}


MAE_FILE = """
from configs.pretrain_mae import get_config
from tests.fixtures.presets import register
register()
"""


def _mae_config(settings):
    config = importlib.import_module("configs.pretrain_mae").get_config()
    config.update_from_flattened_dict(settings)
    return config


def _mae_command(folder, settings):
    (folder / "settings.py").write_text(MAE_FILE)
    command = [sys.executable, "-m", "sparse_ist_tf.pretrain", f"--config={folder}/settings.py"]
    return [*command, *(f"--config.{key}={value}" for key, value in settings.items())]


@pytest.mark.usefixtures("small_preset")
def test_two_workers_go_on_from_one_and_end_as_one(tmp_path):
    """The second half of a run by two processes, against the whole by one."""
    settings = MAE | {"dataset.cache_dir": str(tmp_path / "images")}
    config, one, two = _mae_config(settings), tmp_path / "one", tmp_path / "two"
    pretrain(config, one)
    half = Pretraining(config, _load_images(config), two)
    for batch in half.batches():
        half.train_step(*batch)
        if half.step == 3:
            break
    half.save()
    command = [*_mae_command(tmp_path, settings), f"--workdir={two}", "--num_workers=2"]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{SMALL_PRESET} on digits, from step 3" in done.stdout
    assert "[worker 1]" not in done.stdout, "the chief alone reports"
    states = [load_file(folder / "checkpoint.safetensors") for folder in (one, two)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=0, atol=1e-4, err_msg=name)
    a, b = (RunDirectory(folder).metrics()[-1] for folder in (one, two))
    assert a.keys() == b.keys()
    for key in a.keys() - {"images_per_s"}:
        assert b[key] == pytest.approx(a[key], abs=3e-2 if "linear" in key else 1e-3)


@pytest.mark.usefixtures("small_preset")
def test_other_images_are_refused(tmp_path):
    config = _config(tmp_path)
    config.total_steps = 4
    run = Pretraining(config, _load_images(config), tmp_path / "run")
    run.save()
    other = dataclasses.replace(run.images, fingerprint="ab")
    with pytest.raises(RequestError, match="made of other images; give --workdir another"):
        Pretraining(config, other, tmp_path / "run")
    assert Pretraining(config, run.images, tmp_path / "run").step == 0


@pytest.mark.large
@pytest.mark.usefixtures("small_preset")
def test_stopped_by_a_signal_it_goes_on_to_the_same_weights(tmp_path):
    steps = {"total_steps": 30, "log_every": 1, "eval_every": 1, "checkpoint_every": 30}
    settings = MAE | steps | {"dataset.cache_dir": str(tmp_path / "images"), "probe.every": 30}
    config, one, two = _mae_config(settings), tmp_path / "one", tmp_path / "two"
    pretrain(config, one)
    command = _mae_command(tmp_path, settings)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    process = subprocess.Popen(
        [*command, f"--workdir={two}", "--num_workers=2"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not process.stdout.readline().startswith("step 2 "):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 143, err
    stopped = int(re.search(r"^stopped by SIGTERM after step (\d+);", err, re.MULTILINE)[1])
    assert read_checkpoint(two / "checkpoint.safetensors")[1]["step"] == stopped < 30
    pretrain(config, two)
    states = [load_file(folder / "checkpoint.safetensors") for folder in (one, two)]
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=0, atol=1e-3, err_msg=name)
    assert [line["step"] for line in RunDirectory(two).metrics()] == list(range(31))


def test_images_are_decoded_once(tmp_path):
    split = datasets.load("digits")["test"]
    first = decoded_images(split, 64, tmp_path)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    second = decoded_images(split, 64, tmp_path)
    assert file.stat().st_mtime_ns == stamp
    assert np.array_equal(first, second)
    assert first.shape == (360, 64, 64, 3)


def test_decoded_images_that_are_damaged_are_made_again(tmp_path, capsys):
    split = datasets.load("digits")["test"]
    first = np.array(decoded_images(split, 8, tmp_path))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    other = io.BytesIO()
    np.save(other, first[:-1])
    for damage in (b"", whole[:-1], whole[:90], b"\x00" * 200, other.getvalue()):
        file.write_bytes(damage)
        assert np.array_equal(decoded_images(split, 8, tmp_path), first)
        assert f"warning: {file} is damaged and not used\n" in capsys.readouterr().err
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("objective", "gan", "objective='gan'"),
        ("schedule", "stairs", "schedule='stairs'"),
        ("batch_size", 0, "batch_size=0"),
        ("mask_ratios", (1.0,), "mask_ratios"),
        ("mask_probabilities", (0.5, 0.5, 0.5), "mask_probabilities"),
        ("start_share", 0.5, "start_share=0.5: must be 0.0, it is used only where weights is set"),
        ("start_share", 1.5, "start_share=1.5: must be in"),
        ("image_sizes", (64, 128), r"size_probabilities=\(\): must be one share per image_sizes"),
        ("sensor_sizes", (32,), r"sensor_probabilities=\(\): must be one share per sensor_sizes"),
        ("masks.grid", "scale", "masks.grid='scale': must be one of sensor, scaled"),
        ("label_smoothing", 1.5, "label_smoothing=1.5"),
        ("crop_area", 0.0, "crop_area=0.0"),
        ("mix_probability", 1.1, "mix_probability=1.1"),
        ("projector", -1, "projector=-1"),
        (
            "teacher",
            "runs/a",
            "teacher='runs/a': .* objective is supervised and distillation",
        ),
        ("decoder.depth", 3, "decoder.depth=3: must be 2, it is used only where objective is mae"),
        ("decay", -0.1, r"decay=-0.1: must be in \[0, 1\]"),
        ("mix_probability", 0.7, "mix_probability=0.7: .* where augment is mixup or cutmix"),
        ("probe.images", 9, "probe.images=9: .* where probe.every is set"),
        ("optimizer.kwargs", {"use_ema": True}, "use_ema must be one of adam_beta_1"),
        ("learning_rate", 0.0, "learning_rate=0.0"),
        ("probe.every", -1, "probe.every=-1"),
        ("probe.mask_ratios", (1.0,), "probe.mask_ratios"),
        ("decoder.num_heads", 7, "decoder.num_heads=7"),
    ],
)
def test_bad_settings_are_named(key, value, words):
    config = get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(RequestError, match=words):
        validate(config)


def test_workers_have_equal_parts_of_a_batch():
    with pytest.raises(RequestError, match="batch_size=256: must be a multiple of num_workers=3"):
        validate(get_config(), num_workers=3)
    with pytest.raises(RequestError, match="num_workers=0"):
        validate(get_config(), num_workers=0)


def test_mixed_images_come_in_pairs():
    config = get_config()
    config.augment, config.batch_size = ("flip", "cutmix"), 250
    validate(config)
    with pytest.raises(RequestError, match=r"batch_size=250: must be a multiple of 4.*cutmix"):
        validate(config, num_workers=2)


def test_a_ratio_that_leaves_no_patch_is_named():
    config = get_config()
    config.mask_ratios = (0.999, 0.5, 0.0)
    with pytest.raises(RequestError, match=r"mask ratio of 0\.999 for vit_micro"):
        _check_preset(config)


def test_sizes_that_cannot_be_are_named():
    config = get_config()
    config.image_sizes, config.size_probabilities = (64, 100), (0.5, 0.5)
    with pytest.raises(RequestError, match="image_sizes has 100: must be a multiple of 8"):
        _check_preset(config)
    config.image_sizes = (64, 8)
    with pytest.raises(RequestError, match=r"mask ratio of 0\.75 for vit_micro"):
        _check_preset(config)
    for sizes, odds in (((64, 64), (0.5, 0.5)), ((64, 128), (0.5, 0.6)), ((64,), (-1.0,))):
        config.image_sizes, config.size_probabilities = sizes, odds
        with pytest.raises(RequestError, match="size_probabilities="):
            validate(config)
    config.objective, config.image_sizes, config.size_probabilities = "mae", (128,), (1.0,)
    config.mask_ratios = (0.75, 0.5, 0.25)
    with pytest.raises(RequestError, match="must be empty with objective='mae'"):
        validate(config)


@pytest.mark.parametrize(
    ("sizes", "sensors", "grid", "words"),
    [
        ((), (65,), "sensor", "sensor_sizes has 65: must be 8, .* of 64 px, to 64, the images of"),
        ((), (7,), "sensor", "sensor_sizes has 7: must be 8"),
        ((), (65,), "scaled", "sensor_sizes has 65: must be 1"),
        ((64, 128), (8,), "sensor", "sensor_sizes has 8: must be 16, .* of 128 px"),
        ((1024,), (), "sensor", "sensor_sizes has 64: must be 128"),
    ],
)
def test_sensors_that_cannot_be_are_named(sizes, sensors, grid, words):
    config = get_config()
    config.image_sizes, config.sensor_sizes, config.masks.grid = sizes, sensors, grid
    with pytest.raises(RequestError, match=words):
        _check_preset(config)


def test_stored_configurations_of_before_scaled_first():
    stored = get_config().to_dict()
    del stored["masks"]
    assert completed(stored).masks.grid == "scaled"
    assert completed(get_config().to_dict()).masks.grid == "sensor"
    for name in ("vit_micro", "vit_micro_sizes", "vit_pico"):  # as the packaged weights were made
        config = importlib.import_module(f"configs.pretrain_{name}").get_config()
        assert config.masks.grid == "scaled"


@pytest.mark.parametrize(
    "name", ["vit_micro", "vit_micro_sizes", "vit_micro_sensor", "vit_pico", "mae"]
)
def test_every_file_in_configs_is_valid(name):
    config = importlib.import_module(f"configs.pretrain_{name}").get_config()
    validate(config, num_workers=8)
    _check_preset(config)
    presets = {"mae": "vit_base", "vit_micro_sizes": "vit_micro"}
    presets["vit_micro_sensor"] = "vit_micro"
    assert config.preset == presets.get(name, name)


def test_a_bad_request_is_one_line(tmp_path):
    command = [sys.executable, "-m", "sparse_ist_tf.pretrain", f"--workdir={tmp_path / 'run'}"]
    for arguments, words in (
        ([], "tiny-imagenet"),
        (["--config.mask_ratio=0.5"], "mask_ratio"),
    ):
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert words in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("jax") is not None, reason="jax is there")
def test_a_backend_that_is_not_installed_is_named(tmp_path):
    command = [sys.executable, "-m", "sparse_ist_tf.pretrain", f"--workdir={tmp_path / 'run'}"]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr == "error: KERAS_BACKEND: No module named 'jax'; pip install jax\n"
