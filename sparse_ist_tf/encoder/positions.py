"""Position embeddings: computed ones, and those of another grid of patches."""

import numpy as np

from sparse_ist_tf.errors import RequestError


def sincos_positions(grid: int, width: int) -> np.ndarray:
    """Two-dimensional sine-cosine position embeddings of a square grid of patches.

    The first half of the channels encodes the column, the second half the row, each as sines then
    cosines, as in the reference implementation of MAE.

    Source: "Masked Autoencoders Are Scalable Vision Learners" (He et al., 2022), appendix A.1.

    Args:
        grid: patches along a side of the image.
        width: channels of an embedding, a multiple of 4.

    Returns:
        float32[grid * grid, width], row-major.

    Raises:
        ValueError: if width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"width={width}: sine-cosine positions need a multiple of 4")
    return _waves(grid, 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4)))


def resample_positions(table: np.ndarray, grid: int) -> np.ndarray:
    """Resamples the position embeddings of a square grid: bicubic, antialiased when it shrinks.

    Source: timm, resample_abs_pos_embed; torch, interpolate(mode="bicubic", antialias=True).

    Args:
        table: float[old * old, width], row-major.
        grid: patches along a side of the new grid.

    Returns:
        float32[grid * grid, width]; the table itself where the grid is the old one.
    """
    old = round(len(table) ** 0.5)
    if grid == old:
        return table
    weights = bicubic_weights(old, grid)
    square = table.reshape(old, old, -1).astype(np.float64)
    square = np.einsum("ir,jc,rcw->ijw", weights, weights, square, optimize=True)
    return square.reshape(grid * grid, -1).astype(np.float32)


def big_vision_positions(image_size: int, patch_size: int, width: int) -> np.ndarray:
    """The sine-cosine positions that big_vision computes and doesn't store.

    They differ from MAE's in their frequencies.

    Source: big_vision, models/vit.py, posemb_sincos_2d.

    Returns:
        float32[num_patches, width], row-major.

    Raises:
        RequestError: if image_size is no multiple of the patch size.
    """
    if image_size % patch_size:
        raise RequestError(
            f"image_size={image_size}: must be a multiple of the patch size {patch_size}"
        )
    quarter = width // 4
    frequencies = 10000.0 ** -(np.arange(quarter) / max(1, quarter - 1))
    return _waves(image_size // patch_size, frequencies)


def _waves(grid: int, frequencies: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[:grid, :grid]
    angles = [coordinate.reshape(-1, 1) * frequencies for coordinate in (columns, rows)]
    table = np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], axis=1)
    return table.astype(np.float32)


def bicubic_weights(old: int, new: int) -> np.ndarray:
    """The matrix that resamples one axis as resample_positions does.

    Returns:
        float64[new, old], rows that add up to 1.
    """
    scale = old / new
    stretch = max(scale, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * scale
    first = np.maximum((centres - 2 * stretch + 0.5).astype(int), 0)
    last = np.minimum((centres + 2 * stretch + 0.5).astype(int), old)
    places = np.arange(old)[None]
    weights = _keys_kernel((places - centres + 0.5) / stretch)
    weights *= (places >= first) & (places < last)
    return weights / weights.sum(axis=1, keepdims=True)


def _keys_kernel(x):
    """Keys' cubic convolution kernel with a = -0.5, as torch's antialiased and Pillow's."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
