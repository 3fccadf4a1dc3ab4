"""A sheet of masked images, to look at masks."""

import os

import numpy as np
from PIL import Image

from sparse_ist_tf.files import replacing
from sparse_ist_tf.masks.patches import grid_of, visible_from_positions

_HIDDEN = 128  # grey
_PAIRS = 4  # in a row of the sheet


def spread_over_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Which of some images a sheet shows, so that as many classes show as there is room for.

    Args:
        labels: integers [n], their classes.
        count: images of the sheet, at most n.

    Returns:
        int64[count], ascending.

    Example:
        >>> from sparse_ist_tf.masks.preview import spread_over_classes
        >>> spread_over_classes(np.array([0, 0, 0, 0, 1, 2]), 4).tolist()
        [0, 1, 4, 5]
    """
    # The first image of every class, then the second ones, ...; classes that are spread, too.
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    places = np.arange(len(labels)) - starts
    classes = np.unique(labels)
    shown = np.linspace(0, len(classes) - 1, min(count, len(classes))).astype(np.int64)
    is_shown = np.isin(labels[order], classes[shown])
    chosen = np.lexsort((labels[order], places, ~is_shown | (places > 0)))[:count]
    return np.sort(order[chosen]).astype(np.int64)


def write_mask_preview(
    path: str | os.PathLike, images: np.ndarray, positions: np.ndarray, patch_size: int
) -> None:
    """Writes a PNG with each image beside what is visible of it; hidden patches are grey.

    Four pairs to a row, every image at least 128 pixels wide. Written atomically.

    Args:
        path: of the PNG.
        images: uint8[n, height, width, 3], n at least 1, sides multiples of patch_size.
        positions: integers [n, v], the visible positions.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: if there are no images, if positions are not one row per image, or if a side is
            not a multiple of patch_size.
    """
    count, height, width, _ = images.shape
    if not count or len(positions) != count:
        raise ValueError(f"{count} images and {len(positions)} masks: must be one mask per image")
    grid = grid_of(images, patch_size)
    visible = visible_from_positions(positions, grid[0] * grid[1]).reshape(count, *grid, 1)
    visible = visible.repeat(patch_size, axis=1).repeat(patch_size, axis=2)
    masked = np.where(visible, images, np.uint8(_HIDDEN))
    scale = -(-128 // width)
    height, width = height * scale, width * scale
    gap = max(2, width // 32)
    columns, rows = min(_PAIRS, count), -(-count // _PAIRS)
    pair = 2 * width + gap
    shape = (3 * gap * (rows + 1) + rows * height, 3 * gap * (columns + 1) + columns * pair, 3)
    sheet = np.full(shape, 255, np.uint8)
    for i in range(count):
        top = 3 * gap + i // _PAIRS * (height + 3 * gap)
        left = 3 * gap + i % _PAIRS * (pair + 3 * gap)
        for image in (images[i], masked[i]):
            large = image.repeat(scale, axis=0).repeat(scale, axis=1)
            sheet[top : top + height, left : left + width] = large
            left += width + gap
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
