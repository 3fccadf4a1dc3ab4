"""What the tests of export share: a finished run on a few digits, and its files."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from sparse_ist_tf.config import get_config, validate
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.export.convert import Interface, convert
from sparse_ist_tf.export.folding import fold
from sparse_ist_tf.export.graphs import Network, layers_of
from sparse_ist_tf.export.runs import FinishedRun
from sparse_ist_tf.inputs.masks import select_patches, shared_positions
from sparse_ist_tf.ist.cluster import Cluster
from sparse_ist_tf.ist.head import HeadSpec, init_parameters
from sparse_ist_tf.ist.training import train_and_evaluate

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SMALL = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}


def make_vit(**changes):
    """A small ViT with weights that make its outputs differ from image to image."""
    keras.utils.set_random_seed(3)
    vit = ViT(**{**SMALL, "mlp_ratio": 2.0, **changes})
    rng = np.random.default_rng(5)
    for weight in vit.weights:
        if not weight.path.endswith("position_table"):
            noise = rng.standard_normal(weight.shape) * (0.3 if len(weight.shape) > 1 else 0.1)
            weight.assign(weight + noise.astype("float32"))
    return vit


def make_images(count, side=16, seed=0):
    """Smooth random pictures, uint8[count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, side // 4, side // 4, 3)).astype(np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="session")
def head_layers():
    """A head of 8 features, 6 and 5 hidden neurons and 3 classes."""
    return layers_of(init_parameters(HeadSpec(8, (6, 5), 3), seed=0))


@pytest.fixture(scope="session")
def head_features():
    """Features for head_layers, float32[64, 8]."""
    return np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def head_samples(head_features):
    """Makes the calibration samples of head_layers."""
    return lambda: ({"feature": feature[None]} for feature in head_features)


@pytest.fixture(scope="session")
def head_file(head_layers):
    """The float file of head_layers."""
    return convert(Network("head", head_layers), "float32")


def write_run(root, **changes):
    """Trains a small head on 200 digits, in this process; its run directory."""
    data = load_digits()
    for part, rows in (("train", slice(0, 160)), ("test", slice(160, 200))):
        for i in range(rows.start, rows.stop):
            folder = root / "digits" / part / f"{data.target[i]} of ten"
            folder.mkdir(parents=True, exist_ok=True)
            image = np.round(data.images[i] * 255 / 16).astype(np.uint8)
            Image.fromarray(image).convert("RGB").save(folder / f"{i}.png")
    config = get_config()
    config.dataset.name = f"folder:{root / 'digits'}"
    config.features.cache_dir = str(root / "cache")
    config.encoder.weights = "packaged:vit_pico"
    config.masks.kind = "shared"
    config.head.hidden = (64, 48)
    config.ist.num_subnets = 2
    config.total_epochs, config.total_steps = 0.0, 120
    config.centralized_baseline = False
    for key, value in changes.items():
        config[key].update(value)
    validate(config, 1)
    workdir = root / "run"
    train_and_evaluate(config, workdir, Cluster(0, ()))
    return workdir


@pytest.fixture(scope="session")
def run_path(tmp_path_factory):
    """The run directory of a finished run with shared masks."""
    return write_run(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def finished(run_path):
    """The same, opened."""
    return FinishedRun(run_path)


@pytest.fixture(scope="session")
def small_classifier(head_layers):
    """(vit, network, places): an image classifier of half the patches of a small ViT."""
    vit = make_vit(width=8)
    places = shared_positions(0, vit.num_patches, 0.5)
    network = Network("classifier", head_layers, fold(vit, MEAN, STD), tuple(map(int, places)))
    return vit, network, places


@pytest.fixture(scope="session")
def classifier_file(small_classifier):
    """Converts small_classifier, once for each (numbers, form, whole_integer, kind)."""
    vit, network, places = small_classifier
    images = make_images(24)

    def samples():
        for image in images:
            patches = select_patches(image[None], places[None], vit.patch_size)
            yield {"image": image[None], "patches": patches, "positions": places[None]}

    @functools.cache
    def file(numbers, form="matmul", whole_integer=False, kind="classifier"):
        interface = Interface(form, whole_integer)
        return convert(dataclasses.replace(network, kind=kind), numbers, interface, samples)

    return file
