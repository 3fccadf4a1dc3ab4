"""What `encoder.weights` says: a source, and what its weights don't tell of themselves.

Nothing heavy is imported here.
"""

import math
from pathlib import Path

from sparse_ist_tf.errors import RequestError

# num_heads: attention heads; by default they are 64 wide, or as in the published ViT of that width.
# qk_scale: what the products of query and key are multiplied by; 1 / sqrt(size of a head).
# epsilon: of the layer norms; 1e-6. seed: of weights that are drawn; 0.
OVERRIDES = {"num_heads": int, "qk_scale": float, "epsilon": float, "seed": int}


def parse_weights(text: str) -> tuple[str, dict[str, int | float]]:
    """Takes the text of `encoder.weights` apart.

    Args:
        text: SOURCE, or SOURCE?KEY=VALUE&KEY=VALUE with keys of OVERRIDES. A path that exists as
            it stands is a source, whatever its name.

    Raises:
        RequestError: if a key isn't known or its value isn't a number of its kind.

    Example:
        >>> from sparse_ist_tf.checkpoints.spec import parse_weights
        >>> parse_weights("mae.pth?num_heads=16&epsilon=1e-6")
        ('mae.pth', {'num_heads': 16, 'epsilon': 1e-06})
    """
    if "?" not in text or Path(text).expanduser().exists():
        return text, {}
    source, _, query = text.rpartition("?")
    given: dict[str, int | float] = {}
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if key not in OVERRIDES or key in given:
            raise RequestError(f"?{part}: must be {', '.join(OVERRIDES)}, each once, as KEY=VALUE")
        try:
            given[key] = OVERRIDES[key](value)
        except ValueError:
            given[key] = math.nan
        if not (0 < given[key] < math.inf or (given[key] == 0 and key == "seed")):
            kind = "whole number" if OVERRIDES[key] is int else "number"
            raise RequestError(f"{part}: must be a {kind} above 0")
    return source, given


def weights_spec(
    weights: str, num_heads: int = 0, qk_scale: float = 0.0, epsilon: float = 0.0
) -> str:
    """The text of `encoder.weights` with more overrides: those that aren't 0.

    Raises:
        RequestError: as parse_weights.
    """
    given = {"num_heads": num_heads, "qk_scale": qk_scale, "epsilon": epsilon}
    added = "&".join(f"{key}={value!r}" for key, value in given.items() if value)
    return f"{weights}{'&' if parse_weights(weights)[1] else '?'}{added}" if added else weights
