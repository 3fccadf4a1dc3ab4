"""Under JAX, pre-training takes the steps that it takes under TensorFlow, and resumes."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.pretrain_config import get_config
from sparse_ist_tf.pretraining.tensorflow_run import Pretraining

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="needs jax: pip install jax"
)
_ENVIRONMENT = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
_RUNS = """
import json, sys
import numpy as np
from ml_collections import ConfigDict
from sparse_ist_tf.pretraining.data import Images
from sparse_ist_tf.pretraining.jax_run import JaxPretraining

class Killed(Exception):
    pass

images = Images(**np.load(sys.argv[1]), num_classes=2)
for run in json.loads(sys.argv[2]):
    def report(record):
        if record["step"] == run["killed_at"]:
            raise Killed
    config = ConfigDict(run["config"])
    try:
        one = JaxPretraining(config, images, run["workdir"])
        one.train(report)
        if config.start_share:
            one.average(print)
    except Killed:
        JaxPretraining(config, images, run["workdir"]).train(print)
"""


def _config(**changes):
    config = get_config()
    config.preset, config.dtype = "vit_pico", "float32"
    config.optimizer.name, config.optimizer.kwargs = "adamw", {"weight_decay": 0.05}
    config.learning_rate, config.warmup_steps, config.batch_size = 1e-3, 2, 16
    config.eval_mask_ratios, config.eval_images = (0.0, 0.5), 32
    config.update(changes)
    return config


def _without_chance(teacher=""):
    """Nothing hidden, nothing augmented: both see the same, by small sensors, on both grids."""
    return _config(
        mask_ratios=(0.0,),
        mask_probabilities=(1.0,),
        image_sizes=(64, 96),
        size_probabilities=(0.5, 0.5),
        sensor_sizes=(20, 40),
        sensor_probabilities=(0.5, 0.5),
        masks={"scaled_share": 0.5},
        augment=(),
        distillation=0.6,
        teacher=str(teacher),
        weights="random:vit_pico",
        start_share=0.4,
        log_every=6,
        total_steps=6,
    )


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """Runs under JAX, in one process: `whole`, the same `killed` and resumed, and `taught`."""
    folder = tmp_path_factory.mktemp("runs")
    teacher = _config(seed=1, projector=32)
    run = Pretraining(teacher, images, folder / "teacher")
    with run.directory.opened(teacher.to_dict()):
        run.save()
    taught = _without_chance(folder / "teacher")
    Pretraining(taught, images, folder / "taught").save()  # where both backends begin
    long = _config(
        mask_ratios=(0.5, 0.75),
        mask_probabilities=(0.7, 0.3),
        augment=("flip", "crop", "color", "three_augment", "mixup", "cutmix"),
        log_every=4,
        eval_every=8,
        checkpoint_every=4,
        total_steps=12,
    )
    runs = [
        {"config": config.to_dict(), "workdir": str(folder / name), "killed_at": killed_at}
        for name, config, killed_at in (
            ("whole", long, None),
            ("killed", long, 8),
            ("taught", taught, None),
        )
    ]
    arrays = {name: getattr(images, name) for name in ("train", "test")}
    arrays |= {f"{name}_labels": getattr(images, f"{name}_labels") for name in ("train", "test")}
    np.savez(folder / "images.npz", **arrays)
    command = [sys.executable, "-c", _RUNS, folder / "images.npz", json.dumps(runs)]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    }
    environment = _ENVIRONMENT | cache
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder


def _metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_it_takes_the_steps_of_tensorflow(images, folder):
    """Six steps from the same weights, with a teacher, a whole view and AdamW."""
    run = Pretraining(_without_chance(folder / "teacher"), images, folder / "beside")
    start = Pretraining(_without_chance(), images, folder / "start")
    for mine, theirs in zip(run.model.variables, start.model.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
    record = run.train(lambda _: None)
    other, averaged = _metrics(folder / "taught")
    assert other["loss"] == pytest.approx(record["loss"], abs=2e-4)
    records = []
    run.average(records.append)
    assert averaged == pytest.approx(records[0], abs=1e-3)
    state, theirs = (load_file(folder / n / "checkpoint.safetensors") for n in ("beside", "taught"))
    assert state.keys() == theirs.keys()
    for name, value in state.items():
        np.testing.assert_allclose(theirs[name], value, rtol=0, atol=1e-4, err_msg=name)


def test_going_on_gives_the_weights_of_an_undisturbed_run(folder):
    whole, killed = (load_file(folder / n / "checkpoint.safetensors") for n in ("whole", "killed"))
    for name, value in whole.items():
        np.testing.assert_allclose(killed[name], value, rtol=0, atol=1e-6, err_msg=name)
    assert [record["step"] for record in _metrics(folder / "killed")] == [4, 8, 12]


def test_tensorflow_reads_its_checkpoint_and_finds_its_accuracy(images, folder):
    config = _config(total_steps=12)
    run = Pretraining(config, images, folder / "whole")
    assert run.step == 12
    last = _metrics(folder / "whole")[-1]
    for name, value in run.evaluate().items():
        assert last[name] == pytest.approx(value, abs=1e-4)
        assert value > 0.9  # it learnt


def test_the_command_pre_trains_under_jax(tmp_path):
    """And the encoder that it writes is one that every command loads."""
    command = [sys.executable, "-m", "sparse_ist_tf.pretrain", f"--workdir={tmp_path / 'run'}"]
    settings = {
        "dataset.name": "digits",
        "dataset.cache_dir": tmp_path / "images",
        "preset": "vit_pico",
        "batch_size": 8,
        "total_steps": 2,
        "mask_ratios": "(0.75,)",
        "mask_probabilities": "(1.0,)",
        "eval_mask_ratios": "(0.75,)",
    }
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    for arguments, words in (
        (["--config.probe.every=5"], "probe.every=5: must be 0 with KERAS_BACKEND=jax"),
        (["--config.augment=('rand_augment',)"], "augment: 'rand_augment' is none of flip"),
        ([], None),
    ):
        done = subprocess.run(
            [*command, *arguments], env=_ENVIRONMENT, capture_output=True, text=True, timeout=300
        )
        if words:
            assert done.returncode == 2
            assert done.stderr.count("\n") == 1, done.stderr
            assert words in done.stderr
    assert done.returncode == 0, done.stderr
    assert "test_accuracy@0.75" in done.stdout
    encoder = load_encoder(str(tmp_path / "run" / "encoder.safetensors"))
    assert encoder.digest != load_encoder("random:vit_pico").digest
    assert (tmp_path / "run" / "report.md").exists()


def test_several_workers_are_refused(tmp_path):
    command = [sys.executable, "-m", "sparse_ist_tf.pretrain", f"--workdir={tmp_path / 'run'}"]
    command += ["--config.dataset.name=digits", "--num_workers=2"]
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "num_workers=2: must be 1 with KERAS_BACKEND=jax" in done.stderr
