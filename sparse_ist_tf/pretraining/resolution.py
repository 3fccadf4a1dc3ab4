"""From how many pixels an image is recorded and to how many it is seen, in pre-training."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

import numpy as np
from keras import ops

from sparse_ist_tf.masks.cells import Scaling, cell_matrix

if TYPE_CHECKING:
    import jax
    import tensorflow as tf

Tensor = Union["tf.Tensor", "jax.Array"]  # of the backend


@dataclasses.dataclass(frozen=True)
class Resolution:
    """How a stored image becomes what the encoder sees.

    It is reduced as a whole to what a sensor records, and from there scaled as `scaling` says: cell
    by cell or as a whole.

    Args:
        scaling: from the sensor's image to the encoder's patches.
        sensor: side of the sensor's images in pixels, at most `stored`.
        stored: side of the stored images in pixels.

    Raises:
        ValueError: if the grid of patches is the sensor's and has more of them than it has pixels.
    """

    scaling: Scaling
    sensor: int
    stored: int

    def __post_init__(self) -> None:
        if self.scaling.grid == "sensor" and self.sensor < self.scaling.side:
            raise ValueError(f"{self.sensor} pixels for {self.scaling.side} patches along a side")

    @property
    def size(self) -> int:
        """Side of the encoder's images in pixels."""
        return self.scaling.image_size

    @property
    def suffix(self) -> str:
        """What tells an accuracy at these sides from one at those of the stored images."""
        seen = f"_{self.size}px" if self.size != self.stored else ""
        return seen + (f"_sensor{self.sensor}px" if self.sensor != self.stored else "")

    @functools.cached_property
    def matrix(self) -> np.ndarray:
        """What scales a row of stored pixels: float32[size, stored]."""
        recorded = cell_matrix(self.stored, 1, self.sensor)
        if self.scaling.grid == "scaled":
            return cell_matrix(self.sensor, 1, self.size) @ recorded
        side, patch = self.scaling.side, self.scaling.patch_size
        sent = min(patch, -(-self.sensor // side))  # in two steps, as Scaling goes
        enlarge = cell_matrix(side * sent, side, patch)
        return enlarge @ cell_matrix(self.sensor, side, sent) @ recorded


def resolutions(
    sizes: Sequence[int],
    sensors: Sequence[int],
    stored: int,
    patch_size: int,
    grids: Sequence[str],
) -> tuple[Resolution, ...]:
    """Every size with every sensor on every grid, those of the first size first.

    Args:
        sizes: sides of the encoder's images in pixels; `stored` where empty.
        sensors: sides of the sensors' images in pixels; `stored` where empty.
        stored: side of the stored images in pixels.
        patch_size: side of a patch in pixels.
        grids: as of Scaling.
    """
    return tuple(
        Resolution(Scaling(size, patch_size, grid), sensor, stored)
        for size, sensor, grid in itertools.product(
            tuple(sizes) or (stored,), tuple(sensors) or (stored,), grids
        )
    )


def resampled(images: Tensor, matrix: Tensor) -> Tensor:
    """Images whose rows and columns of pixels are scaled alike.

    Args:
        images: float32[b, height, height, 3].
        matrix: float32[size, height], of a Resolution.

    Returns:
        float32[b, size, size, 3].
    """
    images = ops.einsum("ij,bjkc->bikc", matrix, images)
    return ops.einsum("lk,bikc->bilc", matrix, images)
