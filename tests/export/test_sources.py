"""A run's way to proven files, whatever its images came from."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sparse_ist_tf.config import get_config, validate
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.pipeline import Exporter
from sparse_ist_tf.export.plan import Options
from sparse_ist_tf.export.verify import evaluate_tflite
from sparse_ist_tf.runs.finished_run import FinishedRun
from sparse_ist_tf.runs.training import train_and_evaluate
from sparse_ist_tf.workers.cluster import Cluster
from tests.fixtures.tfds_sets import prepare

FEATURES = {
    "picture": tfds.features.Image(shape=(16, 24, 3)),
    "kind": tfds.features.ClassLabel(names=["dark", "light"]),
}
OPTIONS = Options(("classifier", "classifier_sensor"), (0,), bound=10.0, calibration=16)


def _picture(i):
    """Light or dark, by whether i is odd."""
    noise = np.random.default_rng(i).integers(0, 100, (16, 24, 3))
    return (noise + 120 * (i % 2)).astype(np.uint8)


def _of_tfds(folder):
    def example(i):
        return {"picture": _picture(i), "kind": i % 2}

    return "tfds:made", prepare(folder, {"train": 64, "test": 20}, FEATURES, example)


def _of_arrays(folder):
    pictures = np.stack([_picture(i) for i in range(84)])
    labels = np.arange(84) % 2
    np.savez(
        folder / "a.npz",
        **{"x_train": pictures[:64], "y_train": labels[:64]},
        **{"x_test": pictures[64:], "y_test": labels[64:]},
    )
    return f"npz:{folder / 'a.npz'}", ""


@pytest.mark.parametrize("make", [_of_tfds, pytest.param(_of_arrays, marks=pytest.mark.large)])
def test_from_images_to_files_that_are_as_right(make, tmp_path):
    config = get_config()
    config.dataset.name, config.dataset.data_dir = make(tmp_path)
    config.features.cache_dir = str(tmp_path / "cache")
    config.encoder.weights, config.masks.kind = "random:vit_pico", "shared"
    config.head.hidden, config.ist.num_subnets, config.batch_size = (16,), 2, 16
    config.total_epochs, config.total_steps, config.centralized_baseline = 0.0, 60, False
    validate(config, 1)
    train_and_evaluate(config, tmp_path / "run", Cluster(0, ()))
    lines = []
    run, output = FinishedRun(tmp_path / "run"), tmp_path / "files"
    good = Exporter(run, TARGETS["phone"], OPTIONS, output, report=lines.append).export()
    assert good, lines
    files = sorted(output.glob("*.tflite"))
    assert len(files) == 4
    for file in files:
        found = evaluate_tflite(file)
        assert found["accuracy"] == found["expected"] >= 0.9
