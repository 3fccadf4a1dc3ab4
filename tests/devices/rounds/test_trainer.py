"""Rounds with devices: the same head as train's, and nothing bad in it."""

import dataclasses
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from fleet import FakeDevice, make_trainer

from sparse_ist_tf.devices.rounds.crew import Device, shares_of
from sparse_ist_tf.devices.wire.records import Answer, Block, Member
from sparse_ist_tf.ist.exchange.parameters import Forms
from sparse_ist_tf.ist.head import HeadSpec
from sparse_ist_tf.ist.local import logit_adjustments
from sparse_ist_tf.ist.rounds import IstTrainer
from sparse_ist_tf.ist.trainer import TrainerOptions, TrainingData
from sparse_ist_tf.workers.link import Link

SPEC = HeadSpec(12, (18, 14), 3)


def data(num_subnets, kind="iid"):
    rng = np.random.default_rng(3)
    features = rng.normal(size=(90, 12)).astype(np.float32)
    labels = (features[:, :3] + 0.3 * rng.normal(size=(90, 3))).argmax(1).astype(np.int32)
    shards = [np.arange(90)] * num_subnets
    if kind == "iid":
        shards = np.array_split(np.arange(90), num_subnets)
    elif kind == "unlike":
        order = np.argsort(labels, kind="stable")
        shards = [np.sort(part) for part in np.array_split(order, num_subnets)]
    adjustments = logit_adjustments(labels, shards, 3)
    return TrainingData(features, labels, shards, None, adjustments)


def options(num_subnets=3, optimizer="adam", **others):
    made = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[optimizer]()
    config = keras.optimizers.serialize(made)
    values = {"batch_size": 8, "optimizer": config, "learning_rate": lambda step: 0.01, **others}
    return TrainerOptions(num_subnets=num_subnets, local_steps=5, seed=4, **values)


def devices_of(some, optimizer="adam", **others):
    return [
        FakeDevice(some.features[s], some.labels[s], 3, f"d{i}", optimizer=optimizer, **others)
        for i, s in enumerate(some.shards)
    ]


def same_heads(trainer, known, tolerance=1e-4):
    is_rounded = trainer.options.forms != Forms()
    for part in SPEC.parameters():
        ours, theirs = (t.gather().head.columns(part.name) for t in (trainer, known))
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            # Where it is rounded, a difference in the last bit may become one of a whole step.
            apart = np.abs(mine - other) > tolerance
            assert apart.mean() <= (0.01 if is_rounded else 0)


CASES = {
    "adam": {},
    "sgd": {"optimizer": "sgd"},
    "reset": {"moments": "reset"},
    "unlike shares": {"capacities": (3.0, 2.0, 1.0)},
    "unlike shards": {"logit_adjustment": True, "kind": "unlike"},
    "without scaling": {"scale_inputs": False},
    "thin": {"forms": Forms("bfloat16", "int4", "reset", "halvings")},
    "thinnest": {"forms": Forms("bfloat16", "int4", "reset", "neuron")},
    "bytes": {"forms": Forms("float16", "int8", "int8", "float32")},
    "bfloat16": {"forms": Forms("bfloat16", "bfloat16", "int4", "float32")},
    "alone": {"num_subnets": 1, "kind": "all"},
}


QUICK = ("adam", "unlike shares", "thin")
MARKED = [pytest.param(case, marks=() if case in QUICK else pytest.mark.large) for case in CASES]


@pytest.mark.parametrize("case", MARKED)
def test_the_head_is_that_of_train(case, tmp_path):
    values = dict(CASES[case])
    kind, optimizer = values.pop("kind", "iid"), values.get("optimizer", "adam")
    chosen = options(**values)
    some = data(chosen.num_subnets, kind)
    known = IstTrainer(SPEC, chosen, Link.alone(), some)
    trainer = make_trainer(devices_of(some, optimizer), SPEC, chosen, tmp_path)
    same_heads(trainer, known, 0)
    for _ in range(3):
        ours, theirs = trainer.run_round(), known.run_round()
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["train_accuracy"] == pytest.approx(theirs["train_accuracy"])
    same_heads(trainer, known)
    assert not ours["missing"]
    assert not ours["refused"]


def test_a_training_goes_on_from_what_was_gathered(tmp_path):
    some, chosen = data(3), options(3)
    one = make_trainer(devices_of(some), SPEC, chosen, tmp_path / "a")
    for _ in range(4):
        one.run_round()
    two = make_trainer(devices_of(some), SPEC, chosen, tmp_path / "b")
    two.run_round()
    two.run_round()
    three = make_trainer(devices_of(some), SPEC, chosen, tmp_path / "b")
    three.restore(two.gather(), two.round, two.step)
    three.run_round()
    three.run_round()
    same_heads(three, one, 0)


