"""What a notebook user gives as data: arrays, lists, tf.data; checked, in one form."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs.folder import stratified_split
from sparse_ist_tf.inputs.layouts.held import array_split
from sparse_ist_tf.inputs.split import Split

_IMAGE_KEYS, _LABEL_KEYS = ("image", "images", "features"), ("label", "labels")


class Given(NamedTuple):
    """Examples as they were given."""

    inputs: "np.ndarray | list[np.ndarray]"  # images uint8[n, h, w, 3] or a list; features [n, d]
    labels: np.ndarray | None

    @property
    def are_features(self) -> bool:
        """Whether inputs are vectors."""
        return isinstance(self.inputs, np.ndarray) and self.inputs.ndim == 2

    def check_width(self, width: int) -> None:
        """Raises RequestError if features have another length."""
        found = len(self.inputs[0])
        if found != width:
            raise RequestError(f"x: has features of {found} numbers, must be {width}")


def read(x: Any, y: Any = None) -> Given:
    """Examples in one form.

    Args:
        x: images uint8[n, height, width], [n, height, width, 1 or 3], or a list of such images of
            any size; features, floats [n, d]; or a tf.data.Dataset of (image or feature, label)
            or of dictionaries as TFDS has them, in batches or one by one, read once.
        y: labels [n], numbers or texts; None where x has them, or there are none.

    Raises:
        RequestError: if they are no images or features, or as many labels aren't there.
    """
    if isinstance(x, tf.data.Dataset):
        if y is not None:
            raise RequestError("y: must not be given, the tf.data.Dataset has the labels")
        x, y = _read_dataset(x)
    inputs = _inputs(x)
    if not len(inputs):
        raise RequestError("x: must hold at least one example, has none")
    labels = None if y is None else _labels(y, len(inputs))
    return Given(inputs, labels)


def _read_dataset(data):
    spec = data.element_spec
    if isinstance(spec, dict):
        keys = [next((k for k in names if k in spec), None) for names in (_IMAGE_KEYS, _LABEL_KEYS)]
        if keys[0] is None:
            raise RequestError(f"x: its elements have {', '.join(spec)}; must have 'image'")
        data = data.map(lambda row: tuple(row[key] for key in keys if key))
    elif not isinstance(spec, tuple):
        data = data.map(lambda image: (image,))
    spec = data.element_spec
    if len(spec) > 2 or any(not isinstance(part, tf.TensorSpec) for part in spec):
        raise RequestError(f"x: its elements are {spec}; must be (image or feature, label)")
    is_batched = spec[1].shape.rank == 1 if len(spec) == 2 else spec[0].shape.rank in (2, 4)
    if is_batched:
        data = data.unbatch()
    rows = list(data.as_numpy_iterator())
    inputs = [row[0] for row in rows]
    return inputs, np.array([row[1] for row in rows]) if len(spec) == 2 else None


def _inputs(x):
    if isinstance(x, list | tuple):
        arrays = [np.asarray(one) for one in x]
        if len({one.shape for one in arrays}) > 1:
            return [_images(one[None])[0] for one in arrays]
        x = np.stack(arrays) if arrays else np.zeros((0, 1, 1, 3), np.uint8)
    x = np.asarray(x)
    if x.ndim == 2 and x.dtype.kind == "f":
        if not np.isfinite(x).all():
            raise RequestError("x: features must be finite, some aren't")
        return np.ascontiguousarray(x, np.float32)
    return _images(x)


def _images(x: np.ndarray) -> np.ndarray:
    """uint8[n, height, width, 3] of images, grey ones too."""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or 0 in x.shape[1:]:
        raise RequestError(
            f"x: is {x.dtype}{list(x.shape)}; must be images [n, height, width] or [n, height, "
            "width, 3], or features, floats [n, d]"
        )
    if x.dtype != np.uint8:
        if x.dtype.kind not in "iuf" or not len(x):
            raise RequestError(f"x: images are {x.dtype}, must be uint8")
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= 255) or (high <= 1 and x.dtype.kind == "f"):
            raise RequestError(
                f"x: images are {x.dtype} from {low:g} to {high:g}, must be from 0 to 255: "
                "scale them to that, as uint8"
            )
        x = np.round(x).astype(np.uint8)
    return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x


def _labels(y, count: int) -> np.ndarray:
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise RequestError(f"y: is {list(labels.shape)}, must be one label for each of {count:,}")
    if labels.dtype.kind == "S" or labels.dtype == object:
        labels = np.array([tf.compat.as_text(x) if isinstance(x, bytes) else x for x in labels])
    if labels.dtype.kind not in "iuU":
        raise RequestError(f"y: is {labels.dtype}, must be whole numbers or texts")
    return labels


class Classes(NamedTuple):
    """The classes of a classifier."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, labels: np.ndarray, names: Iterable[str] | None = None) -> "Classes":
        """Those of some labels.

        Args:
            labels: integers, or texts.
            names: one per class, in the order of the integers; where None texts in alphabetic
                order, integers as they are written.

        Raises:
            RequestError: if names don't fit, or there is a single class.
        """
        if names is None and labels.dtype.kind == "U":
            found = tuple(np.unique(labels).tolist())
        elif names is None:
            if labels.min() < 0:
                raise RequestError(f"y: has label {labels.min()}, must be at least 0")
            found = tuple(str(k) for k in range(int(labels.max()) + 1))
        else:
            found = tuple(map(str, names))
        if len(found) < 2 or len(set(found)) < len(found):
            raise RequestError(f"classes: are {', '.join(found)}; must be 2 or more, all different")
        return cls(found)

    def indices(self, labels: np.ndarray) -> np.ndarray:
        """Labels as int32 in [0, number of classes).

        Raises:
            RequestError: if one is of no class.
        """
        if labels.dtype.kind == "U":
            place = {name: k for k, name in enumerate(self.names)}
            if unknown := sorted(set(labels.tolist()) - set(place)):
                raise RequestError(f"y: has {unknown[0]!r}, must be of {', '.join(self.names)}")
            return np.array([place[label] for label in labels.tolist()], np.int32)
        if labels.min() < 0 or labels.max() >= len(self.names):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise RequestError(f"y: has label {wrong}, must be in [0, {len(self.names)})")
        return labels.astype(np.int32)


