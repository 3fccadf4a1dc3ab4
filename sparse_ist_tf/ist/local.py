"""The local steps of one subnet: of its variables in place, or a function of tensors."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sparse_ist_tf.encoder.plain import plain_keras
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.ist.head import EPSILON


class SubnetState(NamedTuple):
    """What a subnet trains.

    Args:
        weights: kernel, bias, kernel, bias, ...
        slots: the moments of each weight, in its shape.
    """

    weights: list[tf.Tensor]
    slots: list[list[tf.Tensor]]


class Batches(NamedTuple):
    """What a subnet trains on for some steps.

    Args:
        features: float32[n, feature_dim], all of them.
        labels: int32[n].
        rows: int32[steps, b], the examples of each step.
        rates: float32[steps], the learning rates.
    """

    features: tf.Tensor
    labels: tf.Tensor
    rows: tf.Tensor
    rates: tf.Tensor


class SlotOptimizer:
    """A Keras optimizer of weights and moments: of its own variables, or of tensors.

    Args:
        config: {"class_name": ..., "config": ...} as keras.optimizers.serialize gives it.
        shapes: of the weights.

    Raises:
        RequestError: if a moment hasn't the shape of its weight.

    Example:
        >>> import keras
        >>> from sparse_ist_tf.ist.local import SlotOptimizer
        >>> config = keras.optimizers.serialize(keras.optimizers.Adam())
        >>> SlotOptimizer(config, [(3, 2), (2,)]).num_slots
        2
    """

    def __init__(self, config: dict, shapes: Sequence[tuple[int, ...]]):
        with tf.init_scope(), plain_keras():
            self.weights = [
                keras.Variable(np.zeros(shape, np.float32), name=f"weight{i}")
                for i, shape in enumerate(shapes)
            ]
            config = {**config, "config": {**config["config"], "learning_rate": 1e-3}}
            self.optimizer = keras.optimizers.deserialize(config)
            held = self.optimizer.use_ema or self.optimizer.gradient_accumulation_steps
            if held:  # update_step knows nothing of these, their variables would travel in vain
                name = type(self.optimizer).__name__
                raise RequestError(
                    f"optimizer.kwargs: {name} can't keep averages or accumulate gradients here"
                )
            self.optimizer.build(self.weights)
        # TensorFlow's own versions assign to tf.Variables, which a stateless scope has none of. Of
        # variables these make the same numbers.
        self.optimizer.assign = lambda variable, value: variable.assign(value)
        self.optimizer.assign_add = lambda variable, value: variable.assign(variable + value)
        self.optimizer.assign_sub = lambda variable, value: variable.assign(variable - value)
        order = {id(weight): i for i, weight in enumerate(self.weights)}
        self.optimizer._get_variable_index = lambda variable: order[id(variable)]
        name = self.optimizer.name
        # variables: iterations, learning rate, then the moments in an order of Keras' own
        self.places: list[list[int]] = [[] for _ in shapes]
        for place, variable in enumerate(self.optimizer.variables[2:]):
            match = re.search(r"weight(\d+)_", variable.path)
            owner = int(match.group(1)) if match else None
            if owner is None or tuple(variable.shape) != tuple(shapes[owner]):
                raise RequestError(
                    f"optimizer.name={name!r}: its variable {variable.path} has not the shape of "
                    "a weight, so it can't travel with the neurons; adam, adamw, sgd or lion can"
                )
            self.places[owner].append(place)
        counts = {len(places) for places in self.places}
        if len(counts) != 1:
            raise RequestError(f"optimizer.name={name!r}: keeps unlike moments for its weights")
        self.num_slots = counts.pop()
        # Of each moment, is it a mean of gradients, "first", or of their squares, "second"?
        paths = [self.optimizer.variables[2 + place].path for place in self.places[0]]
        self.kinds = ["second" if "velocity" in path else "first" for path in paths]

    def apply(
        self, step: tf.Tensor, rate: tf.Tensor, gradients: Sequence[tf.Tensor], state: SubnetState
    ) -> SubnetState:
        """One update.

        Args:
            step: int32, updates before this one.
            rate: float32, the learning rate.
            gradients: a tensor per weight.
            state: weights and moments, num_slots of each weight.
        """
        weights, slots = state
        flat = [None] * sum(len(places) for places in self.places)
        for places, moments in zip(self.places, slots, strict=True):
            for place, moment in zip(places, moments, strict=True):
                flat[place] = moment
        optimizer = self.optimizer
        state = zip(
            optimizer.variables,
            [tf.cast(step, optimizer.iterations.dtype), tf.cast(rate, tf.float32), *flat],
            strict=True,
        )
        state = [*state, *zip(self.weights, weights, strict=True)]
        with keras.StatelessScope(state_mapping=state) as scope:
            pairs = zip(self.weights, optimizer._clip_gradients(gradients), strict=True)
            for weight, gradient in pairs:
                self._update_one(weight, gradient, rate)
        now = scope.get_current_value
        slots = [[now(optimizer.variables[2 + i]) for i in places] for places in self.places]
        return SubnetState([now(weight) for weight in self.weights], slots)

    def columns(self, index: int) -> list[tf.Variable]:
        """A weight and its moments: the variables that update changes."""
        moments = (self.optimizer.variables[2 + place] for place in self.places[index])
        return [variable.value for variable in (self.weights[index], *moments)]

    def update(self, step: tf.Tensor, rate: tf.Tensor, gradients: Sequence[tf.Tensor]) -> None:
        """One update of the optimizer's own variables.

        One weight after the other, the last one first as gradients are ready in this order: of the
        temporary arrays (three of a weight's shape in Adam) those of one weight are there at a
        time.

        Args:
            step: int32, updates before this one.
            rate: float32, the learning rate.
            gradients: a tensor per weight.
        """
        self.optimizer.iterations.assign(tf.cast(step, self.optimizer.iterations.dtype))
        gradients, before = self.optimizer._clip_gradients(gradients), []
        for weight, gradient in zip(self.weights[::-1], gradients[::-1], strict=True):
            with tf.control_dependencies(before):
                self._update_one(weight, gradient, rate)
            before = [weight.value.read_value()]

    def _update_one(self, weight, gradient, rate):
        decay = self.optimizer.weight_decay
        if decay:
            weight.assign(weight - weight * decay * rate)
        self.optimizer.update_step(gradient, weight, rate)


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What a subnet's loss depends on besides its weights and batch.

    Args:
        scales: layer width over subnet width, for each hidden layer.
        label_smoothing: in [0, 1).
        normalization: of hidden layers, "none" or "batch" (by a batch's mean and std, before
            the bias, which takes the place of its offset; a gain would do what the next kernel
            does).
        dropout: in [0, 1), of hidden neurons.
        seed: of the dropout, two integers.
        adjustment: what the loss adds to the logits, a number per class; none where empty.
    """

    scales: Sequence[float] = ()
    label_smoothing: float = 0.0
    normalization: str = "none"
    dropout: float = 0.0
    seed: tuple[int, int] = (0, 0)
    adjustment: tuple[float, ...] = ()


def logit_adjustments(
    labels: np.ndarray, shards: Sequence[np.ndarray], num_classes: int
) -> list[np.ndarray]:
    """What makes up for unlike shards: the log of a class's share of a shard over its share of all.

    A subnet that trains with it doesn't learn how frequent classes are in its shard, which is of no
    use to the merged head.

    Source: "Long-tail learning via logit adjustment" (Menon et al., 2021), equation 10; for workers
    with unlike shards "Federated Learning with Label Distribution Skew via Logits Calibration"
    (Zhang et al., 2022). Shares are counted with one more example, divided as all examples are, so
    that a class that a shard lacks has a share.

    Args:
        labels: int32[n], of all examples.
        shards: the examples that each subnet draws from.
        num_classes: of the labels.

    Returns:
        float32[num_classes] of each shard, all zero where it has the classes as all examples do.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.ist.local import logit_adjustments
        >>> labels, shards = np.array([0, 0, 1, 1]), [np.array([0, 1, 2]), np.arange(4)]
        >>> [np.exp(part).round(2).tolist() for part in logit_adjustments(labels, shards, 2)]
        [[1.25, 0.75], [1.0, 1.0]]
    """
    every = np.bincount(labels, minlength=num_classes)
    found = []
    for shard in shards:
        counts = np.bincount(labels[shard], minlength=num_classes)
        # Exact where they are alike, as both are then the same product of integers.
        ratio = (counts * len(labels) + every) / (every * (len(shard) + 1)).clip(1)
        found.append(np.log(np.where(every > 0, ratio, 1.0)).astype(np.float32))
    return found


def forward(
    weights: Sequence[tf.Tensor],
    features: tf.Tensor,
    options: LossOptions,
    step: tf.Tensor | int = 0,
) -> tf.Tensor:
    """The logits of a subnet while it trains.

    Source: for the normalisation "Batch Normalization" (Ioffe and Szegedy, 2015), algorithm 1.

    Args:
        weights: kernel, bias, kernel, bias, ...
        features: float32[b, feature_dim].
        options: scaling, normalisation and dropout.
        step: int32, which neurons drop out.

    Returns:
        float32[b, num_classes].

    Example:
        >>> import tensorflow as tf
        >>> from sparse_ist_tf.ist.local import LossOptions, forward
        >>> weights = [tf.ones((2, 3)), tf.zeros(3), tf.ones((3, 1)), tf.zeros(1)]
        >>> float(forward(weights, tf.ones((1, 2)), LossOptions(scales=[2.0]))[0, 0])
        12.0
    """
    x, layers = features, len(weights) // 2
    for i in range(layers):
        x, hidden = tf.matmul(x, weights[2 * i]), i < layers - 1
        if hidden and options.normalization == "batch":
            mean, variance = tf.nn.moments(x, axes=0)
            x = (x - mean) * tf.math.rsqrt(variance + EPSILON)
        x = tf.nn.bias_add(x, weights[2 * i + 1])
        if not hidden:
            return x
        x = tf.nn.relu(x)
        if options.dropout:
            # A stream of its own for every run, subnet, step and layer, whatever worker hosts it.
            key = tf.stack([options.seed[0] * layers + i, options.seed[1]])
            key = tf.random.experimental.stateless_fold_in(key, step)
            x = tf.nn.experimental.stateless_dropout(x, options.dropout, key)
        if options.scales[i] != 1.0:
            x = x * options.scales[i]
    return x


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
    """The mean cross-entropy of a batch.

    Args:
        logits: float32[b, num_classes].
        labels: int32[b].
        label_smoothing: in [0, 1).

    Returns:
        A float32 scalar, in nats.
    """
    if label_smoothing:
        count = logits.shape[-1]
        truth = tf.one_hot(labels, count) * (1 - label_smoothing) + label_smoothing / count
        losses = tf.nn.softmax_cross_entropy_with_logits(truth, logits)
    else:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(losses)


def loss_and_gradients(
    weights: Sequence[tf.Tensor],
    features: tf.Tensor,
    labels: tf.Tensor,
    options: LossOptions,
    step: tf.Tensor | int = 0,
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Cross-entropy of a batch.

    Args:
        weights: kernel, bias, kernel, bias, ...
        features: float32[b, feature_dim].
        labels: int32[b].
        options: as forward.
        step: as forward.

    Returns:
        (mean loss, number of right answers, gradients).
    """
    with tf.GradientTape() as tape:
        tape.watch(weights)
        logits = forward(weights, features, options, step)
        adjusted = logits + tf.constant(options.adjustment) if options.adjustment else logits
        loss = cross_entropy(adjusted, labels, options.label_smoothing)
    right = tf.reduce_sum(tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.int32))
    return loss, right, tape.gradient(loss, weights)


def make_local_steps(optimizer: SlotOptimizer, options: LossOptions) -> Callable:
    """The function that trains one subnet for some steps.

    Returns:
        f(state, batches, first_step int32, updates int32) -> (state, losses float32[steps], right
        int32); `first_step` counts steps of the run, `updates` those that the moments have seen.
    """
    count = len(optimizer.weights)

    def local_steps(state, batches, first_step, updates):
        def step(i, flat):
            state = _unflatten(flat, count, optimizer.num_slots)
            *seen, gradients = _step(state.weights, batches, i, first_step, options)
            state = optimizer.apply(updates + i, batches.rates[i], gradients, state)
            return *seen, tf.nest.flatten(list(state))

        losses, right, out = _loop(step, batches, tf.nest.flatten(list(state)))
        return _unflatten(out, count, optimizer.num_slots), losses, right

    return local_steps


def make_steps_in_place(optimizer: SlotOptimizer, options: LossOptions) -> Callable:
    """The function that trains the optimizer's own variables for some steps.

    Above them there are at most the gradients, and temporary arrays as SlotOptimizer.update says.

    Returns:
        f(batches, first_step int32, updates int32) -> (losses float32[steps], right int32), as
        make_local_steps.
    """

    def local_steps(batches, first_step, updates):
        def step(i, _):
            weights = [weight.value.read_value() for weight in optimizer.weights]
            *seen, gradients = _step(weights, batches, i, first_step, options)
            optimizer.update(updates + i, batches.rates[i], gradients)
            return *seen, []

        losses, right, _ = _loop(step, batches, [])
        return losses, right

    return local_steps


def _step(weights, batches, i, first_step, options):
    batch = batches.rows[i]
    features, labels = tf.gather(batches.features, batch), tf.gather(batches.labels, batch)
    return loss_and_gradients(weights, features, labels, options, first_step + i)


def _loop(step, batches, flat):
    """Losses, right answers and what step made of flat, for all batches, one after the other."""
    count = tf.shape(batches.rows)[0]
    losses = tf.TensorArray(tf.float32, size=count, element_shape=())

    def body(i, losses, right, *flat):
        loss, hits, flat = step(i, flat)
        return (i + 1, losses.write(i, loss), right + hits, *flat)

    start = (0, losses, 0, *flat)
    out = tf.while_loop(lambda i, *_: i < count, body, start, parallel_iterations=1)
    return out[1].stack(), out[2], out[3:]


def _unflatten(flat, count: int, num_slots: int) -> SubnetState:
    weights, rest = list(flat[:count]), list(flat[count:])
    slots = [rest[i * num_slots : (i + 1) * num_slots] for i in range(count)]
    return SubnetState(weights, slots)
