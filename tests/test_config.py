"""Configurations: what is allowed, and one clear line for what is not."""

import importlib
import inspect
import math
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from sparse_ist_tf import config, pretrain_config, registry, study_config
from sparse_ist_tf.config import (
    completed,
    get_config,
    identity,
    ist_options,
    link_setting,
    validate,
)
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.keys import as_help, as_markdown, assign
from sparse_ist_tf.registry import LINKS

NAMES = sorted(path.stem for path in Path(__file__).parents[1].glob("configs/*.py"))


def _with(key, value):
    config = get_config()
    assign(config, key, value)
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
        (
            "dataset.name",
            "mnist",
            "one of mnist5k, digits, cifar10, resisc45, aid, rsscn7, folder:PATH",
        ),
        ("dataset.name", "folder:", "one of mnist5k"),
        ("dataset.shards", "some", "one of all, iid, dirichlet"),
        ("dataset.dirichlet_alpha", 0.0, "above 0"),
        ("dataset.on_bad_image", "cry", "one of error, skip"),
        ("transport.codec", "webp", "one of none, jpeg, patches, raw"),
        ("transport.quality", 0, "in [1, 100]"),
        ("transport.quality", 101, "in [1, 100]"),
        ("transport.quality", 7.5, "of type int"),
        ("transport.features", "int1", "one of float32, float16, int8, int4, int3, int2"),
        ("encoder.dtype", "float8", "one of float32, bfloat16"),
        ("encoder.batch_size", 0, "at least 1"),
        ("encoder", 3, "a dictionary"),
        ("encoder.image_size", -8, "at least 0"),
        ("encoder.mean", (0.5,), "three numbers, or none"),
        ("encoder.std", ("a", "b", "c"), "three numbers, or none"),
        ("head.hidden", (), "whole numbers of at least 1"),
        ("head.hidden", (1000, 0), "whole numbers of at least 1"),
        ("head.hidden", (1000, 3), "at least ist.num_subnets=4"),
        ("ist.algorithm", "fedavg", "one of ist, data_parallel, local_sgd, diloco, centralized"),
        ("ist.num_subnets", 1, "at least num_workers=2"),
        ("ist.num_subnets", 2.5, "of type int"),
        ("ist.num_subnets", True, "of type int"),
        ("ist.capacities", (1, 2), "one number above 0 for each of 4 subnets"),
        ("ist.capacities", (1, 2, 0, 1), "one number above 0"),
        ("ist.local_steps", -1, "at least 0"),
        ("ist.moments", "keep", "one of carry, reset"),
        ("ist.exchange.differences", "int2", "one of auto, float32, bfloat16, int8, int4"),
        ("ist.outer_learning_rate", 0.0, "above 0"),
        ("ist.outer_momentum", 1.0, "in [0, 1)"),
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


