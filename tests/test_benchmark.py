"""The benchmark's counts of work, against the graphs that do it, and the command itself."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf import benchmark
from sparse_ist_tf.benchmark import _trainer, best_time, subnet_flops
from sparse_ist_tf.benchmarks import encoding as speed
from sparse_ist_tf.benchmarks import leak
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.ist.local import LossOptions, loss_and_gradients
from sparse_ist_tf.workers.link import Link


def _flops_of(graph):
    """FLOP of all matrix products in a graph of static shapes."""
    total = 0
    for op in graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            inner = op.inputs[0].shape[-1]
            turned = op.get_attr("transpose_a") if op.type == "MatMul" else op.get_attr("adj_x")
            inner = op.inputs[0].shape[-2] if turned else inner
            total += 2 * int(np.prod(op.outputs[0].shape)) * int(inner)
    return total


def test_a_steps_work_is_that_of_its_graph():
    trainer = _trainer(2, 20, Link.alone())
    total = 0
    for columns in trainer.subnets.values():
        weights = [tf.TensorSpec(variable.shape, tf.float32) for variable, *_ in columns]
        batch = tf.TensorSpec((64, 192), tf.float32), tf.TensorSpec((64,), tf.int32)
        step = tf.function(lambda w, x, y: loss_and_gradients(w, x, y, LossOptions((2.0, 2.0))))
        total += _flops_of(step.get_concrete_function(weights, *batch).graph)
    assert subnet_flops(trainer) == total


def test_best_time_is_the_shortest_after_two_to_warm_up(monkeypatch):
    clock, calls = [0.0], iter([0.1, 0.1, 3.0, 1.0, 2.0])
    monkeypatch.setattr("sparse_ist_tf.benchmark.time.perf_counter", lambda: clock[0])

    def work():
        clock[0] += next(calls)

    assert best_time(work, repetitions=3) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--only=speed", "encode, train, exchange"),
        ("speed", "'speed': flags begin with --; must be some of encode, train, exchange"),
        ("--batch_size=0", "1"),
        ("--preset=vit_giga", "vit_giga"),
        ("--num_workers=9", "2, 3, 4"),
        ("--only=leak --ratio=0", "--ratio=0: must be numbers in (0, 1)"),
    ],
)
def test_a_bad_request_is_one_line(argument, words):
    done = subprocess.run(
        [sys.executable, "-m", "sparse_ist_tf.benchmark", *argument.split()],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        (["encode"], {}, ("vit_base", 32)),
        ([], {"only": ["encode"]}, ("vit_base", 32)),
        (["encode"], {"preset": "vit_pico", "batch_size": 2}, ("vit_pico", 2)),
    ],
)
def test_encoding_alone_is_of_the_paper_s_model(monkeypatch, words, given, expected):
    flags = {"only": [], "preset": None, "batch_size": None, "num_workers": ["2"]}
    monkeypatch.setattr(benchmark, "FLAGS", SimpleNamespace(**flags | given))
    monkeypatch.delenv("TF_CONFIG", raising=False)
    seen = []
    monkeypatch.setattr(speed, "compare", lambda *arguments: seen.append(arguments))
    assert benchmark.main(["benchmark", *words]) == 0
    assert seen == [expected]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ratio": ["some"]}, "--ratio=some: must be numbers in (0, 1)"),
        ({"image_size": ["6.4"]}, "--image_size=6.4: must be whole numbers at least 1"),
        ({"images": 0}, "--images=0: must be at least 1"),
        ({}, None),
    ],
)
def test_a_leak_is_measured_as_flags_say(monkeypatch, given, words):
    flags = {"only": [], "preset": None, "batch_size": None, "num_workers": ["2"]}
    flags |= {"dataset": ["digits"], "data_dir": None, "image_size": ["64", "128"]}
    flags |= {"patch_size": 8, "ratio": ["0.5"], "images": 4} | given
    monkeypatch.setattr(benchmark, "FLAGS", SimpleNamespace(**flags))
    monkeypatch.delenv("TF_CONFIG", raising=False)
    seen = []
    monkeypatch.setattr(leak, "compare", lambda *some, **more: seen.append((some, more)))
    if words:
        with pytest.raises(RequestError) as caught:
            benchmark.main(["benchmark", "leak"])
        assert words in str(caught.value)
        return
    assert benchmark.main(["benchmark", "leak"]) == 0
    more = {"patch_size": 8, "images": 4, "data_dir": None}
    assert seen == [((["digits"], [64, 128], [0.5]), more)]


@pytest.mark.large
def test_the_exchange_is_measured_between_real_workers():
    done = subprocess.run(
        [sys.executable, "-m", "sparse_ist_tf.benchmark", "exchange", "--num_workers=2"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    sent, of_bound = done.stdout.splitlines()[-1].split()[1:4:2]
    assert float(sent) == pytest.approx(2.73, abs=0.02)
    assert 0.9 < float(of_bound) < 1.1  # the mean of rounds that deal neurons by chance