def as_split(
    images: Any, labels: np.ndarray | None = None, names: Sequence[str] = ("0",), part: str = "test"
) -> Split:
    """Images as a split; of no class where there are no labels.

    Raises:
        RequestError: as read.
    """
    given = read(images)
    if given.are_features:
        raise RequestError("x: are features, must be images")
    labels = np.zeros(len(given.inputs), np.int32) if labels is None else labels
    return array_split(f"arrays/{part}", given.inputs, labels, names)


def held_out(
    inputs: "np.ndarray | list[np.ndarray]", labels: np.ndarray, names: Sequence[str], seed: int
) -> dict[str, tuple["np.ndarray | list[np.ndarray]", np.ndarray]]:
    """Four fifths to train, and a fifth of every class to test with.

    Args:
        inputs: examples.
        labels: int32[n].
        names: of the classes.
        seed: of the draw.

    Returns:
        {"train": (inputs, labels), "test": (inputs, labels)}.

    Raises:
        RequestError: if a class has a single example.
    """
    counts = np.bincount(labels)
    if (counts == 1).any():
        raise RequestError(
            f"y: class {names[int(np.argmax(counts == 1))]} has one example; a fifth of each is "
            "held out: give more, or validation_data"
        )
    out = {}
    for part, rows in stratified_split(labels, seed).items():
        some = [inputs[k] for k in rows] if isinstance(inputs, list) else inputs[rows]
        out[part] = (some, labels[rows])
    return out
