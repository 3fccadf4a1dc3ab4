"""What visible patches tell of hidden pixels: an attack by least squares.

Where an image is scaled before its patches are hidden, a visible patch may hold blends of hidden
neighbours, and who knows how it was scaled can undo that.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf
from scipy import sparse
from scipy.sparse.linalg import splu

from sparse_ist_tf.masks.cells import Scaling
from sparse_ist_tf.masks.patches import patchify, visible_from_positions
from sparse_ist_tf.masks.resampling import as_pixels

_ROUNDING = 1 / 12  # variance of what rounding to whole numbers adds


def hidden_pixels(shape: tuple[int, int], side: int, positions: np.ndarray) -> np.ndarray:
    """Which of an image's own pixels lie in cells that are hidden.

    Args:
        shape: height and width of the image in pixels.
        side: cells along a side.
        positions: int[v], the visible cells.

    Returns:
        bool[height, width].
    """
    visible = visible_from_positions(positions[None], side**2).reshape(side, side)
    rows, columns = (-(-(np.arange(length) + 1) * side // length) - 1 for length in shape)
    return ~visible[np.ix_(rows, columns)]


@functools.lru_cache(maxsize=16)
def seen_matrix(length: int, scaling: Scaling) -> np.ndarray:
    """What the encoder sees of a row of pixels, before it is rounded.

    Args:
        length: pixels of the row.
        scaling: how images are scaled.

    Returns:
        float32[image_size, length].

    Raises:
        ValueError: if a cell of the sensor's grid would have no pixel.
    """
    size, side, patch_size = scaling.image_size, scaling.side, scaling.patch_size
    if scaling.grid == "scaled":
        if scaling.resize != "antialias":
            return scaling.whole_matrix(length)
        rows = tf.eye(length)[..., None]
        scaled = tf.image.resize(rows, (size, length), method="bilinear", antialias=True)
        return scaled[..., 0].numpy()
    sent = min(patch_size, -(-length // side))
    return scaling.matrix(side * sent, patch_size) @ scaling.matrix(length, sent)


@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquares:
    """Recovers whole images from what the encoder sees of them.

    Of all images it takes the one that explains the visible patches and is near the mean: that
    which is most probable where pixels deviate from their mean independently and normally. A pixel
    that no visible patch depends on gets its mean.

    Args:
        scaling: how images were scaled, which is no secret.
        mean: float64[height, width, 3], of images such as these.
        variance: mean square of the pixels' deviations from it, above 0.
    """

    scaling: Scaling
    mean: np.ndarray
    variance: float

    @classmethod
    def informed_by(cls, scaling: Scaling, images: np.ndarray) -> "LeastSquares":
        """The attack of who has other images of the kind, uint8[n, height, width, 3]."""
        mean = images.mean(axis=0, dtype=np.float64)
        variance = float(np.mean([np.square(image - mean).mean() for image in images]))
        return cls(scaling, mean, max(variance, _ROUNDING))

    def recover(self, seen: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Recovers an image.

        Args:
            seen: uint8[image_size, image_size, 3], of which visible patches alone are used.
            positions: int[v], the visible patches.

        Returns:
            uint8[height, width, 3].
        """
        size, patch_size = self.scaling.image_size, self.scaling.patch_size
        places = np.arange(size**2).reshape(1, size, size, 1)
        rows = patchify(places, patch_size)[0][positions].ravel()
        A = self._projection[rows]
        mean = self.mean.reshape(-1, 3)
        residual = seen.reshape(-1, 3)[rows] - A @ mean
        ridge = _ROUNDING / self.variance
        if A.shape[0] < A.shape[1]:  # the same solution, of fewer equations
            deviations = A.T @ _solved(A @ A.T, ridge, residual)
        else:
            deviations = _solved(A.T @ A, ridge, A.T @ residual)
        return as_pixels(mean + deviations).reshape(self.mean.shape)

    @functools.cached_property
    def _projection(self):
        """From an image's pixels to the encoder's, [image_size**2, height * width]."""
        rows, columns = (
            sparse.csr_array(seen_matrix(length, self.scaling).astype(np.float64))
            for length in self.mean.shape[:2]
        )
        return sparse.csr_array(sparse.kron(rows, columns, "csr"))


def _solved(matrix, ridge, values):
    """What (matrix + ridge * identity) makes these values of, for a symmetric positive matrix."""
    matrix = (matrix + ridge * sparse.identity(matrix.shape[0])).tocsc()
    solver = splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return solver.solve(values)
