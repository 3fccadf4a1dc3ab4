"""How long a run trains, and what changes on the way."""

import math

import pytest

from sparse_ist_tf.config import get_config
from sparse_ist_tf.runs.schedules import (
    learning_rate_schedule,
    local_steps,
    rounds_between,
    steps_of_round,
    total_steps,
)


@pytest.mark.parametrize(
    ("key", "value", "steps"),
    [("total_steps", 7, 7), ("total_epochs", 2.0, 4), ("total_examples", 65, 2)],
)
def test_a_duration_has_one_unit(key, value, steps):
    config = get_config()
    config.total_steps, config.total_epochs, config.total_examples = 0, 0.0, 0
    config[key] = value
    assert total_steps(config, 128) == steps


def test_a_shared_duration_is_cut_in_n_with_its_evaluations():
    config = get_config()
    config.total_epochs, config.share_total = 2.0, True
    config.eval_every_rounds, config.eval_every_epochs = 0, 1.0
    assert total_steps(config, 6400) == 50, "200 among 4 subnets"
    assert rounds_between(config, "eval", 64 * 20 * 16) == 4
    config.total_epochs, config.total_steps = 0.0, 7
    assert total_steps(config, 6400) == 2, "the last is not cut off"
    config.ist.algorithm = "centralized"
    assert total_steps(config, 6400) == 7


def test_epochs_become_whole_rounds():
    config = get_config()
    config.eval_every_rounds, config.eval_every_epochs = 0, 1.0
    config.ist.link = "fast"
    assert rounds_between(config, "eval", 64 * 20 * 3) == 3
    assert rounds_between(config, "eval", 10) == 1


def test_schedules():
    config = get_config()
    config.learning_rate, config.warmup_steps = 0.1, 10
    constant = learning_rate_schedule(config, 100)
    assert constant(0) == pytest.approx(0.01)
    assert constant(9) == constant(99) == pytest.approx(0.1)
    config.schedule = "cosine"
    cosine = learning_rate_schedule(config, 110)
    assert cosine(60) == pytest.approx(0.05)
    rates = [cosine(step) for step in range(10, 110)]
    assert rates == sorted(rates, reverse=True)
    assert cosine(110) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("schedule", "rounds"),
    [
        ("constant", [20, 20, 20, 20, 20]),
        ("consensus", [20, 20, 20, 20, 10] + [1] * 10),
        # In proportion to the steps done: 1, 1, 1, ... then all 20 from half of the run on.
        ("grow", None),
    ],
)
def test_schedules_of_local_steps_cover_the_run(schedule, rounds):
    config = get_config()
    config.ist.local_steps, config.ist.local_steps_schedule = 20, schedule
    done = []
    while sum(done) < 100:
        done.append(steps_of_round(config, sum(done), 100))
    assert sum(done) == 100
    if rounds is None:
        assert done[0] == 1
        assert done[:-1] == sorted(done[:-1])
        assert done[-2] == 20
    else:
        assert done == rounds


@pytest.mark.parametrize(
    ("link", "shards", "steps", "expected"),
    [
        ("fast", "all", 1000, 20),
        ("fast", "all", 100, 13),
        ("fast", "all", 5, 1),
        ("thin", "all", 4000, 100),
        ("thin", "dirichlet", 4000, 100),
        ("thinnest", "all", 4000, 500),
        ("thinnest", "all", 3984, 498),
        ("thinnest", "all", 3985, 499),  # eight rounds, none of them of a single step
        ("thinnest", "all", 9, 1),
        ("thinnest", "iid", 1000, 125),
        ("thinnest", "dirichlet", 4000, 100),
    ],
)
def test_rounds_are_as_long_as_the_link_asks_and_never_few(link, shards, steps, expected):
    config = get_config()
    config.ist.link, config.dataset.shards = link, shards
    assert local_steps(config, steps) == expected
    assert math.ceil(steps / expected) >= min(8, steps)
    config.ist.local_steps = 7
    assert local_steps(config, steps) == 7
