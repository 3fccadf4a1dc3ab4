"""Local steps against Keras' own optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.ist.local import SlotOptimizer, forward, loss_and_gradients

SHAPES = [(5, 4), (4,), (4, 3), (3,)]
OPTIMIZERS = {
    "adam": keras.optimizers.Adam(0.01),
    "adamw": keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "sgd": keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "plain sgd": keras.optimizers.SGD(0.01),
    "lion": keras.optimizers.Lion(0.01),
    "clipped adam": keras.optimizers.Adam(0.01, clipnorm=0.1),
    "rmsprop": keras.optimizers.RMSprop(0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_equal_keras(name):
    optimizer = OPTIMIZERS[name]
    config = keras.optimizers.serialize(optimizer)
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    variables = [keras.Variable(value) for value in start]
    optimizer.build(variables)
    ours = SlotOptimizer(config, SHAPES)
    weights = [tf.constant(value) for value in start]
    slots = [[tf.zeros(shape)] * ours.num_slots for shape in SHAPES]
    for step in range(3):
        grads = [tf.constant(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]
        optimizer.apply(grads, variables)
        weights, slots = ours.apply(tf.constant(step), tf.constant(0.01), grads, weights, slots)
    for got, want in zip(weights, variables, strict=True):
        np.testing.assert_allclose(got.numpy(), np.asarray(want), rtol=1e-5, atol=1e-6)


def test_an_optimizer_whose_moments_cannot_travel_is_refused():
    config = keras.optimizers.serialize(keras.optimizers.Adafactor())
    with pytest.raises(RequestError, match="adafactor"):
        SlotOptimizer(config, [(64, 64), (64,)])


def test_gradients_include_the_scaling():
    """Against finite differences of the loss."""
    rng = np.random.default_rng(0)
    weights = [tf.constant(rng.normal(size=s), tf.float32) for s in SHAPES]
    features = tf.constant(rng.normal(size=(8, 5)), tf.float32)
    labels = tf.constant(rng.integers(0, 3, 8), tf.int32)
    _, right, grads = loss_and_gradients(weights, features, labels, [2.5], 0.1)

    def loss(kernel):
        return loss_and_gradients([kernel, *weights[1:]], features, labels, [2.5], 0.1)[0]

    bump = np.zeros(SHAPES[0], np.float32)
    bump[2, 1] = 1e-2
    slope = (loss(weights[0] + bump) - loss(weights[0] - bump)) / 2e-2
    assert float(grads[0][2, 1]) == pytest.approx(float(slope), rel=2e-2, abs=1e-4)
    outputs = forward(weights, features, [2.5]).numpy().argmax(1)
    assert int(right) == int((outputs == labels.numpy()).sum())
