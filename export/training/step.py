"""One step of a subnet's training, forward, back and update, in operators that any device has.

Written out, not derived: a derived one has operators that microcontrollers lack, and would be no
second way to compute what `ist.local` does.
"""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from sparse_ist_tf.export.training.recipe import ADJUSTMENT, Recipe, Update

State = dict[str, tf.Tensor]  # by the names of Recipe.shapes


class Rates(NamedTuple):
    """How far a step goes.

    Args:
        plain: float32, the learning rate, by which weights decay.
        corrected: the same times what makes up for moments that began at 0; of Adam alone.
    """

    plain: tf.Tensor
    corrected: tf.Tensor


def logits_of(recipe: Recipe, state: Mapping[str, tf.Tensor], features: tf.Tensor) -> tf.Tensor:
    """What a subnet makes of features.

    Args:
        recipe: of it.
        state: its weights at least.
        features: float32[b, feature_dim].

    Returns:
        float32[b, num_classes].
    """
    return _forward(recipe, state, features)[-1]


def step(
    recipe: Recipe,
    state: Mapping[str, tf.Tensor],
    features: tf.Tensor,
    truth: tf.Tensor,
    rates: Rates,
) -> tuple[State, tf.Tensor, tf.Tensor]:
    """A step with one batch.

    Args:
        recipe: of the subnet.
        state: all of it.
        features: float32[b, feature_dim].
        truth: float32[b, num_classes], 1 at the label.
        rates: of this step.

    Returns:
        (weights and moments behind it, mean loss before it in nats, logits float32[b, classes]).
    """
    inputs = _forward(recipe, state, features)
    logits = inputs.pop()
    adjusted = logits + state[ADJUSTMENT]
    smoothing, count = recipe.label_smoothing, recipe.num_classes
    wanted = truth * (1 - smoothing) + smoothing / count if smoothing else truth
    loss = -tf.reduce_sum(wanted * tf.nn.log_softmax(adjusted)) / recipe.batch_size
    back = (tf.nn.softmax(adjusted) - wanted) / recipe.batch_size
    gradients = {}
    for i in reversed(range(len(inputs))):
        gradients[f"dense_{i}_kernel"] = tf.matmul(tf.transpose(inputs[i]), back)
        gradients[f"dense_{i}_bias"] = tf.reduce_sum(back, axis=0)
        if i:
            back = tf.matmul(back, tf.transpose(state[f"dense_{i}_kernel"]))
            back *= tf.cast(inputs[i] > 0, tf.float32) * recipe.scales[i - 1]
    return _updated(recipe, state, gradients, rates), loss, logits


def _forward(recipe, state, features) -> list[tf.Tensor]:
    """The inputs of each layer, and the logits."""
    found = [features]
    for i in range(len(recipe.hidden) + 1):
        x = tf.matmul(found[-1], state[f"dense_{i}_kernel"]) + state[f"dense_{i}_bias"]
        if i < len(recipe.hidden):
            x = tf.nn.relu(x)
            x = x * recipe.scales[i] if recipe.scales[i] != 1 else x
        found.append(x)
    return found


def _updated(recipe, state, gradients, rates) -> State:
    """Weights and moments behind a step."""
    update, rate, now = recipe.update, rates.plain, {}
    for weight, *moments in recipe.columns.values():
        value, gradient = state[weight], gradients[weight]
        if update.weight_decay:
            value = value - value * update.weight_decay * rate
        if update.kind == "sgd":
            now[weight] = value - rate * gradient
        elif update.kind == "momentum":
            moved = state[moments[0]] * update.momentum - rate * gradient
            ahead = moved * update.momentum - rate * gradient if update.nesterov else moved
            now[moments[0]], now[weight] = moved, value + ahead
        else:
            mean, square = (state[moment] for moment in moments)
            mean = mean + (gradient - mean) * (1 - update.beta_1)
            square = square + (gradient * gradient - square) * (1 - update.beta_2)
            now[moments[0]], now[moments[1]] = mean, square
            now[weight] = value - mean * rates.corrected / (tf.sqrt(square) + update.epsilon)
    return now


def rates_of(update: Update, rate: tf.Tensor, steps: tf.Tensor) -> Rates:
    """The rates of a step.

    Args:
        update: the optimizer's.
        rate: float32, the learning rate.
        steps: int32, updates with this one.
    """
    if update.kind != "adam":
        return Rates(rate, rate)
    count = tf.cast(steps, tf.float32)
    first = 1 - tf.pow(tf.constant(update.beta_1), count)
    second = 1 - tf.pow(tf.constant(update.beta_2), count)
    return Rates(rate, rate * tf.sqrt(second) / first)
