"""Graphs without AutoGraph: what we trace has no Python control flow over tensors.

Rewriting its source would take half of a short run's time and leave files in the temporary folder
when a process is killed.

Source: https://www.tensorflow.org/api_docs/python/tf/autograph/experimental/do_not_convert
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def traced(function: Callable, **options: Any) -> Callable:
    """A tf.function of what is already written for a graph.

    Args:
        function: with tf.cond and tf.while_loop where something depends on a tensor's value.
        **options: of tf.function.
    """
    return tf.function(function, autograph=False, **options)


def as_written(function: Callable) -> Callable:
    """The same for what tf.data.Dataset.map, filter and the like trace themselves."""
    return tf.autograph.experimental.do_not_convert(function)
