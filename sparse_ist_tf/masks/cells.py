"""Which pixels a patch is made of: images cut into cells, and each cell scaled by itself.

Masks fall on what a sensor has. The grid of patches is laid over the image as it was recorded, and
every patch that the encoder sees is scaled from the pixels of its own cell alone, so a pixel that
was hidden reaches no patch that is visible.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RunError

GRIDS = ("sensor", "scaled")


@functools.lru_cache(maxsize=128)
def cell_matrix(length: int, grid: int, size: int) -> np.ndarray:
    """What scales a row of pixels, cell by cell, each to the same number of pixels.

    Cell k has the pixels from floor(k * length / grid) up to floor((k + 1) * length / grid), so
    that every pixel is of one cell. Each is scaled as if it were an image of its own: bilinearly,
    antialiased where that reduces it, with nothing from beyond its edges.

    Args:
        length: pixels of the row, at least `grid`.
        grid: cells of the row.
        size: pixels that each cell becomes.

    Returns:
        float32[grid * size, length], read-only; rows k * size to (k + 1) * size are 0 outside of
        cell k, and each row's sum is 1. The identity where length is grid * size.

    Raises:
        ValueError: if a cell would have no pixel.

    Example:
        >>> from sparse_ist_tf.masks.cells import cell_matrix
        >>> cell_matrix(4, 2, 4)[:4].tolist()
        [[1.0, 0.0, 0.0, 0.0], [0.75, 0.25, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    """
    if length < grid:
        raise ValueError(f"{length} pixels along a side can't be cut into {grid} patches")
    edges = np.arange(grid + 1) * length // grid
    extent = np.diff(edges)[:, None, None]
    centre = (np.arange(size)[:, None] + 0.5) * extent / size
    pixel = np.arange(length) + 0.5 - edges[:-1, None, None]
    weights = np.maximum(0, 1 - np.abs(pixel - centre) / np.maximum(1, extent / size))
    weights[np.broadcast_to((pixel < 0) | (pixel > extent), weights.shape)] = 0
    weights /= weights.sum(axis=-1, keepdims=True)
    matrix = weights.reshape(grid * size, length).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def scale_image(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Scales a whole image to a square, bilinear with antialiasing.

    Args:
        image: uint8[height, width, 3].
        image_size: side in pixels.

    Returns:
        uint8[image_size, image_size, 3].
    """

    def scaled():
        size = (image_size, image_size)
        return _pixels(tf.image.resize(image, size, method="bilinear", antialias=True))

    shape = tf.shape(image)
    same = tf.reduce_all(tf.equal(shape[:2], image_size))
    return tf.ensure_shape(tf.cond(same, lambda: image, scaled), (image_size, image_size, 3))


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How an image of any size becomes the patches that an encoder takes.

    Args:
        image_size: side of the encoder's images in pixels.
        patch_size: side of a patch in pixels.
        grid: where the grid of patches lies: on the "sensor"'s pixels, or on the image "scaled" as
            a whole, as in the paper. The same where no scaling is needed.

    Raises:
        ValueError: if grid isn't one of GRIDS, or patches don't fill the image.
    """

    image_size: int
    patch_size: int
    grid: str = "sensor"

    def __post_init__(self) -> None:
        if self.grid not in GRIDS:
            raise ValueError(f"grid={self.grid!r}: must be one of {', '.join(GRIDS)}")
        if self.patch_size < 1 or self.image_size < 1 or self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size}: must divide image_size={self.image_size}"
            )

    @property
    def side(self) -> int:
        """Patches along a side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return self.side**2

    def sent(self, image: tf.Tensor, name: tf.Tensor | str = "an image") -> tf.Tensor:
        """What a sensor has to send, were every patch visible; runs in a graph.

        With "sensor" a picture of all cells, each of its original pixels, or reduced to the size
        of a patch where they are more; cells of which some have a pixel more than others are scaled
        to the larger size. With "scaled" the scaled image.

        Args:
            image: uint8[height, width, 3].
            name: what errors call the image.

        Returns:
            uint8[side * h, side * w, 3]: patches of h x w pixels, h and w at most patch_size.

        Raises:
            RunError: when run, if the image has fewer pixels than patches along a side; in a graph
                tf.errors.OpError, of which image_errors() makes one line.
        """
        if self.grid == "scaled":
            return scale_image(image, self.image_size)
        most = (tf.shape(image)[:2] + self.side - 1) // self.side
        return self.resampled(image, tf.minimum(self.patch_size, most), name)

    def seen(self, picture: tf.Tensor) -> tf.Tensor:
        """What the encoder's patches are cut from: every cell of `sent` enlarged to its patch.

        A patch depends on the pixels of its own cell and on no others.

        Returns:
            uint8[image_size, image_size, 3].
        """
        if self.grid == "sensor":
            size = tf.constant((self.patch_size, self.patch_size))
            picture = self.resampled(picture, size, "a picture")
        return tf.ensure_shape(picture, (self.image_size, self.image_size, 3))

    def __call__(self, image: tf.Tensor, name: tf.Tensor | str = "an image") -> tf.Tensor:
        """What the encoder sees of an image that is sent as it is."""
        return self.seen(self.sent(image, name))

    def resampled(
        self, image: tf.Tensor, size: tf.Tensor | tuple[int, int], name: tf.Tensor | str
    ) -> tf.Tensor:
        """Every cell of an image scaled by itself; runs in a graph.

        Args:
            image: uint8[height, width, 3].
            size: height and width in pixels that each cell becomes.
            name: what errors call the image.

        Returns:
            uint8[side * size[0], side * size[1], 3].

        Raises:
            RunError: as sent().
        """

        def scaled():
            rows, columns = (
                tf.numpy_function(
                    self._matrix, [shape[axis], size[axis], name], tf.float32, stateful=False
                )
                for axis in (0, 1)
            )
            x = tf.reshape(tf.cast(image, tf.float32), (shape[0], -1))
            x = tf.reshape(tf.matmul(rows, x), (-1, shape[1], 3))
            return _pixels(tf.matmul(columns, x))

        shape = tf.shape(image)
        same = tf.reduce_all(tf.equal(shape[:2], self.side * tf.convert_to_tensor(size)))
        return tf.ensure_shape(tf.cond(same, lambda: image, scaled), (None, None, 3))

    def _matrix(self, length, size, name):
        try:
            return cell_matrix(int(length), self.side, int(size))
        except ValueError as error:
            name = tf.compat.as_text(np.asarray(name).item())
            raise RunError(f"{name}: {error}; masks.grid=scaled enlarges it first") from None


def _pixels(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)
