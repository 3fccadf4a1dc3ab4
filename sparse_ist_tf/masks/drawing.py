"""Which patches of an image are visible: pure functions of a seed, the same in NumPy and in graphs.

Every mask comes from a counter-based generator: patch j of image i gets the key
hash(seed, stream, i, j), and the patches with the smallest keys are visible. No state, no order,
no batch: whoever knows the seed knows the mask. Masks are nested: what is visible at a high
mask_ratio stays visible at a lower one.
"""

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sparse_ist_tf.masks.tensors import is_tensor

if TYPE_CHECKING:
    import tensorflow as tf

KINDS = ("fixed", "random", "shared")
PATTERNS = ("uniform", "grid", "center", "border")

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIXED, _RANDOM, _SHARED = 0, 1, -(2**63)  # streams; random masks add the epoch to theirs
_ROWS_AT_ONCE = 2048  # keeps NumPy's temporaries in the cache


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """How many patches stay visible: floor(num_patches * (1 - mask_ratio)).

    The product is guarded against float error, for ratios of seven digits: int(10 * (1 - 0.9))
    would be 0.

    Source: paper section 3.1.

    Args:
        num_patches: patches of an image, at least 1.
        mask_ratio: the hidden share, in [0, 1).

    Returns:
        At least 1, at most num_patches.

    Raises:
        ValueError: if num_patches is below 1, or if mask_ratio is not in [0, 1) or leaves no patch.
    """
    if num_patches < 1:
        raise ValueError(f"num_patches={num_patches}: must be at least 1")
    if not isinstance(mask_ratio, int | float | np.number) or not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio={mask_ratio!r}: must be a number in [0, 1)")
    visible = math.floor(num_patches * (1 - float(mask_ratio)) + 1e-7 * num_patches)
    if visible < 1:
        raise ValueError(
            f"mask_ratio={mask_ratio}: must be in [0, 1) and leaves none of {num_patches} patches "
            f"visible; at most {1 - 1 / num_patches:g} does"
        )
    return min(visible, num_patches)


def fixed_positions(
    seed: int,
    indices: "ArrayLike | tf.Tensor",
    num_patches: int,
    mask_ratio: float,
    view: int = 0,
) -> "np.ndarray | tf.Tensor":
    """Visible positions under fixed masks: one mask per image and view, for ever.

    A function of (seed, image index, mask_ratio, view) alone. Drawn uniformly without replacement.
    View k above 0 is the random mask of epoch k - 1, so that messages can say which it is.

    Source: paper section 3.1, fixed masks.

    Args:
        seed: any integer.
        indices: integers [b], the images' places in their split; an array, or a tensor.
        num_patches: patches of an image.
        mask_ratio: in [0, 1).
        view: which of the image's masks, at least 0.

    Returns:
        int32[b, num_visible], ascending in a row: an array, or a tensor where indices is one.

    Raises:
        ValueError: if view is below 0, or as num_visible.
    """
    if view < 0:
        raise ValueError(f"view={view}: must be at least 0")
    return _draw(seed, _FIXED + view, indices, num_patches, mask_ratio)


def random_positions(
    seed: int,
    indices: "ArrayLike | tf.Tensor",
    epoch: "ArrayLike | tf.Tensor",
    num_patches: int,
    mask_ratio: float,
) -> "np.ndarray | tf.Tensor":
    """Visible positions under random masks: a new mask per image and epoch.

    As fixed_positions, but for the epoch: an integer of at least 0, or integers [b]; a tensor where
    it changes in a graph.

    Source: paper section 3.1, random masks.

    Returns:
        int32[b, num_visible], ascending in a row: an array, or a tensor where indices or epoch
        is one.

    Raises:
        ValueError: as num_visible.
    """
    if is_tensor(epoch):
        import tensorflow as tf

        epoch = tf.cast(epoch, tf.int64)
    else:
        epoch = np.asarray(epoch, np.int64)
    return _draw(seed, epoch + _RANDOM, indices, num_patches, mask_ratio)


def shared_positions(
    seed: int,
    num_patches: int,
    mask_ratio: float,
    pattern: str = "uniform",
    grid: tuple[int, int] | None = None,
) -> np.ndarray:
    """Visible positions of a mask that all images share.

    Patterns:
        uniform: drawn once from the seed, without replacement.
        grid: spread as evenly as possible: an ordered dither, which is a regular lattice at
            mask ratios 0.75 and 0.9375 and a checkerboard at 0.5, placed so that no hidden patch
            is far from a visible one.
        center: the patches nearest the centre of the image are visible, in a disc.
        border: the patches nearest the border are visible, in rings; in a ring that is not full,
            the patches farthest from the centre come first.

    Args:
        seed: any integer; only "uniform" uses it.
        num_patches: patches of an image.
        mask_ratio: in [0, 1).
        pattern: "uniform", "grid", "center" or "border".
        grid: (rows, columns) of patches; a square where it isn't given.

    Returns:
        int32[num_visible], ascending.

    Raises:
        ValueError: if pattern isn't known, if num_patches doesn't fit the grid, or as num_visible.

    Example:
        >>> from sparse_ist_tf.masks import shared_positions
        >>> shared_positions(0, 16, 0.75, "center").tolist()
        [5, 6, 9, 10]
    """
    visible = num_visible(num_patches, mask_ratio)
    if pattern not in PATTERNS:
        raise ValueError(f"pattern={pattern!r}: must be one of {', '.join(PATTERNS)}")
    if pattern == "uniform":
        return _draw(seed, _SHARED, [0], num_patches, mask_ratio)[0]
    if grid is None:
        grid = (math.isqrt(num_patches),) * 2
    if grid[0] * grid[1] != num_patches:
        raise ValueError(
            f"num_patches={num_patches}: pattern {pattern!r} needs a square number, or a grid of "
            f"(rows, columns) whose product it is"
        )
    return _pattern(pattern, int(grid[0]), int(grid[1]), visible).copy()