def spoiled(change):
    """A device that changes what it sends: all arrays of floats of weights."""

    def spoil(plan, answer):
        arrays = {
            name: change(array) if name.endswith("|0|0") else array
            for name, array in answer.block.arrays.items()
        }
        return dataclasses.replace(answer, block=Block(arrays))

    return spoil


def with_nan(array):
    return np.full_like(array, np.nan)


def one_nan(array):
    array = array.copy()
    array.flat[0] = np.inf
    return array


def of_other_block(plan, answer):
    return dataclasses.replace(answer, of="0" * 64)


def second_moment_below_zero(plan, answer):
    arrays = {
        name: -array - 1 if name.endswith("|2|0") else array
        for name, array in answer.block.arrays.items()
    }
    return dataclasses.replace(answer, block=Block(arrays))


def bias_alone(plan, answer):
    arrays = dict(answer.block.arrays)
    arrays["dense_2/bias|0|0"] = arrays["dense_2/bias|0|0"] * 1e6
    return dataclasses.replace(answer, block=Block(arrays))


def moment(plan, answer):
    arrays = dict(answer.block.arrays)
    arrays["dense_0/kernel|2|0"] = arrays["dense_0/kernel|2|0"] * 1e12
    return dataclasses.replace(answer, block=Block(arrays))


def without(plan, answer):
    arrays = dict(answer.block.arrays)
    del arrays["dense_1/bias|0|0"]
    return dataclasses.replace(answer, block=Block(arrays))


def with_more(plan, answer):
    arrays = answer.block.arrays | {"dense_9/kernel|0|0": np.zeros(3, np.float32)}
    return dataclasses.replace(answer, block=Block(arrays))


