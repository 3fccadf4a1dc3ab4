"""Rounds with real processes: the number of workers changes nothing but the bytes."""

import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs.batches import BatchStream
from sparse_ist_tf.ist.exchange.parameters import Forms
from sparse_ist_tf.ist.head import HeadSpec, accuracy, build_model, init_parameters, logits
from sparse_ist_tf.ist.rounds import IstTrainer
from sparse_ist_tf.ist.trainer import TrainerOptions, TrainingData
from sparse_ist_tf.workers.link import Link

large = pytest.mark.large
FOUR = [2, pytest.param(4, marks=large)]
_path = Path(__file__).parent / "worker_script.py"
_spec = importlib.util.spec_from_file_location("worker_script", _path)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)
ALL = [kind if kind in script.SOME else pytest.param(kind, marks=large) for kind in script.KINDS]


def _state(folder, kind):
    with np.load(folder / f"{kind}.npz") as file:
        return dict(file)


def _tolerance(kind):
    # The baselines' all-reduce adds in another order, and a rectifier that flips makes more of it
    # (1.5e-4 in a moment was seen); IST adds nothing up across workers.
    return 1e-3 if kind in ("states", "gradients") else 1e-5


@pytest.mark.parametrize("kind", ALL)
def test_two_workers_end_with_the_same_head_as_one(runs, kind):
    one, two = _state(runs[1], kind), _state(runs[2], kind)
    assert one.keys() == two.keys()
    for name in one:
        tolerance = _tolerance(kind)
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("kind", ["carry", "thin", pytest.param("many", marks=large)])
def test_more_workers_change_no_bit(runs, kind):
    one, two = _state(runs[1], kind), _state(runs[2], kind)
    for name in one:
        np.testing.assert_array_equal(two[name], one[name], err_msg=name)


@large
def test_four_workers_end_with_the_same_head_as_one(runs):
    one, four = _state(runs[1], "carry"), _state(runs[4], "carry")
    for name in one:
        np.testing.assert_allclose(four[name], one[name], rtol=0, atol=1e-5, err_msg=name)


