"""How images are masked, as one value."""

import dataclasses

import numpy as np

from sparse_ist_tf.masks.drawing import positions


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """How images are masked.

    Args:
        kind: "fixed", "random" or "shared".
        ratio: hidden share of the patches, in [0, 1).
        pattern: of shared masks.
        seed: any integer.
    """

    kind: str
    ratio: float
    pattern: str = "uniform"
    seed: int = 0

    def positions(self, indices, num_patches: int, epoch: int = 0) -> np.ndarray:
        """Visible positions of some images: int32[b, num_visible]."""
        return positions(
            self.kind, self.seed, indices, num_patches, self.ratio, epoch, self.pattern
        )