BAD = {
    "NaN": (spoiled(with_nan), "not finite"),
    "one infinity": (spoiled(one_nan), "not finite"),
    "loss NaN": (lambda p, a: dataclasses.replace(a, loss=float("nan")), "not finite"),
    "shape": (spoiled(lambda array: array[..., :-1]), "another shape"),
    "turned": (
        spoiled(lambda array: array.T.copy() if array.ndim == 2 else array),
        "another shape",
    ),
    "dtype": (spoiled(lambda array: array.astype(np.float64)), "another shape"),
    "empty": (lambda p, a: dataclasses.replace(a, block=Block({})), "another shape"),
    "one missing": (without, "another shape"),
    "one more": (with_more, "another shape"),
    "subnet": (lambda p, a: dataclasses.replace(a, subnet=(a.subnet + 1) % 3), "another subnet"),
    "block": (of_other_block, "another block"),
    "old round": (lambda p, a: dataclasses.replace(a, round=a.round - 1), "another round"),
    "round to come": (lambda p, a: dataclasses.replace(a, round=a.round + 1), "another round"),
    "large": (spoiled(lambda array: array * np.float32(1e6)), "too large"),
    "rather large": (spoiled(lambda array: array * np.float32(100)), "too large"),
    "large bias": (bias_alone, "too large"),
    "large moment": (moment, "too large"),
    "negative moment": (second_moment_below_zero, "impossible moments"),
    "negative seconds": (lambda p, a: dataclasses.replace(a, seconds=-1.0), "impossible facts"),
    "refusal": (
        lambda p, a: Answer(a.round, a.subnet, a.of, refusal="no\nroom"),
        "trained nothing",
    ),
    "no record": (lambda p, a: b"\x00" * 40, "damaged"),
    "nothing": (lambda p, a: b"", "damaged"),
    "other facts": (
        lambda p, a: a.to_record().to_bytes().replace(b'\\"round\\": ', b'\\"runde\\": '),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", [*BAD])
def test_no_bad_answer_is_merged(name, tmp_path, capsys):
    spoil, kind = BAD[name]
    some, chosen = data(3), options(3)
    first = make_trainer(devices_of(some), SPEC, chosen, tmp_path / "a")
    devices = devices_of(some)
    trainer = make_trainer(devices, SPEC, chosen, tmp_path / "b")
    first.run_round()
    trainer.run_round()
    before = trainer.gather().head
    devices[1].spoil = spoil
    record = trainer.run_round()
    first.crew.engine.devices[1].silent = lambda plan: True
    first.run_round()
    same_heads(trainer, first, 1e-6)
    for part in SPEC.parameters()[:-1]:  # what nobody gave back stays as it was
        held = trainer.partition(1).indices
        axes = [
            np.arange(size) if layer is None else held[layer][1]
            for size, layer in zip(part.shape, part.layers, strict=True)
        ]
        mine = trainer.gather().head.values[part.name][np.ix_(*axes)]
        np.testing.assert_array_equal(mine, before.values[part.name][np.ix_(*axes)])
    assert trainer.told()["devices"]["refusals"] == {kind: 1}
    assert record["missing"] == ["subnet 1 (d1)"]
    assert record["refused"] == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "refused" in line]
    assert len(lines) == 1
    assert "d1" in lines[0]
    assert "round 1" in lines[0]


def test_the_larger_of_two_is_refused_and_the_first_of_all_too(tmp_path):
    some, chosen = data(2), options(2)
    devices = devices_of(some)
    devices[0].spoil = BAD["large"][0]
    trainer = make_trainer(devices, SPEC, chosen, tmp_path)
    assert trainer.run_round()["missing"] == ["subnet 0 (d0)"]


def test_who_is_alone_is_held_against_earlier_rounds(tmp_path):
    some, chosen = data(2), options(2)
    devices = devices_of(some)
    trainer = make_trainer(devices, SPEC, chosen, tmp_path)
    trainer.run_round()
    del trainer.crew.engine.devices[1]
    calls = []

    def once(plan, answer):
        calls.append(plan)
        return BAD["large"][0](plan, answer) if len(calls) == 1 else answer

    devices[0].spoil = once
    trainer.run_round()
    assert len(calls) == 2  # the round was asked for again
    assert trainer.told()["devices"]["refusals"] == {"too large": 1}


def test_who_sends_three_bad_answers_is_sent_away(tmp_path, capsys):
    some, chosen = data(3), options(3)
    devices = devices_of(some)
    devices[2].spoil = BAD["NaN"][0]
    trainer = make_trainer(devices, SPEC, chosen, tmp_path)
    for _ in range(4):
        record = trainer.run_round()
    assert record["missing"] == ["subnet 2 (nobody)"]
    assert record["refused"] == 3
    assert (2, "end") in trainer.crew.engine.sent
    assert "sent away" in capsys.readouterr().out


def test_a_late_answer_is_refused_and_the_round_closed(tmp_path, capsys):
    some, chosen = data(3), options(3)
    devices = devices_of(some)
    trainer = make_trainer(devices, SPEC, chosen, tmp_path, round_s=0.3)
    trainer.run_round()
    devices[0].silent = lambda plan: True
    assert trainer.run_round()["missing"] == ["subnet 0 (d0)"]
    late = devices[0].plans[-1]
    devices[0].silent = lambda plan: False
    trainer.crew.engine.send(0, "train", late.to_record().to_bytes())
    assert trainer.run_round()["missing"] == []
    assert trainer.told()["devices"]["refusals"] == {"another round": 1}
    assert "too late" in capsys.readouterr().err


def test_enough_answers_close_a_round(tmp_path):
    some, chosen = data(3), options(3)
    devices = devices_of(some)
    devices[1].silent = lambda plan: True
    trainer = make_trainer(devices, SPEC, chosen, tmp_path, enough=2, round_s=60)
    assert trainer.run_round()["missing"] == ["subnet 1 (d1)"]


def test_devices_come_and_go(tmp_path, capsys):
    some, chosen = data(3), options(3)
    devices = devices_of(some)
    trainer = make_trainer(devices[:1], SPEC, chosen, tmp_path)
    assert trainer.run_round()["missing"] == ["subnet 1 (nobody)", "subnet 2 (nobody)"]
    trainer.crew.engine.devices |= {5: devices[1], 6: devices[2]}
    assert trainer.run_round()["missing"] == []
    del trainer.crew.engine.devices[0]
    assert trainer.run_round()["missing"] == ["subnet 0 (nobody)"]
    trainer.crew.engine.devices[9] = devices[0]  # comes back, to what it had
    assert trainer.run_round()["missing"] == []
    assert devices[0].plans[-1].subnet == 0
    told = trainer.told()["devices"]
    assert told["devices"]["d0"]["merged"] == 3
    assert "device d0 has gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"refusal": "has a folder 'cat'\nthat is no class"}, "no class"),
        ({"num_classes": 5}, "has 5 classes, must have 3"),
        ({"labels": np.zeros(0, np.int32)}, "has no images"),
        ({"capacity": float("nan")}, "can't be"),
        ({"capacity": -1.0}, "can't be"),
    ],
)
def test_who_does_not_fit_does_not_take_part(change, text, tmp_path, capsys):
    some, chosen = data(2), options(2)
    devices = devices_of(some)
    odd = dataclasses.replace(devices[0], name="odd", plans=[], **change)
    trainer = make_trainer([odd, *devices], SPEC, chosen, tmp_path, least=2)
    assert trainer.run_round()["missing"] == []
    assert not odd.plans
    assert trainer.told()["devices"]["refusals"] == {"no member": 1}
    [line] = capsys.readouterr().err.splitlines()
    assert text in line
    assert "odd" in line


def test_shares_are_what_devices_say_or_their_speeds():
    def device(capacity, speed=0.0):
        return Device(0, "", Member(capacity=capacity, speed=speed))

    assert shares_of([device(1.0), device(2.0)]) == (1.0, 2.0)
    assert shares_of([device(0.0, 30.0), device(0.0, 10.0)]) == (1.5, 0.5)
    assert shares_of([device(2.0), device(0.0, 30.0)]) == (2.0, 2.0)
    assert shares_of([device(0.0), device(0.0)]) == (1.0, 1.0)
