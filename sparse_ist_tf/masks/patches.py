"""Images cut into patches, on arrays and on tensors."""

from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sparse_ist_tf.masks.tensors import is_tensor

if TYPE_CHECKING:
    import tensorflow as tf

Array: TypeAlias = "np.ndarray | tf.Tensor"


def visible_from_positions(positions: Array, num_patches: int) -> Array:
    """Positions as booleans, True where a patch is kept.

    Args:
        positions: integers [b, v]; an array, or a tensor.
        num_patches: patches of an image.

    Returns:
        bool[b, num_patches]: an array, or a tensor where positions is one.

    Raises:
        ValueError: if positions is an array with a position outside [0, num_patches).
    """
    if is_tensor(positions):
        import tensorflow as tf

        patches = tf.range(num_patches, dtype=positions.dtype)
        return tf.reduce_any(positions[:, :, None] == patches, axis=1)
    positions = np.asarray(positions)
    if positions.size and not 0 <= positions.min() <= positions.max() < num_patches:
        raise ValueError(
            f"positions from {positions.min()} to {positions.max()}: must be in [0, {num_patches})"
        )
    visible = np.zeros((len(positions), num_patches), bool)
    np.put_along_axis(visible, positions, True, axis=1)
    return visible


def grid_of(images: Array, patch_size: int) -> tuple[int, int]:
    """How many patches an image has from top to bottom and from left to right.

    Args:
        images: [..., height, width, channels], of a known size.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: if a side is unknown or not a multiple of patch_size.
    """
    height, width = images.shape[-3:-1]
    if patch_size < 1 or not height or not width or height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size={patch_size}: must divide both sides of the images ({height} x {width})"
        )
    return height // patch_size, width // patch_size


def patchify(images: Array, patch_size: int) -> Array:
    """Cuts images into patches, row by row; pixels are (row, column, channel) inside a patch.

    Args:
        images: [b, height, width, channels], sides multiples of patch_size; array or tensor.
        patch_size: side of a patch in pixels.

    Returns:
        [b, num_patches, patch_size**2 * channels], array or tensor, of the images' dtype.

    Raises:
        ValueError: if a side is not a multiple of patch_size.
    """
    rows, columns = grid_of(images, patch_size)
    channels = images.shape[-1]
    lib = _library(images)
    x = lib.reshape(images, (-1, rows, patch_size, columns, patch_size * channels))
    x = reorder(x, (0, 1, 3, 2, 4))
    return lib.reshape(x, (-1, rows * columns, patch_size * patch_size * channels))


def unpatchify(patches: Array, patch_size: int, grid: tuple[int, int]) -> Array:
    """Puts images together again from all their patches, the inverse of patchify.

    Args:
        patches: [b, num_patches, patch_size**2 * channels]; array or tensor.
        patch_size: side of a patch in pixels.
        grid: (rows, columns) of patches.

    Returns:
        [b, height, width, channels], array or tensor, of the patches' dtype.

    Raises:
        ValueError: if the patches don't fill the grid.
    """
    rows, columns = grid
    num_patches, length = patches.shape[1:]
    if num_patches != rows * columns or length % patch_size**2:
        raise ValueError(
            f"patches of shape {tuple(patches.shape)}: must be {rows * columns} patches of "
            f"{patch_size} x {patch_size} pixels"
        )
    channels = length // patch_size**2
    lib = _library(patches)
    x = lib.reshape(patches, (-1, rows, columns, patch_size, patch_size * channels))
    x = reorder(x, (0, 1, 3, 2, 4))
    return lib.reshape(x, (-1, rows * patch_size, columns * patch_size, channels))


def reorder(x: Array, order: tuple[int, ...]) -> Array:
    """Transposes an array or tensor, its last axis, of a known length, staying the last.

    Bytes are moved four at a time where they can be: TensorFlow's oneDNN, on a CPU without
    AVX-512, prints an error before it falls back to another transposition of bytes.
    """
    if not is_tensor(x):
        return np.transpose(x, order)
    import tensorflow as tf

    if x.dtype != tf.uint8 or not x.shape[-1] or x.shape[-1] % 4:
        return tf.transpose(x, order)
    x = tf.reshape(x, tf.concat([tf.shape(x)[:-1], [x.shape[-1] // 4, 4]], 0))
    x = tf.transpose(tf.bitcast(x, tf.int32), order)
    x = tf.bitcast(x, tf.uint8)
    return tf.reshape(x, tf.concat([tf.shape(x)[:-2], [x.shape[-2] * 4]], 0))


def select_patches(images: Array, positions: Array, patch_size: int) -> Array:
    """Cuts out the visible patches only.

    Args:
        images: [b, height, width, channels], sides multiples of patch_size; array or tensor.
        positions: integers [b, v], row-major; array or tensor.
        patch_size: side of a patch in pixels.

    Returns:
        [b, v, patch_size**2 * channels], array or tensor, of the images' dtype.

    Raises:
        ValueError: if a side is not a multiple of patch_size.
    """
    if is_tensor(images) or is_tensor(positions):
        import tensorflow as tf

        images = tf.convert_to_tensor(images)
        return tf.gather(patchify(images, patch_size), positions, batch_dims=1)
    patches = patchify(np.asarray(images), patch_size)
    return np.take_along_axis(patches, np.asarray(positions)[:, :, None], axis=1)


def _library(x: Array) -> ModuleType:
    """Whose reshape it takes."""
    if not is_tensor(x):
        return np
    import tensorflow as tf

    return tf
