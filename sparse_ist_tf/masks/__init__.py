"""Masks: which patches of an image are visible, how they are cut out, and how to look at them.

    python -m sparse_ist_tf.masks --dataset=mnist5k --ratio=0.5 --output=masks.png

draws a few masked images into a PNG. What is visible is decided in drawing.py, and of which pixels
a patch is made in cells.py; patches are cut out in patches.py, painted over in patch_mask.py and
drawn in preview.py. Import all of it from here. Arrays need NumPy alone; TensorFlow is imported by
who has tensors, and with PatchMask.
"""

from typing import TYPE_CHECKING, Any

from sparse_ist_tf.masks.cells import GRIDS, RESIZES, Scaling
from sparse_ist_tf.masks.drawing import (
    KINDS,
    PATTERNS,
    fixed_positions,
    num_visible,
    random_positions,
    shared_positions,
)
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.masks.patches import (
    grid_of,
    patchify,
    select_patches,
    unpatchify,
    visible_from_positions,
)
from sparse_ist_tf.masks.preview import write_mask_preview

if TYPE_CHECKING:
    from sparse_ist_tf.masks.patch_mask import PatchMask

__all__ = [
    "GRIDS",
    "KINDS",
    "PATTERNS",
    "RESIZES",
    "MaskOptions",
    "PatchMask",
    "Scaling",
    "fixed_positions",
    "grid_of",
    "num_visible",
    "patchify",
    "random_positions",
    "select_patches",
    "shared_positions",
    "unpatchify",
    "visible_from_positions",
    "write_mask_preview",
]


def __getattr__(name: str) -> Any:
    if name != "PatchMask":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparse_ist_tf.masks.patch_mask import PatchMask

    return PatchMask
