"""What devices round is what workers round, bit for bit."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.devices.wire import philox
from sparse_ist_tf.devices.wire.forms import FORMS
from sparse_ist_tf.ist.exchange import forms as workers
from sparse_ist_tf.streams import Stream


@pytest.mark.parametrize("seed", [(0, 0), (1, 2**31 - 1), (-5, 7), (-(2**31), -1)])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (129, 31)])
def test_draws_are_tensorflows(seed, shape):
    known = tf.random.stateless_uniform(shape, seed).numpy()
    np.testing.assert_array_equal(philox.uniform(seed, shape), known)
    known = tf.random.stateless_uniform(shape, seed, 0, 1 << 16, tf.int32).numpy()
    np.testing.assert_array_equal(philox.integers(seed, shape, 1 << 16), known)
    folded = tf.random.experimental.stateless_fold_in(tf.constant(seed), 3)
    folded = tf.random.experimental.stateless_fold_in(folded, 11)
    assert philox.fold(seed, 3, 11) == tuple(folded.numpy().tolist())


def blocks():
    rng = np.random.default_rng(0)
    block = rng.normal(size=(7, 33)).astype(np.float32) * np.logspace(-8, 3, 7)[:, None]
    block = block.astype(np.float32)
    block[2] = 0
    block[3, ::2] = 0
    return block


@pytest.mark.parametrize("name", [*FORMS])
@pytest.mark.parametrize("is_drawn", [False, True])
@pytest.mark.parametrize("inputs", [1, 32, 33])
def test_forms_are_the_workers(name, is_drawn, inputs):
    block = np.ascontiguousarray(blocks()[:, :inputs])
    if name in ("halvings", "neuron"):
        block = np.abs(block)
    seed = tuple(Stream.ROUNDING.rng(0, 3, 1).integers(1 << 31, size=2).tolist())
    known = workers.FORMS[name]
    drawn = (lambda: tf.constant(seed, tf.int32)) if is_drawn else None
    rows = known.lower(tf.constant(block), drawn)
    want = known.lift(rows, inputs).numpy()
    arrays = FORMS[name].lower(block, seed if is_drawn else None)
    got = FORMS[name].lift(arrays, inputs)
    if name == "neuron":
        np.testing.assert_allclose(got, want, rtol=1e-6)
    else:
        np.testing.assert_array_equal(got, want)
    assert got.dtype == np.float32
    shapes = [(array.dtype.name, array.shape) for array in arrays]
    assert shapes == FORMS[name].shapes(len(block), inputs)
    size = sum(array.nbytes for array in arrays)
    assert size <= np.ceil(known.neuron_bytes(inputs) * len(block)) + 1
