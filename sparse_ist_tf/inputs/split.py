"""One part of a data set: images by number, decoded and scaled as they are read."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from sparse_ist_tf.masks.cells import scale_image
from sparse_ist_tf.tracing import as_written

Scale: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (image, its name) to pixels
Element: TypeAlias = "tf.Tensor | tuple[tf.Tensor, ...]"  # what a source's stream yields


class Source(Protocol):
    """Where a split's images come from."""

    def stream(self, start: int, stop: int) -> tf.data.Dataset:
        """Images start to stop of the split, in order, each as decode takes it."""

    def decode(self, element: Element, /) -> tf.Tensor:
        """An element of the stream to uint8[height, width, 3]; runs in a graph."""

    def take(self, rows: np.ndarray) -> "Source":
        """The source of these images alone."""


def _as_it_is(image: Element) -> tf.Tensor:
    return image


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory, or what they are decoded from.

    Args:
        images: uint8[n, height, width, 3], or n elements that decode takes.
        decode: an element to uint8[height, width, 3]; runs in a graph.
    """

    images: np.ndarray
    decode: Callable[[Element], tf.Tensor] = _as_it_is

    def stream(self, start: int, stop: int) -> tf.data.Dataset:
        """Images start to stop of the split, in order."""
        return tf.data.Dataset.from_tensor_slices(self.images[start:stop])

    def take(self, rows: np.ndarray) -> "ArraySource":
        """The source of these images alone."""
        return dataclasses.replace(self, images=self.images[rows])


def keep(elements: tf.data.Dataset, wanted: np.ndarray) -> tf.data.Dataset:
    """The elements where wanted, bool with an entry for each, is True."""
    marked = tf.data.Dataset.zip(elements, tf.data.Dataset.from_tensor_slices(wanted))
    some = marked.filter(as_written(lambda _, keep: keep))
    return some.map(as_written(lambda element, _: element))


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set as a random-access source of decoded images.

    Args:
        name: such as "digits/train".
        source: where the images come from.
        labels: int32[size], in [0, num_classes).
        class_names: one per class, in the order of the labels.
        fingerprint: hexadecimal digest that changes if the data set, its version, the split or
            the order of its images do; goes into the keys of caches.
        earlier_fingerprint: what versions up to 0.2.0 knew the same images by, where they had
            another; empty elsewhere.
        files: (path below the folder, digest of contents) of each image, where they are files.
        notes: lines that say how the data was found, and what was passed over.

    Raises:
        ValueError: if there are no images.
    """

    name: str
    source: Source
    labels: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    earlier_fingerprint: str = ""
    files: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise ValueError(f"{self.name}: has no images")

    def as_before(self) -> "Split":
        """The same with the fingerprint that versions up to 0.2.0 gave it."""
        return dataclasses.replace(self, fingerprint=self.earlier_fingerprint or self.fingerprint)

    @property
    def size(self) -> int:
        """How many images."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """How many classes."""
        return len(self.class_names)

    def dataset(
        self,
        scale: int | Scale,
        *,
        start: int = 0,
        stop: int | None = None,
        batch_size: int | None = None,
    ) -> tf.data.Dataset:
        """Images in ascending order, read, decoded and scaled by parallel, prefetching stages.

        Args:
            scale: a function such as Scaling has them, of a decoded image and what errors call it;
                or a side in pixels, at least 1, of a square that the whole image is scaled to,
                bilinear with antialiasing.
            start: first image, in [0, size].
            stop: the image after the last, in [start, size]; None for size.
            batch_size: images of a batch, the last may be smaller; None for single images.

        Returns:
            Dictionaries of "image", the pixels that scale makes, "label" int32 and "index" int64,
            the place in the split, which a fixed mask depends on; with a batch axis in front where
            batch_size is given. Iterate inside decoding.image_errors() for errors of one line.

        Raises:
            ValueError: if an argument isn't allowed.

        Example:
            >>> from sparse_ist_tf.inputs import datasets
            >>> rows = datasets.load("digits")["test"].dataset(64, start=5, batch_size=2)
            >>> row = next(iter(rows))
            >>> row["image"].shape, row["index"].numpy().tolist()
            (TensorShape([2, 64, 64, 3]), [5, 6])
        """
        stop = self.size if stop is None else stop
        if isinstance(scale, int) and scale < 1:
            raise ValueError(f"image_size={scale}: must be at least 1")
        if not 0 <= start <= stop <= self.size:
            raise ValueError(
                f"{self.name}: images {start} to {stop}: must be 0 <= start <= stop <= {self.size}"
            )
        data = self._read(self._elements(start, stop), scale)
        data = data.apply(tf.data.experimental.assert_cardinality(stop - start))
        if batch_size is not None:
            data = data.batch(batch_size)
        return data.prefetch(tf.data.AUTOTUNE)

    def pick(self, scale: int | Scale, indices: np.ndarray) -> tf.data.Dataset:
        """Some images only; the others are not decoded.

        Args:
            scale: as of dataset().
            indices: places in the split, ascending.

        Returns:
            Single images as dataset() has them.
        """
        wanted = np.zeros(self.size, bool)
        wanted[indices] = True
        stop = int(np.flatnonzero(wanted).max(initial=-1)) + 1
        return self._read(keep(self._elements(0, stop), wanted[:stop]), scale)

    def _elements(self, start, stop):
        return tf.data.Dataset.zip(
            self.source.stream(start, stop),
            tf.data.Dataset.from_tensor_slices(self.labels[start:stop].astype(np.int32)),
            tf.data.Dataset.range(start, stop),
        )

    def _read(self, elements, scale):
        def read(element, label, index):
            image = self.source.decode(element)
            if isinstance(scale, int):
                image = scale_image(image, scale)
            else:
                image = scale(image, self._called(element, index))
            return {"image": image, "label": label, "index": index}

        return elements.map(
            as_written(read), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def _called(self, element, index):
        if tf.is_tensor(element) and element.dtype == tf.string:  # a path
            return element
        return tf.strings.format(f"{self.name}, image {{}}", index)


def digest(*parts: object) -> str:
    """SHA-256, in hex, of the parts: arrays by dtype, shape and bytes, the rest by repr."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(repr((part.dtype.str, part.shape)).encode())
            total.update(np.ascontiguousarray(part).data)
        else:
            total.update(repr(part).encode())
        total.update(b"\0")
    return total.hexdigest()
