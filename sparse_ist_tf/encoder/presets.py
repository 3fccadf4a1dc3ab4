"""The architectures by name."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.errors import RequestError

if TYPE_CHECKING:
    from sparse_ist_tf.encoder.vit import ViT

_EDGE: dict[str, Any] = {"image_size": 64, "patch_size": 8, "activation": "quick_gelu"}
_PAPER: dict[str, Any] = {"image_size": 224, "patch_size": 16, "activation": "gelu"}

# Source of vit_tiny to vit_large: "Training data-efficient image transformers" (Touvron et al.,
# 2021), table 1, and "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), table 1.
PRESETS: dict[str, ViTSpec] = {
    "vit_pico": ViTSpec(**_EDGE, width=96, depth=4, num_heads=3, mlp_ratio=3.0),
    "vit_micro": ViTSpec(**_EDGE, width=192, depth=6, num_heads=3),
    "vit_tiny": ViTSpec(**_PAPER, width=192, depth=12, num_heads=3),
    "vit_small": ViTSpec(**_PAPER, width=384, depth=12, num_heads=6),
    "vit_base": ViTSpec(**_PAPER, width=768, depth=12, num_heads=12),
    "vit_large": ViTSpec(**_PAPER, width=1024, depth=24, num_heads=16),
}


def create_encoder(
    preset: str, name: str = "", dtype: str | None = None, **overrides: Any
) -> "ViT":
    """Makes an encoder's model with fresh weights.

    Args:
        preset: a key of PRESETS.
        name: of the model; the preset's where empty.
        dtype: a policy of Keras; its default where None.
        **overrides: fields of ViTSpec that replace the preset's.

    Raises:
        ValueError: if the preset isn't known.
    """
    from sparse_ist_tf.encoder.vit import ViT

    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r}: must be one of {', '.join(PRESETS)}")
    spec = dataclasses.replace(PRESETS[preset], **overrides)
    return ViT(spec, name=name or preset, dtype=dtype)


def nearest_preset(width: int, depth: int, patch_size: int) -> str:
    """The preset whose sizes are the most alike."""

    def distance(name):
        spec = PRESETS[name]
        sizes = ((width, spec.width), (depth, spec.depth), (patch_size, spec.patch_size))
        return sum(abs(math.log(ours / theirs)) for ours, theirs in sizes)

    return min(PRESETS, key=distance)


def refuse_misfits(
    missing: Sequence[str], unexpected: Sequence[str], misshapen: Sequence[str], hint: str
) -> None:
    """Refuses tensors that aren't those of a model, by their names; the hint says what they may be.

    Raises:
        RequestError: if there is any.
    """
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if problems := [_listed(what, names) for what, names in found.items() if names]:
        raise RequestError(f"{'; '.join(problems)} ({hint})")


def _listed(what: str, names: Sequence[str], most: int = 8) -> str:
    """A few of some names, for an error."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{rest}"
