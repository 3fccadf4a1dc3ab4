"""Configurations: what is allowed, and one clear line for what is not."""

import importlib
import math
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from sparse_ist_tf.config import completed, get_config, lookup, validate
from sparse_ist_tf.errors import RequestError

NAMES = sorted(path.stem for path in Path(__file__).parents[1].glob("configs/*.py"))


def _with(key, value):
    config = get_config()
    above, _, last = key.rpartition(".")
    node = lookup(config, above) if above else config
    with node.ignore_type():
        node[last] = value
    return config


def test_the_default_is_valid():
    for num_workers in (1, 2, 4):
        validate(get_config(), num_workers)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not name.startswith(("pretrain", "study"))]
)
def test_every_file_in_configs_is_valid(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    validate(config, 2)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("masks.ratio", -0.1, "in [0, 1)"),
        ("masks.ratio", 1.0, "in [0, 1)"),
        ("masks.ratio", math.nan, "in [0, 1)"),
        ("masks.ratio", "half", "of type float"),
        ("masks.kind", "some", "one of fixed, random, shared"),
        ("masks.pattern", "star", "one of uniform, grid, center, border"),
        ("masks.test_ratios", (0.5, 1.0), "in [0, 1), each once"),
        ("masks.test_ratios", (0.5, 0.5), "in [0, 1), each once"),
        ("masks.test_ratios", ("half",), "in [0, 1), each once"),
        ("share_total", 1, "of type bool"),
        ("dataset.name", "mnist", "one of digits, cifar10, resisc45, aid, folder:PATH"),
        ("dataset.name", "folder:", "one of digits"),
        ("dataset.shards", "some", "one of all, iid, dirichlet"),
        ("dataset.dirichlet_alpha", 0.0, "above 0"),
        ("dataset.on_bad_image", "cry", "one of error, skip"),
        ("transport.codec", "webp", "one of none, jpeg, patches, raw"),
        ("transport.quality", 0, "in [1, 100]"),
        ("transport.quality", 101, "in [1, 100]"),
        ("transport.quality", 7.5, "of type int"),
        ("transport.features", "int4", "one of float32, float16, int8"),
        ("encoder.dtype", "float8", "one of float32, bfloat16"),
        ("encoder.batch_size", 0, "at least 1"),
        ("encoder", 3, "a dictionary"),
        ("encoder.image_size", -8, "at least 0"),
        ("encoder.mean", (0.5,), "three numbers, or none"),
        ("encoder.std", ("a", "b", "c"), "three numbers, or none"),
        ("head.hidden", (), "whole numbers of at least 1"),
        ("head.hidden", (1000, 0), "whole numbers of at least 1"),
        ("head.hidden", (1000, 3), "at least ist.num_subnets=4"),
        ("ist.algorithm", "fedavg", "one of ist, data_parallel, local_sgd, centralized"),
        ("ist.num_subnets", 1, "at least num_workers=2"),
        ("ist.num_subnets", 2.5, "of type int"),
        ("ist.num_subnets", True, "of type int"),
        ("ist.capacities", (1, 2), "one number above 0 for each of 4 subnets"),
        ("ist.capacities", (1, 2, 0, 1), "one number above 0"),
        ("ist.local_steps", 0, "at least 1"),
        ("ist.moments", "keep", "one of carry, reset"),
        ("optimizer.name", "ftrl", "one of adam, adamw, sgd, lion, rmsprop"),
        ("learning_rate", math.nan, "above 0"),
        ("learning_rate", math.inf, "above 0"),
        ("label_smoothing", 1.0, "in [0, 1)"),
        ("seed", -1, "at least 0"),
        ("total_steps", 10, "exactly one must be above 0"),
        ("eval_every_epochs", 1.0, "exactly one must be above 0"),
        ("schedule", "stairs", "one of constant, cosine"),
        ("cluster.peer_timeout_s", 0.0, "above 0"),
    ],
)
def test_an_impossible_value_names_key_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(RequestError) as caught:
        validate(_with(key, value), 2)
    message = str(caught.value)
    assert key.split(".")[-1] in message
    assert allowed in message
    assert "\n" not in message


def test_unknown_and_missing_keys_are_named():
    config = ConfigDict(get_config().to_dict())
    config.masks.ratoi = 0.5
    with pytest.raises(RequestError, match=r"masks.ratoi: there is no such key; masks has kind"):
        validate(config, 1)
    config = ConfigDict(get_config().to_dict())
    del config.ist.moments
    with pytest.raises(RequestError, match=r"ist.moments: is missing"):
        validate(config, 1)


def test_centralised_training_has_one_worker():
    config = _with("ist.algorithm", "centralized")
    validate(config, 1)
    with pytest.raises(RequestError, match="num_workers=2: must be 1"):
        validate(config, 2)


def test_a_stored_configuration_gets_the_keys_that_came_later():
    stored = _with("masks.ratio", 0.75).to_dict()
    del stored["ist"]["local_steps"], stored["features"]
    stored["optimizer"]["kwargs"] = {"beta_2": 0.99}
    config = completed(stored)
    validate(config, 1)
    assert config.ist.local_steps == get_config().ist.local_steps
    assert (config.masks.ratio, config.optimizer.kwargs.to_dict()) == (0.75, {"beta_2": 0.99})
