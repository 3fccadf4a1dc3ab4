"""One description of the Vision Transformer, without TensorFlow.

The Keras model, its fast form, the exported forms, the shapes of stored weights and the converters
of checkpoints derive from it. A new pool or activation is an entry of POOLS or ACTIVATIONS,
written over what every form offers; a form that lacks an operation of it gets that one.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from sparse_ist_tf.errors import RequestError

QUICK_GELU = 1.702  # the a of x * sigmoid(a x)
POSITIONS = ("sincos", "learned")

_MOST = {"image_size": 2**14, "patch_size": 2**14, "width": 2**20, "num_heads": 2**20}
_MOST |= {"depth": 2**10}  # a damaged file may claim a model that no memory holds
_MOST_PATCHES = 2**16


class TokenOps(Protocol):
    """What a form of the ViT does with the tokens behind its last block; pools are written so."""

    def norm(self, x: Any) -> Any:
        """The final layer norm."""

    def first(self, x: Any) -> Any:
        """CLS."""

    def mean(self, x: Any) -> Any:
        """The mean over the patches' tokens."""

    def join(self, parts: Sequence[Any]) -> Any:
        """Some features, one behind the other."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """How the feature is made of the tokens behind the last block.

    Args:
        of: f(ops, tokens) to the feature, with a form's TokenOps.
        parts: length of the feature over the width.
        class_token: whether CLS is needed.
        first_alone: whether nothing but CLS is, so that the last block computes no other token.
    """

    of: Callable[[TokenOps, Any], Any]
    parts: int = 1
    class_token: bool = False
    first_alone: bool = False


def _cls_mean(ops, x):
    x = ops.norm(x)
    mean = ops.mean(x)  # before the first token is taken, as in files that are exported
    return ops.join([ops.first(x), mean])


POOLS = {
    "cls": Pool(lambda ops, x: ops.first(ops.norm(x)), class_token=True, first_alone=True),
    "cls_mean": Pool(_cls_mean, parts=2, class_token=True),
    "mean": Pool(lambda ops, x: ops.mean(ops.norm(x))),
    "mean_norm": Pool(lambda ops, x: ops.norm(ops.mean(x))),
}


@dataclasses.dataclass(frozen=True)
class Activation:
    """The activation of an MLP's hidden layer.

    Args:
        of: f(ops, x), with keras.ops or what has the same functions.
        branches: numbers that fc1 makes for each that goes on to fc2.
        gain: of an activation that is folded(gain * x) / gain: both factors go into the matrices.
        folded: what is left then; `of` where gain is 1.
    """

    of: Callable[[ModuleType, Any], Any]
    branches: int = 1
    gain: float = 1.0
    folded: Callable[[ModuleType, Any], Any] | None = None


def _quick_gelu(ops, x):
    gate = ops.sigmoid(ops.cast(QUICK_GELU * x, "float32"))  # in bfloat16 half as fast
    return x * ops.cast(gate, x.dtype)


def _swiglu(ops, x):
    gate, value = ops.split(x, 2, axis=-1)
    return ops.silu(gate) * value


ACTIVATIONS = {
    "quick_gelu": Activation(_quick_gelu, gain=QUICK_GELU, folded=lambda ops, x: ops.silu(x)),
    "gelu": Activation(lambda ops, x: ops.gelu(x, approximate=False)),
    "gelu_tanh": Activation(lambda ops, x: ops.gelu(x, approximate=True)),
    "swiglu": Activation(_swiglu, branches=2),
}


def block_shapes(width: int, hidden: int, activation: str) -> dict[str, tuple[int, ...]]:
    """The layers of a transformer block, in order.

    Returns:
        Name to (inputs, outputs) of a dense layer, or (channels,) of a layer norm.
    """
    return {
        "norm1": (width,),
        "qkv": (width, 3 * width),
        "proj": (width, width),
        "norm2": (width,),
        "fc1": (width, hidden * ACTIVATIONS[activation].branches),
        "fc2": (hidden, width),
    }


@dataclasses.dataclass(frozen=True)
class ViTSpec:
    """A Vision Transformer's architecture.

    Args:
        image_size: side of the square image in pixels, a multiple of patch_size.
        patch_size: side of a patch in pixels.
        width: channels of a token.
        depth: number of blocks.
        num_heads: attention heads, a divisor of width.
        mlp_ratio: hidden width of a block's MLP over width.
        activation: "quick_gelu" (x * sigmoid(1.702 x), which converts to every target), "gelu"
            (exact), "gelu_tanh" (Gaussian by its tanh approximation) or "swiglu" (fc1 makes
            2 * hidden numbers a and b, and a * sigmoid(a) * b goes on).
        positions: "sincos" (fixed) or "learned" embeddings of the patches' positions.
        epsilon: of the layer norms.
        class_token: whether a CLS token goes before the patches.
        extra_tokens: how many more tokens go between CLS and the patches: a distillation token,
            registers.
        pool: the feature is the "cls" token, the "mean" of the patches' tokens, both behind each
            other ("cls_mean", twice as long), or the mean before the final norm, normalised
            ("mean_norm").
        pre_norm: whether a layer norm comes before the first block.

    Raises:
        ValueError: if a size is none of a model's or doesn't divide as it must, or a name isn't
            known.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    activation: str = "quick_gelu"
    positions: str = "sincos"
    epsilon: float = 1e-6
    class_token: bool = True
    extra_tokens: int = 0
    pool: str = "cls"
    pre_norm: bool = False

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{name}={value!r}: must be a whole number from 1 to {most}")
        if not isinstance(self.extra_tokens, int) or not 0 <= self.extra_tokens <= 2**14:
            raise ValueError(f"extra_tokens={self.extra_tokens!r}: must be a whole number, not < 0")
        for name in ("mlp_ratio", "epsilon"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < 2**10:
                raise ValueError(f"{name}={value!r}: must be a number above 0")
        pools = [name for name, pool in POOLS.items() if self.class_token or not pool.class_token]
        names = {"activation": ACTIVATIONS, "positions": POSITIONS, "pool": pools}
        for name, allowed in names.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}"
                )
        for name, part in (("image_size", "patch_size"), ("width", "num_heads")):
            size, divisor = getattr(self, name), getattr(self, part)
            if size % divisor:
                raise ValueError(f"{name}={size}: must be a multiple of {part}={divisor}")
        if self.num_patches > _MOST_PATCHES:
            raise ValueError(
                f"{self.num_patches} patches of {self.patch_size} px: more than any model's"
            )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "ViTSpec":
        """The architecture that a file states.

        Raises:
            RequestError: if they are none, or an architecture that can't be.
        """
        try:
            return cls(**config)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise RequestError(f"no encoder can be made of {config}: {error}") from None

    @property
    def grid(self) -> int:
        """Patches along a side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return self.grid**2

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches."""
        return int(self.class_token) + self.extra_tokens

    @property
    def pixels(self) -> int:
        """Numbers of a patch, three a pixel."""
        return 3 * self.patch_size**2

    @property
    def hidden(self) -> int:
        """Width of an MLP's hidden layer."""
        return round(self.width * self.mlp_ratio)

    @property
    def feature_dim(self) -> int:
        """Entries of the feature."""
        return self.width * POOLS[self.pool].parts

    def token_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that are no layer's: the table of positions and the tokens before patches."""
        shapes: dict[str, tuple[int, ...]] = {"position_table": (self.num_patches, self.width)}
        if self.class_token:
            shapes["cls_token"] = (1, 1, self.width)
        if self.extra_tokens:
            shapes["extra_tokens"] = (1, self.extra_tokens, self.width)
        return shapes

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights that a file holds: path to shape.

        Sine-cosine positions are left out: they are computed.
        """
        shapes = self.token_shapes()
        if self.positions == "sincos":
            del shapes["position_table"]
        layers: dict[str, tuple[int, ...]] = {"embed": (self.pixels, self.width)}
        block = block_shapes(self.width, self.hidden, self.activation)
        for i in range(self.depth):
            layers |= {f"block_{i}/{name}": shape for name, shape in block.items()}
        layers |= dict.fromkeys(("norm_pre", "norm")[not self.pre_norm :], (self.width,))
        for name, shape in layers.items():
            parts = ("kernel", "bias") if len(shape) == 2 else ("scale", "offset")
            shapes |= {f"{name}/{parts[0]}": shape, f"{name}/{parts[1]}": shape[-1:]}
        return shapes

    def flops(self, num_visible: int) -> float:
        """Multiplications and additions in the matrix products of encoder/fast.py, for one image.

        Returns:
            FLOP; fewer than those of the model itself where the feature is CLS.
        """
        width, tokens = self.width, num_visible + self.num_prefix_tokens
        shapes = block_shapes(width, self.hidden, self.activation).values()
        weights = sum(shape[0] * shape[1] for shape in shapes if len(shape) == 2)
        keys = 2 * width * width  # of qkv: keys and values are needed of all tokens

        def block(queries):
            return queries * (weights - keys) + tokens * keys + 2 * queries * tokens * width

        last = 1 if POOLS[self.pool].first_alone else tokens
        blocks = (self.depth - 1) * block(tokens) + block(last)
        return 2.0 * (blocks + num_visible * self.pixels * width)
