"""The steps of a subnet by ist.local and Keras' own optimizer, which files are held against."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sparse_ist_tf.export.training.recipe import ADJUSTMENT, STEP, Recipe
from sparse_ist_tf.ist.local import (
    Batches,
    LossOptions,
    SlotOptimizer,
    SubnetState,
    make_local_steps,
)


class Steps(NamedTuple):
    """What some steps left.

    Args:
        state: weights and moments by name.
        losses: float32[steps].
        right: right answers.
    """

    state: dict[str, np.ndarray]
    losses: np.ndarray
    right: int


def by_keras(recipe: Recipe, state: dict[str, np.ndarray], batches: dict[str, np.ndarray]) -> Steps:
    """What the same steps make of a state in ist.local, with Keras' own optimizer.

    Args:
        recipe: of the subnet.
        state: all of it, by the names of Recipe.shapes.
        batches: "features" float32[steps, b, feature_dim], "labels" int32[steps, b], "rates"
            float32[steps].

    Returns:
        Weights and moments by name, and what was seen of each step.
    """
    columns = recipe.columns.values()
    weights = [tf.constant(state[names[0]]) for names in columns]
    slots = [[tf.constant(state[name]) for name in names[1:]] for names in columns]
    optimizer = SlotOptimizer(dict(recipe.optimizer), list(recipe.weights.values()))
    adjustment = tuple(map(float, state[ADJUSTMENT]))
    options = LossOptions(recipe.scales, recipe.label_smoothing, adjustment=adjustment)
    labels = batches["labels"]
    fed = Batches(
        tf.constant(np.concatenate(batches["features"])),
        tf.constant(labels.ravel(), tf.int32),
        tf.reshape(tf.range(labels.size), labels.shape),
        tf.constant(batches["rates"]),
    )
    steps = tf.function(make_local_steps(optimizer, options))
    now, losses, right = steps(SubnetState(weights, slots), fed, 0, tf.constant(state[STEP]))
    found = {}
    for names, weight, moments in zip(columns, now.weights, now.slots, strict=True):
        found |= zip(names, [weight.numpy(), *(m.numpy() for m in moments)], strict=True)
    return Steps(found, losses.numpy(), int(right))
