"""Forms of numbers: what they keep, how many bytes that takes, and that rounding is fair."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.ist.exchange.forms import FORMS


def _seed(*numbers):
    return lambda: tf.constant(numbers)


@pytest.mark.parametrize("name", FORMS)
@given(st.integers(0, 9), st.integers(1, 11), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=25)
def test_what_is_packed_is_unpacked(name, neurons, inputs, seed):
    form, block = FORMS[name], np.random.default_rng(seed).normal(size=(neurons, inputs))
    rows = form.lower(tf.constant(block, tf.float32), _seed(seed, 1))
    words = tf.concat(form.pack(rows), axis=0)
    assert words.dtype == tf.int32
    assert words.shape[0] == int(form.num_words(tf.constant(neurons), inputs))
    assert neurons * form.neuron_bytes(inputs) <= 4 * words.shape[0]
    assert 4 * words.shape[0] < neurons * form.neuron_bytes(inputs) + 4
    unpacked = form.unpack(words, tf.constant(neurons), inputs)
    np.testing.assert_array_equal(form.lift(unpacked, inputs), form.lift(rows, inputs))


@pytest.mark.parametrize(
    ("name", "error"), [("float32", 0), ("bfloat16", 2**-7), ("float16", 2**-11)]
)
def test_floats_are_off_by_a_share_of_themselves(name, error):
    block = tf.random.stateless_normal((50, 30), (1, 2))
    found = FORMS[name].lift(FORMS[name].lower(block, _seed(1, 2)), 30)
    assert (np.abs(found - block) <= error * np.abs(block)).all()


@pytest.mark.parametrize(("name", "most"), [("int8", 127), ("int4", 7)])
def test_integers_are_off_by_less_than_a_step_of_their_neuron(name, most):
    block = tf.random.stateless_normal((50, 30), (1, 2)) * 10.0 ** tf.range(-30.0, 20)[:, None]
    rows = FORMS[name].lower(block, _seed(3, 4))
    steps = np.abs(block).max(axis=1, keepdims=True) / most
    assert (np.abs(FORMS[name].lift(rows, 30) - block) <= steps * 1.001).all()
    assert np.abs(rows[0]).max() == most
    assert not np.array_equal(rows[0], FORMS[name].lower(block, _seed(4, 4))[0])
    np.testing.assert_array_equal(rows[0], FORMS[name].lower(block, _seed(3, 4))[0])
    nearest = FORMS[name].lift(FORMS[name].lower(block), 30)
    assert (np.abs(nearest - block) <= steps * 0.5001).all()


@pytest.mark.parametrize("name", ["bfloat16", "int8", "int4"])
def test_rounding_is_right_in_the_mean(name):
    block = np.repeat(np.random.default_rng(0).normal(size=(1, 6)), 40000, axis=0)
    form = FORMS[name]
    found = (
        form.lift(form.lower(tf.constant(block, tf.float32), _seed(1, 2)), 6)
        .numpy()
        .astype(np.float64)
    )
    spread = found.std(axis=0) / 200
    assert (np.abs(found.mean(axis=0) - block[0]) <= 5 * spread + 1e-6).all()


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_nothing_learnt_is_nothing_sent(name):
    form = FORMS[name]
    assert not np.any(form.lift(form.lower(tf.zeros((3, 4)), _seed(1, 2)), 4))


def test_one_number_per_neuron_is_the_mean_over_its_inputs():
    block = tf.reshape(tf.range(6.0), (2, 3))
    form = FORMS["neuron"]
    np.testing.assert_array_equal(form.lift(form.lower(block), 3), [[1] * 3, [4] * 3])


def test_halvings_are_right_in_the_mean_and_never_zero():
    block = np.repeat([[1.0, 0.5, 0.3, 1e-3, 2.0**-15, 1e-9]], 40000, axis=0).astype(np.float32)
    block *= 3e-8
    form = FORMS["halvings"]
    rows = form.lower(tf.constant(block), _seed(1, 2))
    found = form.lift(rows, 6).numpy().astype(np.float64)
    np.testing.assert_allclose(found[:, :5].mean(axis=0), block[0, :5], rtol=0.01)
    np.testing.assert_array_equal(found[:, 5], found[0, 0] * 2.0**-15)
    assert (found <= 2 * np.maximum(block, 3e-8 * 2.0**-15)).all()
    assert (found >= 0.5 * block).all()
    nearest = form.lift(form.lower(tf.constant(block[:1])), 6)[0, :3]
    np.testing.assert_array_equal(nearest, block[0, 0] * np.float32([1.0, 0.5, 0.25]))
    assert not np.any(form.lift(form.lower(tf.zeros((3, 4)), _seed(1, 2)), 4))
