"""Telling TensorFlow's tensors from arrays without importing TensorFlow."""

import sys


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor of TensorFlow, or a symbol of one.

    A program that hasn't imported TensorFlow has none, and isn't made to import it.

    Args:
        value: anything.
    """
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and bool(tensorflow.is_tensor(value))
