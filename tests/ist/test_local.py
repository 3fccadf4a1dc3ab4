"""Local steps against Keras' own optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.ist.head import fold, hidden_statistics, logits
from sparse_ist_tf.ist.local import (
    Batches,
    LossOptions,
    SlotOptimizer,
    SubnetState,
    forward,
    logit_adjustments,
    loss_and_gradients,
    make_local_steps,
    make_steps_in_place,
)

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
        state = SubnetState(weights, slots)
        weights, slots = ours.apply(tf.constant(step), tf.constant(0.01), grads, state)
    for got, want in zip(weights, variables, strict=True):
        np.testing.assert_allclose(got.numpy(), np.asarray(want), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "clipped adam"])
def test_steps_in_place_are_the_function_of_tensors_bit_for_bit(name):
    config, rng = keras.optimizers.serialize(OPTIMIZERS[name]), np.random.default_rng(0)
    ours, options = SlotOptimizer(config, SHAPES), LossOptions([2.0])
    rows = tf.constant(rng.integers(0, 30, (3, 8)), tf.int32)
    features = tf.constant(rng.normal(size=(30, 5)), tf.float32)
    labels = tf.constant(rng.integers(0, 3, 30), tf.int32)
    batches = Batches(features, labels, rows, tf.constant([0.1, 0.2, 0.3]))
    weights, slots = _weights(rng), [[tf.zeros(shape)] * ours.num_slots for shape in SHAPES]
    columns = [ours.columns(i) for i in range(len(SHAPES))]
    for (weight, *_), value in zip(columns, weights, strict=True):
        weight.assign(value)

    def both(batches):
        state = SubnetState(weights, slots)
        wanted = make_local_steps(ours, options)(state, batches, 4, 4)
        return wanted, make_steps_in_place(ours, options)(batches, 4, 4)

    (state, *wanted), found = tf.function(both, autograph=False)(batches)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    for variables, weight, moments in zip(columns, *state, strict=True):
        for variable, want in zip(variables, [weight, *moments], strict=True):
            np.testing.assert_array_equal(variable.numpy(), want.numpy())


def test_an_optimizer_whose_moments_cannot_travel_is_refused():
    config = keras.optimizers.serialize(keras.optimizers.Adafactor())
    with pytest.raises(RequestError, match="adafactor"):
        SlotOptimizer(config, [(64, 64), (64,)])


@pytest.mark.parametrize("kwargs", [{"use_ema": True}, {"gradient_accumulation_steps": 2}])
def test_averages_and_accumulated_gradients_never_travel_as_moments(kwargs):
    config = keras.optimizers.serialize(keras.optimizers.Adam(**kwargs))
    with pytest.raises(RequestError, match="Adam can't keep averages"):
        SlotOptimizer(config, [(3, 2)])


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_gradients_include_scaling_and_normalisation(normalization):
    """Against finite differences of the loss."""
    rng = np.random.default_rng(0)
    weights = [tf.constant(rng.normal(size=s), tf.float32) for s in SHAPES]
    features = tf.constant(rng.normal(size=(8, 5)), tf.float32)
    labels = tf.constant(rng.integers(0, 3, 8), tf.int32)
    options = LossOptions([2.5], label_smoothing=0.1, normalization=normalization)
    _, right, grads = loss_and_gradients(weights, features, labels, options)

    def loss(kernel):
        return loss_and_gradients([kernel, *weights[1:]], features, labels, options)[0]

    bump = np.zeros(SHAPES[0], np.float32)
    bump[2, 1] = 1e-2
    slope = (loss(weights[0] + bump) - loss(weights[0] - bump)) / 2e-2
    assert float(grads[0][2, 1]) == pytest.approx(float(slope), rel=2e-2, abs=1e-4)
    outputs = forward(weights, features, options).numpy().argmax(1)
    assert int(right) == int((outputs == labels.numpy()).sum())


def _weights(rng):
    return [tf.constant(rng.normal(size=shape), tf.float32) for shape in SHAPES]


def test_a_normalised_head_folds_into_dense_layers():
    """A batch of all examples has their statistics: both ways must agree."""
    rng = np.random.default_rng(1)
    weights, features = _weights(rng), rng.normal(2.0, 3.0, (50, 5)).astype(np.float32)
    trained = forward(weights, features, LossOptions([1.0], normalization="batch")).numpy()
    names = ("dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias")
    head = {name: weight.numpy() for name, weight in zip(names, weights, strict=True)}
    folded = fold(head, hidden_statistics(head, features))
    np.testing.assert_allclose(logits(folded, features), trained, rtol=1e-4, atol=1e-5)


def test_dropout_depends_on_step_and_subnet_alone_and_keeps_the_mean():
    rng = np.random.default_rng(2)
    weights, features = _weights(rng), tf.constant(rng.normal(size=(4, 5)), tf.float32)
    plain = forward(weights, features, LossOptions([1.0])).numpy()
    options = LossOptions([1.0], dropout=0.5, seed=(0, 1))
    outputs = [forward(weights, features, options, step).numpy() for step in range(400)]
    np.testing.assert_array_equal(forward(weights, features, options, 3).numpy(), outputs[3])
    assert np.abs(outputs[3] - outputs[4]).max() > 0
    other = forward(weights, features, LossOptions([1.0], dropout=0.5, seed=(0, 2)), 3)
    assert np.abs(other.numpy() - outputs[3]).max() > 0
    error = np.std(outputs, axis=0) / np.sqrt(len(outputs))
    assert (np.abs(np.mean(outputs, axis=0) - plain) < 5 * error + 1e-6).all()


def test_an_adjusted_loss_is_least_where_the_logits_say_what_all_examples_do():
    """The softmax of plain logits is then the shares of all examples, not those of the shard."""
    labels = np.repeat(np.arange(3), [20, 30, 50])
    shard = np.flatnonzero(np.arange(100) % 2 | (labels == 0))
    (adjustment,) = logit_adjustments(labels, [shard], 3)
    shares = np.bincount(labels[shard]) / len(shard)
    np.testing.assert_allclose(np.exp(adjustment), shares / [0.2, 0.3, 0.5], rtol=0.02)
    options = LossOptions(adjustment=tuple(adjustment.tolist()))
    weights = [tf.zeros((1, 3)), tf.constant(np.log([0.2, 0.3, 0.5]), tf.float32)]
    args = (tf.zeros((len(shard), 1)), tf.constant(labels[shard], tf.int32))
    _, right, (_, gradient) = loss_and_gradients(weights, *args, options)
    assert np.abs(gradient).max() < 0.005
    assert int(right) == np.sum(labels[shard] == 2)  # what the head itself says is counted
    _, _, (_, plain) = loss_and_gradients(weights, *args, LossOptions())
    assert np.abs(plain).max() > 0.05


def test_alike_shards_are_not_adjusted():
    labels = np.random.default_rng(0).integers(0, 7, 60)
    labels = np.concatenate([labels, labels, labels])
    shards = [np.arange(60), np.arange(180), np.arange(60, 180)]
    assert not np.any(logit_adjustments(labels, shards, 9))


def test_a_class_that_a_shard_lacks_is_still_trained():
    labels = np.array([0] * 50 + [1] * 50)
    (adjustment,) = logit_adjustments(labels, [np.arange(50)], 2)
    np.testing.assert_allclose(np.exp(adjustment), [50.5 / 25.5, 0.5 / 25.5], rtol=1e-5)
