"""DiLoCo: against local SGD and Keras' own Nesterov, and with real processes."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.ist.diloco import BLOCK, MeanExchange
from sparse_ist_tf.ist.exchange.forms import FORMS
from sparse_ist_tf.ist.exchange.parameters import Forms
from sparse_ist_tf.ist.synchronous import LocalSgd
from sparse_ist_tf.workers.link import Link

_path = Path(__file__).parent / "diloco_script.py"
_spec = importlib.util.spec_from_file_location("diloco_script", _path)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)
SGD = keras.optimizers.serialize(keras.optimizers.SGD())
KINDS = [
    kind if kind in script.SOME else pytest.param(kind, marks=pytest.mark.large)
    for kind in script.KINDS
]


@pytest.fixture
def found(runs):
    """found[P]: the folder in which P workers left DiLoCo's; the two went on from the one's."""
    return {num_workers: folder / "diloco" for num_workers, folder in runs.items()}


def _arrays(path):
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_workers_changes_no_bit(found, kind):
    one, two = (_arrays(found[p] / f"{kind}.npz") for p in (1, 2))
    assert one.keys() == two.keys()
    assert one["dense_0/kernel/moment_0"].any()
    assert one["slots/2/dense_0/kernel/moment_0"].any()
    for name in one:
        np.testing.assert_array_equal(two[name], one[name], err_msg=name)


def test_two_workers_that_go_on_from_the_checkpoint_of_one_change_no_bit(found):
    one = _arrays(found[1] / f"{script.RESUMED}.npz")
    resumed = _arrays(found[2] / f"{script.RESUMED}_resumed.npz")
    assert one.keys() == resumed.keys()
    for name in one:
        np.testing.assert_array_equal(resumed[name], one[name], err_msg=name)


def test_bytes_are_those_that_a_count_by_hand_gives(found):
    """Of P = 2: a slice of each hosted replica with four numbers, and a slice of the mean."""
    assert script.SPEC.num_parameters == 3305 == 6 * BLOCK + 233
    slice_blocks = 4
    sizes = {"float32": 4 * BLOCK, "bfloat16": 2 * BLOCK, "int8": BLOCK + 4, "int4": BLOCK / 2 + 4}
    for worker in range(2):
        facts = json.loads((found[2] / f"facts_{worker}.json").read_text())
        for kind in facts:
            changed = script.KINDS[kind]
            # Of three replicas one worker has one, and fills up to the other's two.
            expected = 3 * slice_blocks * sizes[changed["forms"].differences] + 2 * 16
            assert facts[kind] == [script.ROUNDS * expected] * 2
    assert json.loads((found[1] / "facts_0.json").read_text())["int4"] == [0, 0]


def _trainer(**options):
    return script.make(Link.alone(), **options)


def _run(trainer, rounds=3):
    for _ in range(rounds):
        record = trainer.run_round()
    return trainer.gather().head.values, record


def test_an_outer_step_of_one_without_momentum_is_local_sgd():
    trainer = _trainer(outer_learning_rate=1.0, outer_momentum=0.0, optimizer=SGD)
    other = LocalSgd(trainer.spec, trainer.options, Link.alone(), trainer.data)
    (found, record), (expected, like) = _run(trainer), _run(other)
    assert record == pytest.approx(like, rel=1e-4)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_the_outer_step_is_that_of_keras():
    """Its differences as gradients of Keras' SGD."""
    trainer = _trainer(optimizer=SGD)
    optimizer = keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)
    shared = {name: keras.Variable(v) for name, v in trainer.gather().head.values.items()}
    plain = _trainer(optimizer=SGD, outer_learning_rate=1.0, outer_momentum=0.0)
    for i in range(4):
        start = trainer.gather()
        plain.restore(start, trainer.round, trainer.step)
        mean_end = _run(plain, rounds=1)[0]
        gradients = [start.head.values[name] - mean_end[name] for name in shared]
        optimizer.apply([tf.constant(g) for g in gradients], list(shared.values()))
        trainer.run_round()
        for name, value in trainer.gather().head.values.items():
            np.testing.assert_allclose(value, np.asarray(shared[name]), atol=1e-6, err_msg=f"{i}")


def test_moments_stay_with_their_replica():
    """After a round they are those of a replica that trains alone; then they go on."""
    trainer = _trainer()
    trainer.run_round()
    slots = trainer.gather().slots
    assert sorted(slots) == [0, 1, 2, 3]
    options = dataclasses.replace(trainer.options, num_subnets=1)
    local = LocalSgd(trainer.spec, options, Link.alone(), trainer.data)
    local.run_round()
    moments = local.gather().head.moments
    for name, expected in moments.items():
        for found, value in zip(slots[0].moments[name], expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=0, atol=1e-6)
    first = slots[0].moments["dense_1/kernel"][0]
    assert np.abs(first - slots[1].moments["dense_1/kernel"][0]).max() > 0
    trainer.run_round()
    again = trainer.gather().slots[0].moments["dense_1/kernel"][1]
    assert (again > 0.99 * slots[0].moments["dense_1/kernel"][1]).all(), "decayed by 0.999 a step"


@pytest.mark.parametrize(("form", "steps"), [("bfloat16", 128), ("int8", 127), ("int4", 7)])
def test_the_mean_is_right_in_the_mean(form, steps):
    """Over many roundings, and each of them by less than both steps of rounding."""
    rng = np.random.default_rng(1)
    vectors = rng.uniform(-1, 1, size=(4, 2 * BLOCK + 5)).astype(np.float32)
    exchange = MeanExchange(Link.alone(), [range(4)], vectors.shape[1], FORMS[form])
    assert exchange.num_blocks == 3
    count, records = 400, tf.reshape(tf.range(16.0), (4, 4))
    found = []
    mean = tf.function(exchange.mean, autograph=False)
    for i in range(count):
        seeds = tf.constant(rng.integers(2**31, size=(5, 2)), tf.int32)
        made, got = mean(list(vectors), records, seeds)
        found.append(made.numpy())
        if not i:
            np.testing.assert_array_equal(got, records)
    expected = vectors.mean(axis=0)
    errors = np.array(found) - expected
    assert np.abs(errors).max() < 2 / steps
    assert np.abs(errors).max() > 0.1 / steps
    # An error's standard deviation is at most half of a step, of the mean's and of all replicas'.
    most = 5 * 0.5 * np.sqrt(1 + 1 / 4) / steps / np.sqrt(count)
    assert np.abs(errors.mean(axis=0)).max() < most


def test_a_difference_that_is_not_finite_is_refused_with_its_replica_and_round():
    trainer = _trainer()
    trainer.run_round()
    state = trainer.gather()
    state.slots[2].moments["dense_0/bias"][0][7] = np.inf
    trainer.restore(state, 1, script.LOCAL_STEPS)
    with pytest.raises(RunError, match="round 1, subnet 2: the difference of its weights is not"):
        trainer.run_round()


def test_an_unknown_form_is_refused():
    with pytest.raises(RequestError, match=r"ist.exchange.differences='int2': must be one of"):
        Forms(differences="int2")
