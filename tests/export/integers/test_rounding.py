"""Rounding of weights by what it does to the outputs."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import Interface, convert
from sparse_ist_tf.export.graphs.forms import Network, layers_of
from sparse_ist_tf.export.integers.memory import Recording
from sparse_ist_tf.export.integers.rounding import Inputs, measure_inputs, round_weights
from sparse_ist_tf.ist.head import HeadSpec, init_parameters


def _inputs_of(rows: np.ndarray) -> Inputs:
    return Inputs(
        rows.mean(axis=0), np.cov(rows.T, bias=True).reshape(rows.shape[1], -1), len(rows)
    )


def _correlated(rng, count, width, rank):
    return rng.normal(size=(count, rank)) @ rng.normal(size=(rank, width)) + rng.normal(size=width)


def _scales(weights):
    return np.abs(weights).max(axis=1) / 127


def test_correlated_inputs_make_up_for_each_other():
    """On inputs that it hasn't seen the outputs are several times as close as by rounding alone."""
    rng = np.random.default_rng(0)
    rows = _correlated(rng, 4000, 96, rank=24)
    weights = rng.normal(size=(40, 96))
    scales = _scales(weights)
    integers, shift = round_weights(weights, scales, _inputs_of(rows[:2000]))
    nearest = np.round(weights / scales[:, None])
    unseen = rows[2000:]
    wanted = unseen @ weights.T
    error = unseen @ (integers * scales[:, None]).T + shift - wanted
    plain = unseen @ (nearest * scales[:, None]).T - wanted
    assert (error**2).mean() < 0.2 * (plain**2).mean()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 12), count=st.integers(1, 30))
def test_integers_fit_and_means_are_exact(seed, width, count):
    rng = np.random.default_rng(seed)
    rows = _correlated(rng, count, width, rank=min(3, width))
    weights = rng.normal(size=(4, width)) * (rng.random((4, width)) < 0.6)
    scales = np.where(np.abs(weights).max(axis=1) > 0, _scales(weights), 1.0)
    inputs = _inputs_of(rows)
    integers, shift = round_weights(weights, scales, inputs)
    assert np.abs(integers).max() <= 127
    assert np.array_equal(integers, np.round(integers))
    assert not integers[weights == 0].any()
    mean = (integers * scales[:, None]) @ inputs.mean + shift
    np.testing.assert_allclose(mean, weights @ inputs.mean, atol=1e-9)


def test_independent_inputs_are_rounded_to_the_nearest():
    weights = np.random.default_rng(0).normal(size=(5, 7))
    inputs = Inputs(np.zeros(7), np.diag(np.arange(1.0, 8.0)), 1000)
    integers, shift = round_weights(weights, _scales(weights), inputs)
    np.testing.assert_array_equal(integers, np.round(weights / _scales(weights)[:, None]))
    assert not shift.any()


@pytest.mark.parametrize("rows", [np.zeros((50, 3)), np.ones((1, 3))], ids=["dead", "one example"])
def test_inputs_that_never_change_are_no_trouble(rows):
    weights = np.random.default_rng(0).normal(size=(2, 3))
    integers, shift = round_weights(weights, _scales(weights), _inputs_of(rows))
    assert np.isfinite(integers).all()
    assert np.isfinite(shift).all()


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_inputs_are_measured_at_every_product(head_layers, head_samples, bias):
    """Around their mean, or around zero where there is no bias to take it up."""
    layers = tuple(dataclasses.replace(layer, bias=layer.bias + bias) for layer in head_layers)
    content = convert(Network("head", layers), "float32")
    found = measure_inputs(Recording(content, head_samples))
    assert len(found) == len(layers)
    rows = np.concatenate([sample["feature"] for sample in head_samples()]).astype(np.float64)
    for inputs, layer in zip(found.values(), layers, strict=True):
        mean = rows.mean(axis=0) if bias else np.zeros(rows.shape[1])
        assert inputs.count == len(rows)
        np.testing.assert_allclose(inputs.mean, mean, rtol=1e-4, atol=1e-5)
        expected = rows.T @ rows / len(rows) - np.outer(mean, mean)
        np.testing.assert_allclose(inputs.covariance, expected, atol=1e-4 * expected.max())
        rows = np.maximum(rows @ layer.kernel + layer.bias, 0)


def test_weights_trained_for_the_nearest_integers_keep_them(head_layers, head_samples):
    content = convert(Network("head", head_layers, tuned=True), "int8", Interface(), head_samples)
    model = flatbuffer.parse(content)
    graph = model.subgraphs[0]
    products = [op for op in graph.operators if flatbuffer.op_name(model, op) == "FULLY_CONNECTED"]
    for operator, layer in zip(products, head_layers, strict=True):
        tensor = graph.tensors[int(operator.inputs[1])]
        scales = np.asarray(tensor.quantization.scale, np.float64)
        nearest = np.round(layer.kernel.T.astype(np.float32) / scales[:, None])
        assert np.abs(flatbuffer.constant(model, tensor) - nearest).max() <= 0


def test_int16_activations_leave_little_of_an_error():
    """With int16 activations what is lost is lost by the weights."""
    layers = layers_of(init_parameters(HeadSpec(48, (32, 24), 5), seed=0))
    rows = _correlated(np.random.default_rng(0), 512, 48, rank=8).astype(np.float32)
    exact = LiteRT(convert(Network("head", layers), "float32"))
    errors = []
    for tuned in (False, True):
        network = Network("head", layers, tuned=tuned)
        samples = lambda: ({"feature": row[None]} for row in rows[:256])  # noqa: E731
        runtime = LiteRT(convert(network, "int16x8", Interface(), samples))
        unseen = [{"feature": row} for row in rows[256:]]
        errors.append(np.mean([(runtime.run(x) - exact.run(x)) ** 2 for x in unseen]))
    assert errors[0] < 0.3 * errors[1]