@large
@pytest.mark.parametrize("kind", script.HALVES)
def test_four_workers_go_on_from_the_checkpoint_of_one(runs, kind):
    one, resumed = _state(runs[1], kind), _state(runs[4], f"{kind}-resumed")
    assert one.keys() == resumed.keys()
    for name in one:
        tolerance = _tolerance(kind)
        np.testing.assert_allclose(resumed[name], one[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("num_workers", FOUR)
def test_the_ledger_counts_what_went_into_messages(runs, num_workers):
    for worker in range(num_workers):
        facts = json.loads((runs[num_workers] / f"facts_{worker}.json").read_text())
        kinds = facts.keys() & {"carry", "reset", "published", "dressed", "thin"}
        for kind in kinds:
            told = facts[kind]["ledger"]["control"]
            assert facts[kind]["sent"] == _training(facts[kind]) + told > told
            # Shared output biases and filled-up words are beside it, the more the smaller messages
            # are; in the first of ten rounds all are as long as they usually are at most.
            most = 1.3 if kind == "thin" else 1.15
            assert _training(facts[kind]) <= most * facts[kind]["bound"], kind
    assert facts["carry"]["loss"] > 0


def _training(facts):
    return facts["ledger"]["weights"] + facts["ledger"].get("moments", 0)


@pytest.mark.parametrize("num_workers", FOUR)
def test_integers_cross_as_integers_and_are_counted(runs, num_workers):
    for worker in range(num_workers):
        found = json.loads((runs[num_workers] / f"facts_{worker}.json").read_text())["link"]
        assert found["broadcast"] == [2**40 + 1, 2**24 + 1]
        assert found["gathered"] == [2**40 + i for i in range(num_workers)]
        others = num_workers - 1
        broadcast = {} if worker else {"checkpoint": 16 * others}
        assert found["sent"] == {"control": 8 * others, **broadcast}


@large
def test_what_a_restart_broadcasts_is_counted(runs):
    """Others' home shards, and to all of them the output bias, the standards, a whole state."""
    others, columns = 3, 3
    shards, classes = script.SPEC.num_parameters - script.SPEC.num_classes, script.SPEC.num_classes
    homes = shards // (1 + others)  # each keeps a quarter of each layer
    expected = {
        "carry": columns * (homes + classes),
        "dressed": columns * (homes + classes) + 2 * script.SPEC.feature_dim,
        "states": columns * script.SPEC.num_parameters,
    }
    facts = [json.loads((runs[4] / f"facts_{worker}.json").read_text()) for worker in (0, 3)]
    for kind, entries in expected.items():
        chief, other = (some[f"{kind}-resumed"]["restored"] for some in facts)
        assert chief == {"checkpoint": 4 * others * entries}
        assert other == {}


def test_forms_are_fewer_bytes(runs):
    facts = json.loads((runs[2] / "facts_0.json").read_text())
    if "reset" in facts:
        assert _training(facts["carry"]) == 3 * _training(facts["reset"])
    # bfloat16 out, half a byte and scales back, a byte each way for the first moment
    assert _training(facts["thin"]) < _training(facts["carry"]) / 3
    one = json.loads((runs[1] / "facts_0.json").read_text())
    assert not one["carry"]["ledger"]


def _trainer(features, labels, num_subnets=1, **options):
    spec = HeadSpec(features.shape[1], (64, 48), 5)
    options = TrainerOptions(num_subnets=num_subnets, **options)
    data = TrainingData(features, labels, [np.arange(len(labels))] * num_subnets)
    return IstTrainer(spec, options, Link.alone(), data)


def test_one_subnet_is_centralised_training():
    """Against a loop over a Keras model with Keras' own Adam."""
    features, labels = script.data()
    trainer = _trainer(features, labels, num_subnets=1, local_steps=5)
    model = build_model(init_parameters(trainer.spec, 0))
    optimizer = keras.optimizers.Adam(1e-3)
    stream = BatchStream(np.arange(len(labels)), 64, seed=0, subnet=0)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for _ in range(10):
        trainer.run_round()
    for rows in stream.rows(0, 50):
        with tf.GradientTape() as tape:
            loss = loss_of(labels[rows], model(features[rows]))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    state = trainer.gather().head.values
    for part, variable in zip(trainer.spec.parameters(), model.trainable_variables, strict=True):
        np.testing.assert_allclose(state[part.name], np.asarray(variable), rtol=0, atol=1e-5)


def test_training_learns_and_biases_and_moments_follow():
    features, labels = script.data()
    trainer = _trainer(features, labels, num_subnets=4, local_steps=10)
    first = trainer.run_round()["loss"]
    for _ in range(20):
        last = trainer.run_round()["loss"]
    assert last < 0.7 * first
    head = trainer.gather().head
    for name in ("dense_0/bias", "dense_1/bias", "dense_2/bias"):
        assert np.abs(head.values[name]).min() > 0, "every bias was trained and came back"
        assert (head.moments[name][1] > 0).all()


def test_a_loss_that_is_not_finite_is_named():
    features, labels = script.data()
    # Not by features: whether a rectifier passes NaN on depends on the machine.
    trainer = _trainer(
        features, labels, num_subnets=2, local_steps=2, learning_rate=lambda step: np.nan
    )
    with pytest.raises(RunError, match="round 0, subnet 0"):
        trainer.run_round()


@pytest.mark.parametrize("differences", ["bfloat16", "int8", "int4"])
def test_what_is_learnt_and_not_finite_is_named(differences):
    """The last step's loss is of the weights before it."""
    features, labels = script.data()
    rate = iter([1e-3] * 3 + [np.inf])
    forms = Forms("bfloat16", differences)
    trainer = _trainer(
        features,
        labels,
        num_subnets=1,
        local_steps=2,
        learning_rate=lambda _: next(rate),
        forms=forms,
    )
    trainer.run_round()
    with pytest.raises(RunError, match="round 1, subnet 0: what it learnt is not finite"):
        trainer.run_round()


def test_unknown_moments_are_refused():
    features, labels = script.data()
    with pytest.raises(RequestError, match=r"ist.moments='keep'"):
        _trainer(features, labels, num_subnets=2, moments="keep")


def _run(rounds, **options):
    trainer = _trainer(*script.data(), **options)
    for _ in range(rounds):
        trainer.run_round()
    return trainer.gather().arrays()


def test_of_one_subnet_what_stays_in_the_slot_stays_with_the_neurons():
    """With one subnet slot and neurons are the same, so only the merged biases may differ."""
    carried = _run(4, local_steps=5)
    slots = _run(4, local_steps=5, moments="slot", biases="slot")
    for name in ("dense_0", "dense_1", "dense_2"):
        np.testing.assert_allclose(
            slots[f"{name}/kernel"], carried[f"{name}/kernel"], rtol=0, atol=1e-6
        )
        np.testing.assert_allclose(
            slots[f"slots/0/{name}/bias"], carried[f"{name}/bias"], rtol=0, atol=1e-6
        )
        np.testing.assert_allclose(
            slots[f"slots/0/{name}/kernel/moment_1"], carried[f"{name}/kernel/moment_1"], atol=1e-6
        )
        assert not slots[f"{name}/bias"].any(), "the merged head never sees the slots' biases"


def test_without_the_last_step_one_step_changes_no_weight():
    options = {"num_subnets": 2, "moments": "slot", "biases": "slot", "keep_last_step": False}
    start = init_parameters(HeadSpec(16, (64, 48), 5), 0)
    lost = _run(3, local_steps=1, **options)
    np.testing.assert_array_equal(lost["dense_1/kernel"], start["dense_1/kernel"])
    assert lost["slots/1/dense_1/kernel/moment_1"].any(), "but the moments have seen it"
    kept = _run(3, local_steps=2, **options)
    assert np.abs(kept["dense_1/kernel"] - start["dense_1/kernel"]).max() > 0


def test_a_dressed_head_learns_and_its_folded_form_knows_it():
    features, labels = script.data()
    features = 5 + 3 * features
    spec = HeadSpec(16, (64, 48), 5)
    trainer = _trainer(features, labels, local_steps=10, standardize=True, normalization="batch")
    for _ in range(20):
        record = trainer.run_round()
    head = trainer.gather().folded()
    assert head.keys() == init_parameters(spec, 0).keys()
    found = accuracy(logits(head, features), labels)
    assert found > 0.9
    assert found == pytest.approx(record["train_accuracy"], abs=0.1)
