"""Keras' global settings as everything here is made with, whatever a notebook has set them to."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


@contextlib.contextmanager
def plain_keras(policy: Any = "float32") -> Iterator[None]:
    """Makes models and optimizers with Keras' own defaults, and puts back what was set before.

    Args:
        policy: of layers that don't say their dtype.
    """
    config = keras.config
    before = (config.floatx(), config.epsilon(), config.image_data_format(), config.dtype_policy())
    _set("float32", 1e-7, "channels_last", policy)
    try:
        yield
    finally:
        _set(*before)


def _set(floatx, epsilon, image_data_format, policy):
    keras.config.set_floatx(floatx)
    keras.config.set_epsilon(epsilon)
    keras.config.set_image_data_format(image_data_format)
    keras.config.set_dtype_policy(policy)
