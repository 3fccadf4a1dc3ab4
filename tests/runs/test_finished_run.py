"""A finished run as export sees it."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.codec.messages import pack_feature, unpack_feature
from sparse_ist_tf.codec.packing import join, pack_patches, unpack_patches
from sparse_ist_tf.config import get_config
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.ist.head import accuracy, logits
from sparse_ist_tf.masks import select_patches
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs.finished_run import FinishedRun
from sparse_ist_tf.runs.images import Images, stratified
from tests.fixtures.tfds_sets import prepare


def test_calibration_rows_are_stratified_and_the_same_each_time():
    labels = np.repeat([0, 1, 2, 3], [500, 300, 40, 2])
    rows = stratified(labels, 62)
    assert np.bincount(labels[rows]).tolist() == [20, 20, 20, 2]
    assert np.array_equal(rows, stratified(labels, 62))
    assert not np.array_equal(rows, stratified(labels, 62, seed=1))
    assert stratified(labels, 10_000).tolist() == list(range(842))


def test_a_run_gives_what_its_training_measured(finished, run_path):
    results = RunDirectory(run_path).results()["accuracy"]
    labels = finished.images.splits["test"].labels
    assert accuracy(finished.test_logits(finished.head()), labels) == results["merged"]
    for subnet, expected in enumerate(results["subnets"]):
        found = logits(finished.head(subnet), finished.test_features)
        assert accuracy(found, labels) == expected


def test_calibration_samples_are_real_images_with_their_features(finished):
    samples = finished.calibration(20)
    assert sorted(sample["label"] for sample in samples) == sorted(2 * list(range(10)))
    train = finished.images.features("train")
    for sample in samples:
        distance = np.abs(train - sample["feature"]).max(axis=1)
        assert distance.min() < 1e-4
        places = sample["positions"]
        patches = select_patches(sample["image"][None], places[None], finished.encoder.patch_size)
        assert np.array_equal(patches[0], sample["patches"])


def test_names_say_what_a_file_holds(finished):
    assert finished.prefix == "digits_vit_pico_m50"
    assert len(finished.digest) == 64
    assert finished.num_visible == 32
    assert len(finished.shared_positions()) == 32


def test_no_run_and_an_unfinished_run_are_refused(run_path, tmp_path):
    with pytest.raises(RequestError, match="is no run directory"):
        FinishedRun(tmp_path)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run_path, unfinished, ignore=shutil.ignore_patterns("tensorboard", "export"))
    (unfinished / "results.json").unlink()
    with pytest.raises(RequestError, match="the run is not finished"):
        FinishedRun(unfinished)


def test_a_run_with_a_resnet_is_refused_in_one_line(run_path, tmp_path):
    copy = tmp_path / "resnet"
    shutil.copytree(run_path, copy, ignore=shutil.ignore_patterns("tensorboard", "export"))
    config = RunDirectory(copy).config()
    config["encoder"]["weights"] = "resnet50:random"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match="its encoder is a ResNet-50") as caught:
        FinishedRun.for_export(copy)
    assert str(copy) in str(caught.value)


def test_images_are_those_behind_the_runs_link(tmp_path):
    config = get_config()
    config.dataset.name = "digits"
    config.transport.codec, config.transport.quality = "patches", 20
    config.transport.features = "int8"
    config.features.cache_dir = str(tmp_path)
    images = Images(config, load_encoder("random:vit_pico"))
    sent = next(iter(images.splits["test"].dataset(images.scaling.sent)))["image"].numpy()
    example = next(images.examples("test"))
    positions = example["positions"]
    message = pack_patches(sent, positions, (8, 8), quality=20)
    picture = np.zeros((64, 1, 1, 3), np.uint8)
    picture[positions] = unpack_patches(message)[0]
    seen = images.scaling.seen(join(picture, (8, 8)))
    assert np.array_equal(example["patches"], select_patches(seen[None], positions[None], 8)[0])
    hidden = np.setdiff1d(np.arange(64), positions)
    assert not select_patches(example["image"][None], hidden[None], 8).any()
    [drawn] = images.drawn(1)
    assert drawn["patches"].shape == example["patches"].shape
    for feature in images.features("test")[:5]:
        assert np.array_equal(feature, unpack_feature(pack_feature(feature, "int8")))


def _sources(folder):
    """A split of 4 x 5 pixels a picture by everything that images come from."""
    pixels = np.arange(4 * 60, dtype=np.uint8).reshape(4, 4, 5, 3)
    np.savez(folder / "a.npz", x_train=pixels, y_train=[0, 1] * 2, x_test=pixels, y_test=[0, 1] * 2)
    yield f"npz:{folder / 'a.npz'}", ""
    for k, image in enumerate(pixels):
        for part in ("train", "test"):
            path = folder / "pictures" / part / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    yield f"folder:{folder / 'pictures'}", ""
    yield "tfds:made", prepare(folder / "tfds", {"train": 4, "test": 4})


def test_the_sensors_pixels_are_known_whatever_images_come_from(tmp_path):
    for name, data_dir in _sources(tmp_path):
        splits = datasets.load(name, data_dir=data_dir or None)
        images = SimpleNamespace(splits=splits)
        run = SimpleNamespace(images=images, sensor_shape=(4, 5))
        assert FinishedRun.sensor_shape.func(run) == (4, 5), name
        assert FinishedRun._is_of_one_size.func(run), name
