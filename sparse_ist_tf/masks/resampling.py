"""Images scaled in NumPy, with the weights and in the order of TensorFlow's own operations."""

import functools

import numpy as np


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


@functools.lru_cache(maxsize=128)
def reducing_matrix(length: int, grid: int, size: int, resize: str) -> np.ndarray:
    """As cell_matrix, by another filter, of a row that becomes shorter.

    What a pixel is made of lies where it would if the whole row were scaled, but for pixels of
    other cells. "bilinear" is plain and what MediaPipe does: a blend of the two pixels at i *
    length / (grid * size), the left and upper one where that is whole. "area" is the mean of all
    pixels that a scaled one covers, by how much of them.

    Source: image_to_tensor_converter_opencv.cc of google-ai-edge/mediapipe, whose warpPerspective
    takes pixels' corners, not their centres.

    Args:
        length: pixels of the row, at least `grid`.
        grid: cells of the row.
        size: pixels that each cell becomes.
        resize: "bilinear" or "area".

    Returns:
        float32[grid * size, length], read-only.

    Raises:
        ValueError: if a cell would have no pixel.
    """
    if length < grid:
        raise ValueError(f"{length} pixels along a side can't be cut into {grid} patches")
    total = grid * size
    place, pixel = np.arange(total)[:, None] * length / total, np.arange(length)
    if resize == "bilinear":
        weights = np.maximum(0, 1 - np.abs(pixel - place))
    else:
        covered = np.minimum(place + length / total, pixel + 1) - np.maximum(place, pixel)
        weights = np.maximum(0, covered)
    edges = np.arange(grid + 1) * length // grid
    starts, stops = (np.repeat(some, size)[:, None] for some in (edges[:-1], edges[1:]))
    weights[(pixel < starts) | (pixel >= stops)] = 0
    matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def multiplied(
    image: np.ndarray, rows: np.ndarray, columns: np.ndarray, half_up: bool = False
) -> np.ndarray:
    """An image with a matrix along either side.

    Two plain products: libraries add those up in one order, those of a stack in others.

    Args:
        image: uint8[height, width, 3].
        rows: float32[h, height].
        columns: float32[w, width].
        half_up: as as_pixels.

    Returns:
        uint8[h, w, 3].
    """
    height, width = image.shape[:2]
    x = rows @ image.astype(np.float32).reshape(height, -1)
    x = x.reshape(len(rows), width, 3).transpose(1, 0, 2).reshape(width, -1)
    x = (columns @ x).reshape(len(columns), len(rows), 3)
    return as_pixels(x.transpose(1, 0, 2), half_up)


def scaled(image: np.ndarray, size: int) -> np.ndarray:
    """A whole image scaled to a square, bilinear with antialiasing.

    The same bits as tf.image.resize(method="bilinear", antialias=True) and rounding give.

    Args:
        image: uint8[height, width, 3], without empty sides.
        size: side in pixels.

    Returns:
        uint8[size, size, 3].
    """
    x = _along_rows(image.astype(np.float32), size)
    return as_pixels(_along_rows(x.transpose(1, 0, 2), size).transpose(1, 0, 2))


def as_pixels(values: np.ndarray, half_up: bool = False) -> np.ndarray:
    """Numbers as the nearest that a pixel can be, uint8; of two the even one, or the greater."""
    values = np.floor(values + np.float32(0.5)) if half_up else np.rint(values)
    return np.clip(values, 0, 255).astype(np.uint8)


def _along_rows(image: np.ndarray, size: int) -> np.ndarray:
    starts, weights = _spans(len(image), size)
    out = np.zeros((size, *image.shape[1:]), np.float32)
    for step, weight in enumerate(weights.T):
        out += weight[:, None, None] * image[np.minimum(starts + step, len(image) - 1)]
    return out


@functools.lru_cache(maxsize=128)
def _spans(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of a row make one of the scaled row, and with what weights.

    In float32 throughout, as there.

    Source: ComputeSpansCore of tensorflow/core/kernels/image/scale_and_translate_op.cc.

    Returns:
        The first pixels int64[size], and float32[size, n], 0 behind the last.
    """
    one, half = np.float32(1), np.float32(0.5)
    step = np.float32(1 / np.float64(np.float32(size) / np.float32(length)))
    radius = np.maximum(step, one)
    centre = (np.arange(size, dtype=np.float32) + half) * step
    starts, stops = np.ceil(centre - radius - half), np.floor(centre + radius - half)
    starts, stops = (np.clip(x.astype(np.int64), 0, length - 1) for x in (starts, stops))
    pixel = starts[:, None] + np.arange((stops - starts).max() + 1)
    weights = one - np.abs((pixel.astype(np.float32) + half - centre[:, None]) * (one / radius))
    weights = np.where(pixel <= stops[:, None], np.maximum(weights, 0), 0).astype(np.float32)
    total = np.zeros(size, np.float32)
    for column in weights.T:
        total += column
    return starts, weights * (one / total)[:, None]
