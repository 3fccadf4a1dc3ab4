"""An encoder: a ViT with trained weights, and what the images that it sees must look like."""

import dataclasses
import hashlib
import json

import keras
import numpy as np

from sparse_ist_tf.encoder.positions import resample_positions
from sparse_ist_tf.encoder.presets import listed, nearest_preset
from sparse_ist_tf.encoder.vit import ViT, sincos_positions
from sparse_ist_tf.errors import RequestError

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What was done to the images that the weights were trained on, seen by the model at test time.

    Args:
        mean: of red, green and blue; a pixel in [0, 1] is shown as (pixel - mean) / std.
        std: of red, green and blue.
        crop_fraction: side of the centre crop over that of the resized image; 1 where all is kept.
        interpolation: of the resizing; "" where it isn't known.

    Raises:
        ValueError: if there are not three means and three positive stds.
    """

    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    crop_fraction: float = 1.0
    interpolation: str = ""

    def __post_init__(self):
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ValueError(f"mean={self.mean}, std={self.std}: must be three each, stds positive")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction={self.crop_fraction}: must be in (0, 1]")


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A ViT with trained weights, and what the images that it sees must look like.

    Args:
        model: takes {"patches": float32[b, v, 3 * patch_size**2], "positions": int32[b, v]}.
        preprocessing: of the images.
        digest: sha256, in hex, of the weights and the architecture, whatever the dtype they run in.
        name: what the weights were asked for by.
        notes: what was done to the weights on the way, a line each.
    """

    model: ViT
    preprocessing: Preprocessing
    digest: str
    name: str
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of red, green and blue; a pixel in [0, 1] is shown as (pixel - mean) / std."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Of red, green and blue."""
        return self.preprocessing.std

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.model.image_size

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.model.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return self.model.num_patches

    @property
    def feature_dim(self) -> int:
        """Length of a feature."""
        return self.model.feature_dim

    def describe(self) -> str:
        """The architecture, the preprocessing and the notes, a line each."""
        model, seen = self.model, self.preprocessing
        tokens = (["CLS"] if model.class_token else []) + [f"{model.num_patches} patches"]
        if model.extra_tokens:
            tokens.insert(-1, f"{model.extra_tokens} extra")
        norms = "a norm before the blocks, " if model.pre_norm else ""
        trained = f"trained on a centre crop of {seen.crop_fraction:.3g} of the side"
        lines = [
            f"{self.name}: {model.depth} blocks of width {model.width}, {model.num_heads} heads, "
            f"MLP {round(model.width * model.mlp_ratio)} ({model.activation}), {norms}"
            f"epsilon {model.epsilon:g}, feature: {model.pool}",
            f"tokens: {', '.join(tokens)} of {model.patch_size} px (images of {model.image_size} "
            f"px), {model.positions} positions",
            f"pixels: mean {_numbers(seen.mean)}, std {_numbers(seen.std)}; {trained}"
            + (f", {seen.interpolation}" if seen.interpolation else ""),
        ]
        return "\n".join([*lines, *self.notes])


def _numbers(values):
    return ", ".join(f"{value:.4g}" for value in values)


def make_encoder(
    config: dict,
    tensors: dict[str, np.ndarray],
    preprocessing: Preprocessing | None = None,
    *,
    name: str,
    dtype: str = "float32",
    notes: tuple[str, ...] = (),
) -> Encoder:
    """Puts an encoder together from its parts.

    Args:
        config: arguments of ViT.
        tensors: path to array, those of stored_variables and no others.
        preprocessing: of the images.
        name: what the weights were asked for by.
        dtype: "float32" or "bfloat16".
        notes: what was done to the weights on the way.

    Returns:
        The encoder.

    Raises:
        RequestError: if the architecture is impossible, or a tensor is missing, unexpected,
            misshapen or not finite.
    """
    try:
        # Before the model is made: a damaged file may claim one that no memory holds.
        wanted = weight_shapes(config, most_blocks=len(tensors))
        problems = [
            listed(what, names)
            for what, names in (
                ("missing", [key for key in wanted if key not in tensors]),
                ("unexpected", [key for key in tensors if key not in wanted]),
                (
                    "misshapen",
                    [
                        f"{key} is {tensors[key].shape}, not {shape}"
                        for key, shape in wanted.items()
                        if key in tensors and tensors[key].shape != shape
                    ],
                ),
            )
            if names
        ]
        if problems:
            sizes = (config["width"], config["depth"], config["patch_size"])
            raise RequestError(
                f"{'; '.join(problems)} (the nearest known architecture is "
                f"{nearest_preset(*sizes)})"
            )
        model = ViT(**config, dtype=dtype)
    except RequestError:
        raise
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise RequestError(f"no encoder can be made of {config}: {error}") from None
    variables = stored_variables(model)
    digest = hashlib.sha256(json.dumps(architecture(model), sort_keys=True).encode())
    for key in sorted(variables):
        value = np.ascontiguousarray(tensors[key], "<f4")
        if not np.isfinite(value).all():
            raise RequestError(f"{key} is not finite")
        digest.update(f"\n{key} {value.shape}\n".encode() + value.tobytes())
        variables[key].assign(value)
    return Encoder(model, preprocessing or Preprocessing(), digest.hexdigest(), name, tuple(notes))


