"""Images that a Python program holds, as a data set of its process."""

import collections
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs.split import ArraySource, Split, digest

PREFIX = "arrays:"  # of `dataset.name`
_HELD: dict[str, dict[str, Split]] = {}
_COUNTS: collections.Counter[str] = collections.Counter()  # how often each is held


def array_split(
    name: str,
    images: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
) -> Split:
    """A split of images in memory.

    Args:
        name: such as "arrays/train".
        images: uint8[n, height, width, 3], or n arrays uint8[height, width, 3] of any size.
        labels: integers [n], in [0, len(class_names)).
        class_names: one per class.
    """
    labels = np.asarray(labels, np.int32)
    if isinstance(images, np.ndarray):
        source, content = ArraySource(images), (images,)
    else:
        packed = np.array([tf.io.serialize_tensor(image).numpy() for image in images], object)
        source, content = ArraySource(packed, _unpacked), tuple(images)
    names = tuple(class_names)
    return Split(name, source, labels, names, digest("arrays", *content, labels, names))


def _unpacked(content):
    return tf.ensure_shape(tf.io.parse_tensor(content, tf.uint8), (None, None, 3))


def hold(splits: dict[str, Split]) -> str:
    """Makes splits known to this process as a data set.

    Returns:
        Its name, for `dataset.name`; the same for the same images.
    """
    contents = digest(*(splits[part].fingerprint for part in sorted(splits)))
    name = PREFIX + contents[:16]
    _HELD[name] = splits
    _COUNTS[name] += 1
    return name


def held(name: str) -> dict[str, Split]:
    """The splits of a name.

    Raises:
        RequestError: if they are of another process.
    """
    if name not in _HELD:
        raise RequestError(
            f"dataset.name={name!r}: are arrays of a Python program that has ended; for commands "
            "keep images as a folder or in an .npz file"
        )
    return _HELD[name]


def release(name: str) -> None:
    """Forgets splits, and with them their images, once for each time that they were held."""
    _COUNTS[name] -= 1
    if _COUNTS[name] <= 0:
        _HELD.pop(name, None)