def _mix(x):
    """The output function of SplitMix64: uint64 to uint64, arrays and tensors alike.

    Source: "Fast Splittable Pseudorandom Number Generators" (Steele et al., 2014), figure 17,
    with the constants of Stafford's variant 13.
    """
    bits = _bitwise(is_tensor(x))
    x = x + _GAMMA
    x = bits.bitwise_xor(x, bits.right_shift(x, np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = bits.bitwise_xor(x, bits.right_shift(x, np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits.bitwise_xor(x, bits.right_shift(x, np.uint64(31)))


def _bitwise(tensors: bool):
    """Whose bitwise_xor and the like take tensors, or arrays."""
    if not tensors:
        return np
    import tensorflow as tf

    return tf.bitwise


def _keys(seed: int, stream, indices, num_patches: int):
    """A key per patch, uint64[b, num_patches]; stream and indices are arrays or tensors."""
    tensors = is_tensor(stream) or is_tensor(indices)

    def unsigned(x):
        if tensors:
            import tensorflow as tf

            return tf.bitcast(tf.cast(x, tf.int64), tf.uint64)
        return np.asarray(x, np.int64).astype(np.uint64)

    xor = _bitwise(tensors).bitwise_xor
    start = _mix(np.array([int(seed) % 2**64], np.uint64))
    start = _mix(xor(unsigned(stream), start))
    rows = _mix(xor(unsigned(indices), start))
    steps = np.arange(num_patches, dtype=np.uint64) * _GAMMA
    return _mix(rows[:, None] + steps)


def _draw(seed: int, stream, indices, num_patches: int, mask_ratio: float):
    """The num_visible patches with the smallest keys, int32[b, num_visible], ascending."""
    visible = num_visible(num_patches, mask_ratio)
    if is_tensor(stream) or is_tensor(indices):
        import tensorflow as tf

        keys = _keys(seed, stream, tf.convert_to_tensor(indices), num_patches)
        inverted = tf.bitwise.invert(_unique(keys, tf.bitwise))
        return tf.sort(tf.math.top_k(inverted, visible, sorted=False).indices, axis=1)
    indices = np.atleast_1d(np.asarray(indices, np.int64))
    out = np.empty((len(indices), visible), np.int32)
    for first in range(0, len(indices), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        some = stream if np.ndim(stream) == 0 else stream[rows]
        keys = _unique(_keys(seed, some, indices[rows], num_patches), np)
        last = np.partition(keys, visible - 1, axis=1)[:, visible - 1 : visible]
        out[rows] = np.nonzero(keys <= last)[1].reshape(-1, visible)
    return out


def _unique(keys, bits):
    """Puts the patch number into a key's lowest bits, so that no two keys of an image are equal."""
    order = np.arange(keys.shape[1], dtype=np.uint64)
    low = np.uint64((1 << (len(order) - 1).bit_length()) - 1)
    return bits.bitwise_or(bits.bitwise_and(keys, ~low), order)


@functools.lru_cache(maxsize=256)
def _pattern(pattern: str, height: int, width: int, visible: int) -> np.ndarray:
    rows, columns = np.divmod(np.arange(height * width), width)
    y, x = np.abs(2 * rows - height + 1), np.abs(2 * columns - width + 1)  # in half patches
    from_centre = y * y + x * x
    if pattern == "center":
        order = np.lexsort((np.maximum(y, x), from_centre))
    elif pattern == "border":
        to_border = np.minimum(height - y, width - x)
        order = np.lexsort((-from_centre, to_border))
    else:
        order = _dither_order(rows, columns, visible)
    return np.sort(order[:visible]).astype(np.int32)


def _dither_order(rows: np.ndarray, columns: np.ndarray, visible: int) -> np.ndarray:
    """Patches by rank in Bayer's matrix, shifted to where the hidden ones are best covered.

    Source: "An optimum method for two-level rendition of continuous-tone pictures" (Bayer, 1973).
    """
    levels = max(int(rows.max()), int(columns.max()), 1).bit_length()
    spacing = min(2**levels, 2 ** math.ceil(math.log2(len(rows) / visible) / 2))

    def order(shift):
        rank = np.zeros(len(rows), np.int64)
        for level in range(levels):
            r, c = (rows + shift[0]) >> level & 1, (columns + shift[1]) >> level & 1
            rank = rank * 4 + 2 * (r ^ c) + r
        return np.argsort(rank, kind="stable")

    def cost(order):
        kept = order[:visible]
        squares = (rows[:, None] - rows[kept]) ** 2 + (columns[:, None] - columns[kept]) ** 2
        return int(squares.min(axis=1).sum())

    return min(map(order, np.ndindex(spacing, spacing)), key=cost)
