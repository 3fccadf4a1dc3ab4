"""How images are masked, as one value."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sparse_ist_tf.masks.cells import Scaling
from sparse_ist_tf.masks.drawing import KINDS, fixed_positions, random_positions, shared_positions
from sparse_ist_tf.masks.tensors import is_tensor

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """How images are masked.

    Args:
        kind: "fixed", "random" or "shared".
        ratio: hidden share of the patches, in [0, 1).
        pattern: of shared masks.
        seed: any integer.
        grid: where the grid of patches lies, as in Scaling.
        resize: how pixels become fewer, as in Scaling.
        view: which of an image's fixed masks, as in fixed_positions.
    """

    kind: str
    ratio: float
    pattern: str = "uniform"
    seed: int = 0
    grid: str = "sensor"
    resize: str = "antialias"
    view: int = 0

    def scaling(self, image_size: int, patch_size: int) -> Scaling:
        """How images become the patches that these masks hide.

        Args:
            image_size: side of the encoder's images in pixels.
            patch_size: side of a patch in pixels.

        Raises:
            ValueError: as Scaling.
        """
        return Scaling(image_size, patch_size, self.grid, self.resize)

    def positions(
        self,
        indices: "ArrayLike | tf.Tensor",
        num_patches: int,
        epoch: "int | tf.Tensor" = 0,
        grid: tuple[int, int] | None = None,
    ) -> "np.ndarray | tf.Tensor":
        """Visible positions of some images.

        Args:
            indices: integers [b], the images' places in their split; an array, or a tensor.
            num_patches: patches of an image.
            epoch: for random masks, as in random_positions.
            grid: for shared masks, as in shared_positions.

        Returns:
            int32[b, num_visible], ascending in a row: an array, or a tensor where indices is one.

        Raises:
            ValueError: if kind or pattern isn't known, or as num_visible.
        """
        if self.kind == "fixed":
            return fixed_positions(self.seed, indices, num_patches, self.ratio, self.view)
        if self.kind == "random":
            return random_positions(self.seed, indices, epoch, num_patches, self.ratio)
        if self.kind != "shared":
            raise ValueError(f"kind={self.kind!r}: must be one of {', '.join(KINDS)}")
        row = shared_positions(self.seed, num_patches, self.ratio, self.pattern, grid)
        if is_tensor(indices):
            import tensorflow as tf

            return tf.tile(row[None], (tf.shape(indices)[0], 1))
        return np.tile(row, (np.size(indices), 1))

    def canonical(self) -> "MaskOptions":
        """The same masks, with what doesn't matter to them at its default."""
        if self.kind != "shared":
            view = self.view if self.kind == "fixed" and self.ratio else 0
            return dataclasses.replace(self, pattern="uniform", view=view)
        self = dataclasses.replace(self, view=0)
        return self if self.pattern == "uniform" else dataclasses.replace(self, seed=0)
