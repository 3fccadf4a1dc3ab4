"""Which pixels a patch is made of: images cut into cells, and each cell scaled by itself.

Masks fall on what a sensor has. The grid of patches is laid over the image as it was recorded, and
every patch that the encoder sees is scaled from the pixels of its own cell alone, so a pixel that
was hidden reaches no patch that is visible.
"""

import dataclasses
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.masks.resampling import cell_matrix, multiplied, reducing_matrix, scaled
from sparse_ist_tf.masks.tensors import is_tensor

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["GRIDS", "RESIZES", "Scaling", "cell_matrix", "scale_image"]

Array: TypeAlias = "np.ndarray | tf.Tensor"

GRIDS = ("sensor", "scaled")
RESIZES = ("antialias", "bilinear", "area")


def scale_image(image: Array, image_size: int) -> Array:
    """Scales a whole image to a square, bilinear with antialiasing.

    Args:
        image: uint8[height, width, 3]; an array, or a tensor.
        image_size: side in pixels.

    Returns:
        uint8[image_size, image_size, 3]: an array, or a tensor where image is one.
    """
    if not is_tensor(image):
        return image if image.shape[:2] == (image_size,) * 2 else scaled(image, image_size)
    import tensorflow as tf

    def by_tensorflow():
        size = (image_size, image_size)
        return _pixels(tf.image.resize(image, size, method="bilinear", antialias=True))

    same = tf.reduce_all(tf.equal(tf.shape(image)[:2], image_size))
    out = tf.cond(same, lambda: image, by_tensorflow)
    return tf.ensure_shape(out, (image_size, image_size, 3))


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How an image of any size becomes the patches that an encoder takes.

    Args:
        image_size: side of the encoder's images in pixels.
        patch_size: side of a patch in pixels.
        grid: where the grid of patches lies: on the "sensor"'s pixels, or on the image "scaled" as
            a whole, as in the paper. The same where no scaling is needed.
        resize: how pixels become fewer: "antialias", or as resampling.reducing_matrix has it.
            Enlarged they are bilinearly, on the image "scaled" by "bilinear" as that has it too.

    Raises:
        ValueError: if grid isn't one of GRIDS or resize of RESIZES, or patches don't fill the
            image.
    """

    image_size: int
    patch_size: int
    grid: str = "sensor"
    resize: str = "antialias"

    def __post_init__(self) -> None:
        if self.grid not in GRIDS:
            raise ValueError(f"grid={self.grid!r}: must be one of {', '.join(GRIDS)}")
        if self.resize not in RESIZES:
            raise ValueError(f"resize={self.resize!r}: must be one of {', '.join(RESIZES)}")
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

    def sent(self, image: Array, name: "tf.Tensor | str" = "an image") -> Array:
        """What a sensor has to send, were every patch visible.

        With "sensor" a picture of all cells, each of its original pixels, or reduced to the size
        of a patch where they are more; cells of which some have a pixel more than others are scaled
        to the larger size. With "scaled" the scaled image.

        Args:
            image: uint8[height, width, 3]; an array, or a tensor, which may be of a graph.
            name: what errors call the image.

        Returns:
            uint8[side * h, side * w, 3]: patches of h x w pixels, h and w at most patch_size; an
            array, or a tensor where image is one.

        Raises:
            RunError: when run, if the image has fewer pixels than patches along a side; in a graph
                tf.errors.OpError, of which image_errors() makes one line.
        """
        if self.grid == "scaled":
            return self._scaled(image, name)
        if not is_tensor(image):
            height, width = (-(-length // self.side) for length in image.shape[:2])
            size = min(self.patch_size, height), min(self.patch_size, width)
            return self.resampled(image, size, name)
        import tensorflow as tf

        most = (tf.shape(image)[:2] + self.side - 1) // self.side
        return self.resampled(image, tf.minimum(self.patch_size, most), name)

    def seen(self, picture: Array) -> Array:
        """What the encoder's patches are cut from: every cell of `sent` enlarged to its patch.

        A patch depends on the pixels of its own cell and on no others.

        Returns:
            uint8[image_size, image_size, 3]: an array, or a tensor where picture is one.
        """
        if self.grid == "sensor":
            size = (self.patch_size, self.patch_size)
            picture = self.resampled(picture, size, "a picture")
        if not is_tensor(picture):
            return picture
        import tensorflow as tf

        return tf.ensure_shape(picture, (self.image_size, self.image_size, 3))

    def __call__(self, image: Array, name: "tf.Tensor | str" = "an image") -> Array:
        """What the encoder sees of an image that is sent as it is."""
        return self.seen(self.sent(image, name))

    def resampled(
        self, image: Array, size: "tf.Tensor | tuple[int, int]", name: "tf.Tensor | str"
    ) -> Array:
        """Every cell of an image scaled by itself.

        Products in float32, which TensorFlow may split where they are long: an array's pixels are
        a tensor's but for one in millions, by 1, where a sum lies between two.

        Args:
            image: uint8[height, width, 3]; an array, or a tensor, which may be of a graph.
            size: height and width in pixels that each cell becomes.
            name: what errors call the image.

        Returns:
            uint8[side * size[0], side * size[1], 3]: an array, or a tensor where image is one.

        Raises:
            RunError: as sent().
        """
        if not is_tensor(image):
            lengths = tuple(zip(image.shape[:2], size, strict=True))
            if all(length == self.side * each for length, each in lengths):
                return image
            rows, columns = (self._matrix(*pair, name) for pair in lengths)
            return multiplied(image, rows, columns, self._half_up)
        import tensorflow as tf

        size = tf.convert_to_tensor(size)
        same = tf.reduce_all(tf.equal(tf.shape(image)[:2], self.side * size))
        out = tf.cond(same, lambda: image, lambda: self._product(image, self._matrix, size, name))
        return tf.ensure_shape(out, (None, None, 3))

    def matrix(self, length: int, size: int) -> np.ndarray:
        """What scales a row of pixels cell by cell, on the sensor's grid.

        Args:
            length: pixels of the row, at least `side`.
            size: pixels that each cell becomes.

        Returns:
            float32[side * size, length], read-only.

        Raises:
            ValueError: if a cell would have no pixel.
        """
        if self.resize == "antialias" or length <= self.side * size:
            return cell_matrix(length, self.side, size)
        return reducing_matrix(length, self.side, size, self.resize)

    def whole_matrix(self, length: int) -> np.ndarray:
        """What scales a row of pixels to image_size where the whole image is.

        Returns:
            float32[image_size, length], read-only.
        """
        if self.resize == "bilinear" or (self.resize == "area" and length > self.image_size):
            return reducing_matrix(length, 1, self.image_size, self.resize)
        return cell_matrix(length, 1, self.image_size)

    def _scaled(self, image, name):
        if self.resize == "antialias":
            return scale_image(image, self.image_size)
        size = self.image_size

        def matrix(length, *_):
            return self.whole_matrix(int(length))

        if not is_tensor(image):
            if image.shape[:2] == (size, size):
                return image
            return multiplied(image, *map(matrix, image.shape[:2]), self._half_up)
        import tensorflow as tf

        same = tf.reduce_all(tf.equal(tf.shape(image)[:2], size))
        out = tf.cond(same, lambda: image, lambda: self._product(image, matrix, (size, size), name))
        return tf.ensure_shape(out, (size, size, 3))

    def _product(self, image, matrix, size, name):
        """A tensor with matrix(length, size, name) along either side."""
        import tensorflow as tf

        shape = tf.shape(image)
        rows, columns = (
            tf.numpy_function(matrix, [shape[axis], size[axis], name], tf.float32, stateful=False)
            for axis in (0, 1)
        )
        x = tf.reshape(tf.cast(image, tf.float32), (shape[0], -1))
        x = tf.reshape(tf.matmul(rows, x), (-1, shape[1], 3))
        return _pixels(tf.matmul(columns, x), self._half_up)

    @property
    def _half_up(self):
        """Whether a value between two pixels' becomes the greater, as in MediaPipe."""
        return self.resize == "bilinear"

    def _matrix(self, length, size, name):
        try:
            return self.matrix(int(length), int(size))
        except ValueError as error:
            name = np.asarray(name).item()  # bytes in a graph
            name = name.decode(errors="surrogateescape") if isinstance(name, bytes) else name
            raise RunError(f"{name}: {error}; masks.grid=scaled enlarges it first") from None


def _pixels(values: "tf.Tensor", half_up: bool = False) -> "tf.Tensor":
    import tensorflow as tf

    values = tf.floor(values + 0.5) if half_up else tf.round(values)
    return tf.cast(tf.clip_by_value(values, 0, 255), tf.uint8)
