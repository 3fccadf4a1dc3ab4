"""A run goes on with the images that it was begun with, and with no others."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.checkpoints.loading import load_configured
from sparse_ist_tf.config import get_config
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.reports.checkpoint_file import read_checkpoint, write_checkpoint
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs.parts import features_of, load_splits
from sparse_ist_tf.runs.training import train_and_evaluate
from sparse_ist_tf.workers.cluster import Cluster

HALF = "checkpoints/round_00000001.safetensors"


def _config(folder, root):
    config = get_config()
    config.dataset.name, config.features.cache_dir = f"folder:{folder}", str(root / "cache")
    config.encoder.weights = "random:vit_pico"
    config.ist.num_subnets, config.ist.local_steps = 2, 4
    config.head.hidden, config.batch_size = (8,), 8
    config.total_epochs, config.total_steps = 0.0, 8
    config.centralized_baseline = False
    config.checkpoint_every_rounds = config.eval_every_rounds = 1
    return config


@pytest.fixture(scope="module")
def begun(tmp_path_factory, without_an_end):
    """(Photos, a run of them that stopped half-way, what it ends with)."""
    root = tmp_path_factory.mktemp("begun")
    rng = np.random.default_rng(0)
    for label in "abc":
        (root / "photos" / label).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 255, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(root / "photos" / label / f"{i}.png")
    config = _config(root / "photos", root)
    train_and_evaluate(config, root / "whole", Cluster(0, ()))
    (root / "half" / "checkpoints").mkdir(parents=True)
    for name in (HALF, "config.json", "metrics.jsonl"):
        shutil.copyfile(root / "whole" / name, root / "half" / name)
    return root / "photos", root / "half", RunDirectory(root / "whole").checkpoint()[0]


@pytest.fixture
def half(begun, tmp_path):
    return shutil.copytree(begun[1], tmp_path / "run")


def _go_on(photos, run):
    train_and_evaluate(_config(photos, run.parent), run, Cluster(0, ()))
    return RunDirectory(run).checkpoint()[0]


def test_a_copy_of_the_images_elsewhere_goes_on(begun, half, tmp_path):
    photos, _, expected = begun
    copy = shutil.copytree(photos, tmp_path / "moved", copy_function=shutil.copyfile)
    state = _go_on(copy, half)
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    RunDirectory(half).save_results({})
    with pytest.raises(RequestError, match=r"holds a run with another dataset\.name"):
        _go_on(photos, half)  # which is finished, so that nothing would compare the images


def test_a_power_cut_costs_evaluations_that_are_made_again(begun, half):
    path = half / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + b"\x00" * 512 + b"\xff")
    state = _go_on(begun[0], half)
    for name, value in begun[2].items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    steps = [record["step"] for record in RunDirectory(half).metrics()]
    assert steps == [json.loads(line)["step"] for line in whole.splitlines()] == [4, 8]


def test_a_changed_image_is_refused(begun, half, tmp_path):
    copy = shutil.copytree(begun[0], tmp_path / "moved")
    file = copy / "a" / "0.png"
    file.write_bytes(file.read_bytes() + b" ")
    os.utime(file, ns=(0, (begun[0] / "a" / "0.png").stat().st_mtime_ns))
    with pytest.raises(RequestError, match="the images or the encoder's weights have changed"):
        _go_on(copy, half)


@pytest.mark.parametrize("touched", [False, True])
def test_a_run_of_an_earlier_version_goes_on_where_nothing_was_touched(
    begun, half, tmp_path, touched
):
    """It knew images by their times of modification."""
    photos, _, expected = begun
    config = _config(photos, tmp_path)
    features = features_of(config, load_configured(config.encoder))
    keys = {part: features.key(split.as_before()) for part, split in load_splits(config).items()}
    state, progress = read_checkpoint(half / HALF)
    assert progress["features"] != keys
    write_checkpoint(half / HALF, state, progress | {"features": keys})
    if touched:
        photos = shutil.copytree(photos, tmp_path / "moved", copy_function=shutil.copyfile)
        with pytest.raises(RequestError, match="the images or the encoder's weights"):
            _go_on(photos, half)
        return
    state = _go_on(photos, half)
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    assert read_checkpoint(half / HALF.replace("1.", "2."))[1]["features"] != keys
