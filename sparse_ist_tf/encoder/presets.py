"""The architectures by name."""

import math

from sparse_ist_tf.encoder.vit import ViT

_EDGE = {"image_size": 64, "patch_size": 8, "activation": "quick_gelu", "positions": "sincos"}
_PAPER = {"image_size": 224, "patch_size": 16, "activation": "gelu", "positions": "sincos"}

# Source of vit_tiny to vit_large: "Training data-efficient image transformers" (Touvron et al.,
# 2021), table 1, and "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), table 1.
PRESETS: dict[str, dict] = {
    "vit_pico": _EDGE | {"width": 96, "depth": 4, "num_heads": 3, "mlp_ratio": 3.0},
    "vit_micro": _EDGE | {"width": 192, "depth": 6, "num_heads": 3},
    "vit_tiny": _PAPER | {"width": 192, "depth": 12, "num_heads": 3},
    "vit_small": _PAPER | {"width": 384, "depth": 12, "num_heads": 6},
    "vit_base": _PAPER | {"width": 768, "depth": 12, "num_heads": 12},
    "vit_large": _PAPER | {"width": 1024, "depth": 24, "num_heads": 16},
}


def create_encoder(preset: str, **overrides) -> ViT:
    """Makes an encoder with fresh weights.

    Args:
        preset: a key of PRESETS.
        **overrides: arguments of ViT that replace the preset's.

    Returns:
        The encoder, built.

    Raises:
        ValueError: if the preset isn't known.

    Example:
        >>> from sparse_ist_tf.encoder.presets import create_encoder
        >>> create_encoder("vit_pico").width
        96
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r}: must be one of {', '.join(PRESETS)}")
    return ViT(**{"name": preset, **PRESETS[preset], **overrides})


def nearest_preset(width: int, depth: int, patch_size: int) -> str:
    """The preset whose sizes are the most alike.

    Args:
        width: channels of a token.
        depth: number of blocks.
        patch_size: side of a patch in pixels.

    Returns:
        A key of PRESETS.
    """
    sizes = (width, depth, patch_size)

    def distance(preset):
        theirs = (preset["width"], preset["depth"], preset["patch_size"])
        return sum(abs(math.log(a / b)) for a, b in zip(sizes, theirs, strict=True))

    return min(PRESETS, key=lambda name: distance(PRESETS[name]))


def listed(what: str, names: list[str], most: int = 8) -> str:
    """A few of some names, for an error.

    Args:
        what: they are.
        names: the names.
        most: how many of them are told.

    Returns:
        One line.
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{rest}"