def weight_shapes(config: dict, most_blocks: int = 1000) -> dict[str, tuple[int, ...]]:
    """The shapes of stored_variables, found without making the model.

    Args:
        config: arguments of ViT.
        most_blocks: that the model may have.

    Returns:
        Path to shape.

    Raises:
        ValueError: if a size is not a positive whole number, or far from any model's.
        KeyError: if one is missing.
    """
    limits = {"image_size": 2**14, "patch_size": 2**14, "width": 2**20, "num_heads": 2**20}
    for name, most in (limits | {"depth": most_blocks}).items():
        value = config[name]
        if not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{name}={value!r}: must be a whole number from 1 to {most}")
    extra, ratio, epsilon = (
        config.get(name, default)
        for name, default in (("extra_tokens", 0), ("mlp_ratio", 4.0), ("epsilon", 1e-6))
    )
    if not isinstance(extra, int) or not 0 <= extra <= 2**14:
        raise ValueError(f"extra_tokens={extra!r}: must be a whole number of at least 0")
    for name, value in (("mlp_ratio", ratio), ("epsilon", epsilon)):
        if not isinstance(value, int | float) or not 0 < value < 2**10:
            raise ValueError(f"{name}={value!r}: must be a number above 0")
    patch, width = config["patch_size"], config["width"]
    hidden, num_patches = round(width * ratio), (config["image_size"] // patch) ** 2
    if num_patches > 2**16:
        raise ValueError(f"{num_patches} patches of {patch} px: more than any model's")
    inner = hidden * (2 if config.get("activation") == "swiglu" else 1)

    def dense(name, inputs, outputs):
        return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}

    def norm(name):
        return {f"{name}/scale": (width,), f"{name}/offset": (width,)}

    shapes = {}
    if config.get("positions", "sincos") == "learned":
        shapes["position_table"] = (num_patches, width)
    if config.get("class_token", True):
        shapes["cls_token"] = (1, 1, width)
    if extra:
        shapes["extra_tokens"] = (1, extra, width)
    shapes |= dense("embed", 3 * patch**2, width)
    for i in range(config["depth"]):
        block = f"block_{i}"
        shapes |= norm(f"{block}/norm1") | dense(f"{block}/qkv", width, 3 * width)
        shapes |= dense(f"{block}/proj", width, width) | norm(f"{block}/norm2")
        shapes |= dense(f"{block}/fc1", width, inner) | dense(f"{block}/fc2", hidden, width)
    return shapes | (norm("norm_pre") if config.get("pre_norm") else {}) | norm("norm")


def resized(
    config: dict, tensors: dict[str, np.ndarray], image_size: int
) -> tuple[dict, dict[str, np.ndarray], list[str]]:
    """The same encoder for another image size: its position embeddings are resampled.

    Args:
        config: arguments of ViT.
        tensors: path to array.
        image_size: side in pixels, a multiple of the patch size.

    Returns:
        (arguments of ViT, path to array, what was done: one line, or none).

    Raises:
        RequestError: if image_size is no multiple of the patch size.
    """
    patch, width, old = config["patch_size"], config["width"], config["image_size"]
    if image_size == old:
        return config, tensors, []
    if image_size < 1 or image_size % patch:
        raise RequestError(f"image_size={image_size}: must be a multiple of the patch size {patch}")
    if config["positions"] == "sincos":
        table = sincos_positions(old // patch, width)
    else:
        table = tensors["position_table"]
    grid = image_size // patch
    tensors = tensors | {"position_table": resample_positions(table, grid)}
    note = f"position embeddings are resampled (bicubic) from {old} to {image_size} px"
    return config | {"image_size": image_size, "positions": "learned"}, tensors, [note]


def stored_variables(model: ViT) -> dict[str, keras.Variable]:
    """The variables of a ViT by path, such as `cls_token` or `block_0/qkv/kernel`.

    Sine-cosine positions are left out: they are computed.

    Args:
        model: the encoder's model.

    Returns:
        Path to variable, in the model's order.
    """
    named = {v.path.removeprefix(f"{model.name}/"): v for v in model.variables}
    if model.positions == "sincos":
        del named["position_table"]
    return named


def stored_arrays(model: ViT) -> dict[str, np.ndarray]:
    """The values of stored_variables: path to float32 array.

    Args:
        model: the encoder's model.

    Returns:
        Path to array, in the model's order.
    """
    return {
        name: keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
        for name, variable in stored_variables(model).items()
    }


def architecture(model: ViT) -> dict:
    """The arguments that make a ViT of the same architecture, its name and dtype left out.

    Args:
        model: the encoder's model.

    Returns:
        Arguments of ViT.
    """
    config = model.get_config()
    return {key: config[key] for key in config if key not in ("name", "dtype", "trainable")}
