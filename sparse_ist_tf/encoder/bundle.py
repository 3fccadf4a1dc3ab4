"""An encoder: a model with trained weights, and what the images that it sees must look like."""

import contextlib
import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import KerasTensor

from sparse_ist_tf.encoder import fast
from sparse_ist_tf.encoder.frozen import EncoderModel, FrozenEncoder
from sparse_ist_tf.encoder.positions import resample_positions, sincos_positions
from sparse_ist_tf.encoder.presets import nearest_preset, refuse_misfits
from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.encoder.vit import ViT
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

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ValueError(f"mean={self.mean}, std={self.std}: must be three each, stds positive")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction={self.crop_fraction}: must be in (0, 1]")


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A model with trained weights, and what the images that it sees must look like.

    Args:
        model: from visible patches to features.
        preprocessing: of the images.
        digest: sha256, in hex, of the weights and the architecture, whatever the dtype they run in.
        name: what the weights were asked for by.
        notes: what is worth telling, a line each.
    """

    model: EncoderModel
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
        return (self.image_size // self.patch_size) ** 2

    @property
    def feature_dim(self) -> int:
        """Length of a feature."""
        return self.model.feature_dim

    def describe(self) -> str:
        """What the model is, what it sees, and the notes, a line each."""
        seen = self.preprocessing
        mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (seen.mean, seen.std))
        pixels = f"pixels: mean {mean}, std {std}; "
        pixels += f"trained on a centre crop of {seen.crop_fraction:.3g} of the side"
        interpolation = f", {seen.interpolation}" if seen.interpolation else ""
        return "\n".join([*self._model_lines(), pixels + interpolation, *self.notes])

    def _model_lines(self) -> list[str]:
        return [
            f"{self.name}: {type(self.model).__name__} to {self.feature_dim} features",
            f"{self.num_patches} patches of {self.patch_size} px (images of {self.image_size} px)",
        ]

    def features(self) -> Callable[[Mapping[str, KerasTensor]], KerasTensor]:
        """The model itself; as FrozenEncoder."""
        return self.model


@dataclasses.dataclass(frozen=True)
class ViTEncoder(Encoder):
    """A ViT with trained weights: the only kind that exports and whose blocks can train."""

    model: ViT

    def features(self) -> Callable[[Mapping[str, KerasTensor]], KerasTensor]:
        """The fast form, with the weights as they are now."""
        return fast.frozen_features(self.model)

    def _model_lines(self) -> list[str]:
        spec = self.model.spec
        tokens = (["CLS"] if spec.class_token else []) + [f"{spec.num_patches} patches"]
        if spec.extra_tokens:
            tokens.insert(-1, f"{spec.extra_tokens} extra")
        norms = "a norm before the blocks, " if spec.pre_norm else ""
        return [
            f"{self.name}: {spec.depth} blocks of width {spec.width}, {spec.num_heads} heads, "
            f"MLP {spec.hidden} ({spec.activation}), {norms}"
            f"epsilon {spec.epsilon:g}, feature: {spec.pool}",
            f"tokens: {', '.join(tokens)} of {spec.patch_size} px (images of {spec.image_size} "
            f"px), {spec.positions} positions",
        ]


def make_encoder(
    spec: ViTSpec,
    tensors: dict[str, np.ndarray],
    preprocessing: Preprocessing | None = None,
    *,
    name: str,
    dtype: str = "float32",
    notes: tuple[str, ...] = (),
) -> ViTEncoder:
    """Puts an encoder together from its parts.

    Args:
        spec: the architecture.
        tensors: path to array, those of spec.weight_shapes() and no others.
        preprocessing: of the images.
        name: what the weights were asked for by.
        dtype: "float32" or "bfloat16".
        notes: what was done to the weights on the way.

    Raises:
        RequestError: if a tensor is missing, unexpected, misshapen or not finite, or the
            architecture can't be made.
    """
    wanted = spec.weight_shapes()
    misshapen = [
        f"{key} is {tensors[key].shape}, not {shape}"
        for key, shape in wanted.items()
        if key in tensors and tensors[key].shape != shape
    ]
    refuse_misfits(
        [key for key in wanted if key not in tensors],
        [key for key in tensors if key not in wanted],
        misshapen,
        "the nearest known architecture is "
        + nearest_preset(spec.width, spec.depth, spec.patch_size),
    )
    architecture = json.dumps(dataclasses.asdict(spec), sort_keys=True)
    digest = _digest(architecture, {key: tensors[key] for key in sorted(wanted)})
    try:
        model = ViT(spec, dtype=dtype)
    except ValueError as error:
        raise RequestError(f"no encoder can be made of {spec}: {error}") from None
    for key, variable in stored_variables(model).items():
        variable.assign(np.ascontiguousarray(tensors[key], "<f4"))
    return ViTEncoder(model, preprocessing or Preprocessing(), digest, name, tuple(notes))


def keras_encoder(
    model: EncoderModel,
    preprocessing: Preprocessing | None = None,
    *,
    name: str,
    architecture: str = "",
    notes: tuple[str, ...] = (),
) -> Encoder:
    """An encoder of any Keras model, such as one's own.

    Args:
        model: built, with weights.
        preprocessing: of the images.
        name: what the weights were asked for by.
        architecture: what tells it from others with the same weights; where empty its class, sizes
            and configuration, and the source of classes that aren't Keras'.
        notes: what is worth telling.

    Raises:
        RequestError: if a weight is not finite.
    """
    arrays = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
    digest = _digest(architecture or _architecture(model), arrays)
    return Encoder(model, preprocessing or Preprocessing(), digest, name, notes)


def _architecture(model: EncoderModel) -> str:
    """What tells a model from others with the same weights, as far as it can be told."""
    parts = [type(model).__qualname__, model.image_size, model.patch_size, model.feature_dim]
    with contextlib.suppress(Exception):  # whatever a model's own get_config raises
        config = keras.saving.serialize_keras_object(model)
        parts.append(json.dumps(_without_names(config), sort_keys=True, default=str))
    layers = [model, *getattr(model, "_flatten_layers", lambda: ())()]
    own = {type(layer) for layer in layers if not type(layer).__module__.startswith("keras.")}
    for layer in sorted(own, key=lambda kind: kind.__qualname__):
        with contextlib.suppress(OSError, TypeError):  # typed into a console
            parts.append(inspect.getsource(layer))
    return "\n".join(map(str, parts))


def _without_names(config):
    """A configuration without names, which count how many layers a process has made."""
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    return [_without_names(x) for x in config] if isinstance(config, list | tuple) else config


def vit_encoder(encoder: FrozenEncoder, wanted: str) -> ViTEncoder:
    """An encoder that must be a ViT, for what is wanted, such as "encoder.trainable_blocks=2".

    Raises:
        RequestError: if it is none.
    """
    if not isinstance(encoder, ViTEncoder):
        raise RequestError(f"{wanted}: only for a ViT, {encoder.name} is none")
    return encoder


def _digest(architecture: str, arrays: Mapping[str, np.ndarray]) -> str:
    """What tells an encoder from others: sha256, in hex, of its architecture and weights."""
    digest = hashlib.sha256(architecture.encode())
    for key, array in arrays.items():
        value = np.ascontiguousarray(array, "<f4")
        if not np.isfinite(value).all():
            raise RequestError(f"{key} is not finite")
        digest.update(f"\n{key} {value.shape}\n".encode() + value.tobytes())
    return digest.hexdigest()


def resized(
    spec: ViTSpec, tensors: dict[str, np.ndarray], image_size: int
) -> tuple[ViTSpec, dict[str, np.ndarray], list[str]]:
    """The same encoder for another image size: its position embeddings are resampled.

    Returns:
        (the new architecture, path to array, what was done: one line, or none).

    Raises:
        RequestError: if image_size is no multiple of the patch size.
    """
    if image_size == spec.image_size:
        return spec, tensors, []
    if image_size < 1 or image_size % spec.patch_size:
        raise RequestError(
            f"image_size={image_size}: must be a multiple of the patch size {spec.patch_size}"
        )
    if spec.positions == "sincos":
        table = sincos_positions(spec.grid, spec.width)
    else:
        table = tensors["position_table"]
    resampled = resample_positions(table, image_size // spec.patch_size)
    note = f"position embeddings are resampled (bicubic) from {spec.image_size} to {image_size} px"
    spec = dataclasses.replace(spec, image_size=image_size, positions="learned")
    return spec, tensors | {"position_table": resampled}, [note]


def stored_variables(model: ViT) -> dict[str, keras.Variable]:
    """The variables of a ViT by path, such as `block_0/qkv/kernel`, in the model's order.

    Sine-cosine positions are left out: they are computed.
    """
    named = {v.path.removeprefix(f"{model.name}/"): v for v in model.variables}
    if model.spec.positions == "sincos":
        del named["position_table"]
    return named


def stored_arrays(model: ViT) -> dict[str, np.ndarray]:
    """The values of stored_variables: path to float32 array."""
    return {
        name: keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
        for name, variable in stored_variables(model).items()
    }