@pytest.mark.parametrize(
    ("settings", "key", "condition"),
    [
        ({"masks.pattern": "grid"}, "masks.pattern='grid'", "masks.kind is shared"),
        (
            {"masks.kind": "random", "masks.pattern": "grid"},
            "masks.pattern='grid'",
            "masks.kind is shared",
        ),
        ({"dataset.dirichlet_alpha": 1.0}, "dataset.dirichlet_alpha=1.0", "shards is dirichlet"),
        (
            {"dataset.name": "cifar10", "dataset.split_seed": 1},
            "dataset.split_seed=1",
            "dataset.name is mnist5k",
        ),
        (
            {"encoder.learning_rate_factor": 0.1},
            "encoder.learning_rate_factor=0.1",
            "encoder.trainable_blocks is set",
        ),
        *(
            (
                {"ist.variant": "published", f"ist.{key}": value},
                f"ist.{key}={value!r}",
                "ist.variant is corrected",
            )
            for key, value in (
                ("moments", "reset"),
                ("biases", "slot"),
                ("scale_inputs", False),
                ("keep_last_step", False),
            )
        ),
        *(
            (
                {"ist.algorithm": name, f"ist.{key}": value},
                f"ist.{key}={value!r}",
                "ist.algorithm is ist",
            )
            for name in ("data_parallel", "local_sgd", "centralized")
            for key, value in (
                ("moments", "reset"),
                ("capacities", (4, 2, 1, 1)),
                ("widths", "subnet"),
                ("variant", "published"),
            )
        ),
        *(
            ({key: value}, f"{key}={value!r}", "ist.algorithm is diloco")
            for key, value in (
                ("ist.outer_learning_rate", 1.0),
                ("ist.outer_momentum", 0.5),
            )
        ),
        (
            {"ist.algorithm": "data_parallel", "ist.exchange.differences": "int4"},
            "ist.exchange.differences='int4'",
            "ist.algorithm is ist or diloco",
        ),
        (
            {"ist.algorithm": "diloco", "ist.exchange.weights": "float16"},
            "ist.exchange.weights='float16'",
            "ist.algorithm is ist",
        ),
        *(
            ({"ist.algorithm": "centralized", key: value}, f"{key}={value!r}", "or data_parallel")
            for key, value in (
                ("ist.num_subnets", 2),
                ("dataset.shards", "iid"),
                ("share_total", True),
            )
        ),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(settings, key, condition):
    config = get_config()
    for name, value in settings.items():
        assign(config, name, value)
    with pytest.raises(RequestError) as caught:
        validate(config, 1)
    assert str(caught.value).startswith(f"{key}: must be ")
    assert condition in str(caught.value)


@pytest.mark.parametrize("name", ["mnist5k", "digits", "resisc45", "folder:photos"])
def test_data_without_a_split_takes_a_seed_for_one(name):
    config = _with("dataset.name", name)
    config.dataset.split_seed = 1
    validate(config, 1)


def test_a_whole_number_is_neither_nan_nor_infinite():
    for value in (math.nan, math.inf):
        with pytest.raises(RequestError, match=r"total_steps=\w+: must be of type int"):
            validate(_with("total_steps", value), 1)


def test_a_third_party_s_algorithm_and_its_keys_are_known(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    registry.register_algorithm(
        registry.AlgorithmEntry("mine", "somewhere:Mine", frozenset({"ist.capacities"}))
    )
    config = get_config()
    config.ist.algorithm, config.ist.capacities = "mine", (4.0, 2.0, 1.0, 1.0)
    validate(config, 1)
    config.ist.moments = "reset"
    with pytest.raises(RequestError, match=r"ist\.moments='reset'"):
        validate(config, 1)
    config.ist.algorithm = "mien"
    with pytest.raises(RequestError, match=r"centralized, mine \(did you mean"):
        validate(config, 1)


@pytest.mark.parametrize("defaults", [config, pretrain_config])
@pytest.mark.parametrize("option", ["use_ema", "ema_momentum", "loss_scale_factor", "betta_1"])
def test_an_optimizer_s_option_that_would_be_ignored_is_refused(defaults, option):
    settings = defaults.get_config()
    settings.optimizer = {"name": "adamw", "kwargs": {option: 1}}
    with pytest.raises(RequestError, match=f"optimizer.kwargs=.*: {option} must be one of beta_1"):
        defaults.validate(settings, 1)


def test_honoured_options_are_keras_own():
    import keras

    for options in (config.OPTIMIZERS, pretrain_config.OPTIMIZERS):
        for name, honoured in options.items():
            [make] = [c for n, c in vars(keras.optimizers).items() if n.lower() == name]
            known = set(inspect.signature(make).parameters)
            ignored = {"use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor"}
            ignored |= {"learning_rate", "name", "kwargs"}
            ignored |= {"gradient_accumulation_steps"} - set(honoured)
            assert known == set(honoured) | ignored, name


@pytest.mark.parametrize("defaults", [config, pretrain_config, study_config])
def test_every_key_is_described_and_its_default_allowed(defaults):
    table = defaults.table()
    text, page = as_help(table), as_markdown(table)
    assert len(page.splitlines()) == len(table) + 2
    for key in table:
        assert f"{key.name}=" in text
        assert f"| `{key.name}` |" in page
        assert key.allowed is None or key.default in key.allowed
    assert "masks.pattern='uniform' (one of uniform, grid, center, border): " in as_help(
        config.table()
    )


def test_unknown_and_missing_keys_are_named():
    config = ConfigDict(get_config().to_dict())
    config.masks.ratoi = 0.5
    with pytest.raises(
        RequestError, match=r"masks.ratoi: .* no such key; masks has kind.*mean 'masks.ratio'"
    ):
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


def test_a_configuration_of_0_1_0_says_of_the_encoder_what_its_weights_say_now():
    stored = get_config().to_dict()
    stored["encoder"] |= {"num_heads": 0, "qk_scale": 0.0, "epsilon": 0.0}
    for later in (
        "link",
        "exchange",
        "outer_learning_rate",
        "outer_momentum",
        "logit_adjustment",
    ):
        del stored["ist"][later]
    del stored["dataset"]["resize"], stored["masks"]["views"]
    stored["ist"]["local_steps"] = 20
    same = get_config()
    # Only who asks for what was done then goes on with such a run.
    assert config.identity(same) != stored
    same.ist.link, same.ist.local_steps = "fast", 20
    assert config.identity(same) == stored
    assert completed(stored) == same
    stored["encoder"] |= {"weights": "mae.pth", "num_heads": 16, "epsilon": 1e-5}
    assert completed(stored).encoder.weights == "mae.pth?num_heads=16&epsilon=1e-05"
    validate(completed(stored), 1)


def test_several_views_are_of_fixed_masks():
    base = get_config()
    assert "views" not in identity(base)["masks"]
    config = _with("masks.views", 4)
    validate(config, 1)
    assert identity(config)["masks"]["views"] == 4
    assert completed(identity(base)).masks.views == 1
    for key, value, told in (
        ("masks.kind", "random", "masks.views=4: must be 1, it is used only where masks.kind is"),
        ("masks.kind", "shared", "masks.views=4: must be 1, it is used only where masks.kind is"),
        ("masks.ratio", 0.0, "masks.views=4: must be 1, .* masks.ratio is set"),
        ("masks.views", 0, r"masks.views=0: must be in \[1, 64\]"),
        ("masks.views", 2.5, "masks.views=2.5: must be of type int"),
    ):
        config = _with("masks.views", 4)
        with config.ignore_type():
            config.masks[key.removeprefix("masks.")] = value
        with pytest.raises(RequestError, match=told):
            validate(config, 1)
    config = _with("masks.views", 4)
    config.ist.algorithm, config.encoder.trainable_blocks = "centralized", 1
    with pytest.raises(RequestError, match=r"masks\.views=4: must be 1 for"):
        validate(config, 1)


def test_names_are_made_of_keys_that_came_later_only_where_they_say_something():
    config = get_config()
    config.ist.link = "fast"
    later = {"link", "exchange", "outer_learning_rate", "outer_momentum", "logit_adjustment"}
    assert not identity(config)["ist"].keys() & later
    config.ist.exchange.differences = "int4"
    assert identity(config)["ist"]["exchange"] == {"differences": "int4"}
    assert identity(config)["ist"].keys() & later == {"exchange"}
    assert config.ist.outer_momentum == 0.9


@pytest.mark.parametrize(
    ("optimizer", "kwargs", "key", "is_allowed"),
    [
        ("adam", {}, "first_moment", True),
        ("adam", {}, "second_moment", True),
        ("sgd", {}, "first_moment", False),
        ("sgd", {"momentum": 0.9}, "first_moment", True),
        ("sgd", {"momentum": 0.9}, "second_moment", False),
        ("lion", {}, "second_moment", False),
        ("rmsprop", {}, "first_moment", False),
        ("rmsprop", {}, "second_moment", True),
    ],
)
def test_a_form_of_a_moment_that_is_not_kept_is_refused(optimizer, kwargs, key, is_allowed):
    config = get_config()
    config.optimizer.name, config.ist.exchange[key] = optimizer, "reset"
    with config.ignore_type(), config.unlocked():
        config.optimizer.kwargs.update(kwargs)
    if is_allowed:
        validate(config, 2)
    else:
        with pytest.raises(RequestError, match=rf"ist.exchange.{key}='reset': must be 'auto'"):
            validate(config, 2)


def test_a_link_stands_for_what_keys_do_not_say():
    config = get_config()
    config.ist.link = "fast"
    assert set(ist_options(config).exchange.values()) == {"float32"}
    config.ist.link, config.ist.exchange.differences = "thinnest", "int8"
    exchange = ist_options(config).exchange
    assert exchange.to_dict() == {
        "weights": "bfloat16",
        "differences": "int8",
        "first_moment": "reset",
        "second_moment": "neuron",
    }
    config.ist.moments = "slot"
    validate(config, 2)
    config.ist.exchange.first_moment = "int8"
    with pytest.raises(RequestError, match=r"first_moment.*only where.*ist.moments is carry"):
        validate(config, 2)


def test_the_thinnest_link_is_no_more_than_thin_where_shards_are_unlike():
    config = get_config()
    assert link_setting(config) == LINKS["thinnest"]
    config.dataset.shards = "dirichlet"
    assert link_setting(config) == LINKS["thin"]
    assert ist_options(config).exchange.second_moment == "halvings"
    config.ist.link = "fast"
    assert link_setting(config) == LINKS["fast"]


@pytest.mark.parametrize(("algorithm", "shards"), [("ist", "all"), ("data_parallel", "dirichlet")])
def test_what_has_no_effect_makes_no_name(algorithm, shards):
    config = get_config()
    config.ist.algorithm, config.dataset.shards = algorithm, shards
    assert "logit_adjustment" not in identity(config)["ist"]
    stored = config.to_dict()
    del stored["ist"]["logit_adjustment"]
    assert completed(stored) == config
    config.ist.logit_adjustment = False
    with pytest.raises(RequestError, match=r"ist\.logit_adjustment=False: must be True"):
        validate(config, 1)


def test_a_run_of_before_trains_on_without_adjusted_logits():
    config = get_config()
    config.dataset.shards = "dirichlet"
    assert identity(config)["ist"]["logit_adjustment"] is True
    stored = config.to_dict()
    del stored["ist"]["logit_adjustment"], stored["ist"]["link"]
    assert completed(stored).ist.logit_adjustment is False
    assert completed(stored).ist.link == "fast"
    assert not identity(completed(stored))["ist"].keys() & {"logit_adjustment", "link"}
    validate(completed(stored), 1)


def test_mixed_ways_to_scale_are_encoded_once():
    config = get_config()
    config.dataset.resize, config.masks.kind = "mixed", "random"
    with pytest.raises(RequestError, match=r"masks.kind='random': must be 'fixed' or 'shared'"):
        validate(config, 1)
    config.masks.kind = "fixed"
    validate(config, 1)
    config.ist.algorithm, config.encoder.trainable_blocks = "centralized", 1
    with pytest.raises(RequestError, match=r"trainable_blocks=1: must be 0 for dataset.resize"):
        validate(config, 1)
