"""An encoder's weights, loaded from wherever a user names them."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from sparse_ist_tf.checkpoints.conversion import check_floats, from_timm
from sparse_ist_tf.checkpoints.files import Checkpoint, read_checkpoint
from sparse_ist_tf.checkpoints.hubs import read_hugging_face, read_keras_hub
from sparse_ist_tf.checkpoints.names.families import family
from sparse_ist_tf.checkpoints.naming import is_flax, named_tensors, transformers_kind
from sparse_ist_tf.checkpoints.sources import find_loader
from sparse_ist_tf.checkpoints.spec import parse_weights
from sparse_ist_tf.encoder.bundle import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    ViTEncoder,
    make_encoder,
    resized,
)
from sparse_ist_tf.encoder.frozen import FrozenEncoder
from sparse_ist_tf.encoder.positions import big_vision_positions
from sparse_ist_tf.encoder.presets import PRESETS
from sparse_ist_tf.encoder.spec import ACTIVATIONS, POOLS, ViTSpec
from sparse_ist_tf.errors import RequestError, did_you_mean
from sparse_ist_tf.streams import Stream

DTYPES = ("float32", "bfloat16")
PACKAGED = Path(__file__).parents[1] / "encoder/packaged"
_MOST_TEXT = 2000  # characters of an error
_IMAGENET, _IMAGENETS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}, "ImageNet's"
_PREPROCESSING = tuple(field.name for field in dataclasses.fields(Preprocessing))


def load_encoder(
    weights: str = "packaged:vit_micro",
    *,
    dtype: str = "float32",
    image_size: int | None = None,
    activation: str | None = None,
    pool: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> FrozenEncoder:
    """Loads an encoder.

    What a checkpoint or its configuration states is read off there; what they can't tell is an
    argument, or behind the question mark of weights. Position embeddings are resampled to another
    image size, and a warning says so.

    Args:
        weights: where they are, and behind a question mark what else is to be known of them.
            `packaged:NAME`: with the library.
            `random:PRESET`: nowhere; drawn from the override `seed`.
            `hf:OWNER/MODEL[@REVISION]`: on the Hugging Face hub, in transformers' or timm's names.
            `keras_hub:PRESET`: at KerasHub.
            `resnet50:random`, `resnet50:imagenet` or `resnet50:PATH`: a ResNet-50, to compare with,
            see load_resnet; it has an image size and nothing else to choose.
            `NAME:...`: of register_encoder.
            A path to .safetensors (ours, timm's or transformers'), .npz (big_vision's or
            vision_transformer's), .weights.h5 or .keras (ours), .pth, .pt, .ckpt or .bin (Meta's
            MAE, DINO, DINOv2 or DeiT, Lightning's; no pickle code is run), .index.json of shards,
            or to a folder with one of them, as transformers saves a model.
            Overrides, as `mae.pth?num_heads=16&epsilon=1e-6`: num_heads, by default 64 wide each,
            or as in the published ViT of that width (ViT-H, g and G, So400m); qk_scale, what the
            products of query and key are multiplied by, by default 1 / sqrt(size of a head), not
            for this library's own files, whose queries hold it; epsilon of the layer norms, by
            default 1e-6.
        dtype: "float32" or "bfloat16", in which the model computes.
        image_size: side of the images in pixels, a multiple of the patch size; by default the one
            that the position embeddings are for (224 for a big_vision model that has none).
        activation: of the MLPs; by default "gelu", in .npz files "gelu_tanh", which is Flax's.
        pool: the feature, "cls", "cls_mean", "mean" or "mean_norm" (see ViTSpec); by default CLS
            where there is one.
        mean: of red, green and blue, of pixels in [0, 1]; by default ImageNet's for files in timm's
            and Meta's names and for transformers' DeiT, MAE and DINOv2, whose published ones have
            it, 0.5 for others.
        std: of red, green and blue; as mean.

    Returns:
        The encoder; a ViTEncoder but for `resnet50` and what others have registered.

    Raises:
        RequestError: if there are no such weights, the file is damaged or more than tensors, or
            they aren't those of a ViT.
        RunError: if a hub can't be reached.

    Example:
        >>> from sparse_ist_tf.checkpoints.loading import load_encoder
        >>> load_encoder("random:vit_pico").feature_dim
        96
    """
    options: dict[str, Any] = {"image_size": image_size, "activation": activation, "pool": pool}
    options |= {"mean": mean, "std": std}
    given = {name: value for name, value in options.items() if value is not None}
    allowed = {"dtype": DTYPES, "activation": ACTIVATIONS, "pool": POOLS}
    try:
        for name, value in ({"dtype": dtype} | given).items():
            if value not in allowed.get(name, (value,)):
                raise RequestError(f"{name}={value!r}: must be one of {', '.join(allowed[name])}")
        source, overrides = parse_weights(weights)
        load, rest = find_loader(source)
        return load(rest, name=weights, dtype=dtype, **given, **overrides)
    except (RequestError, TypeError, ValueError) as error:
        text = "".join(c if c.isprintable() else " " for c in str(error))  # names may be damaged
        near = did_you_mean_weights(weights)
        raise RequestError(f"encoder.weights={weights!r}: {text[:_MOST_TEXT]}{near}") from None


def did_you_mean_weights(weights: str) -> str:
    """The end of a message about weights that can't be loaded.

    Returns:
        A question with the nearest of those that need no file or hub, as errors.did_you_mean; ""
        where none is near, and where `weights` is one of them, or a file.
    """
    source = weights.partition("?")[0]
    known = [f"packaged:{path.stem}" for path in sorted(PACKAGED.glob("*.safetensors"))]
    known += [f"random:{preset}" for preset in PRESETS]
    if source in known or Path(source).exists():
        return ""
    if ":" in source:
        return did_you_mean(source, known)
    by_name = {name.partition(":")[2]: name for name in reversed(known)}  # packaged ones first
    near = difflib.get_close_matches(source, by_name, 1)
    return did_you_mean(by_name[near[0]], known) if near else ""


def load_configured(config: Mapping[str, Any]) -> FrozenEncoder:
    """Loads what `config.encoder` says, as load_encoder; 0, "" and () leave it to the checkpoint.

    Raises:
        RequestError: as load_encoder.
        RunError: as load_encoder.
    """
    names = ("dtype", "image_size", "activation", "pool", "mean", "std")
    given = {name: config[name] for name in names if config.get(name)}
    return load_encoder(config["weights"], **given)


def _read_packaged(weights: str) -> Checkpoint:
    path = PACKAGED / f"{weights}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in PACKAGED.glob("*.safetensors"))) or "none"
        raise RequestError(f"no such packaged weights; there are: {there}")
    return read_checkpoint(path)


def _draw(preset: str, seed: int = 0) -> Checkpoint:
    if preset not in PRESETS:
        raise RequestError(f"random:={preset!r}: must be one of {', '.join(PRESETS)}")
    spec, rng, tensors = PRESETS[preset], Stream.ENCODER_WEIGHTS.rng(seed), {}
    for key, shape in spec.weight_shapes().items():
        if key == "embed/kernel":  # glorot
            limit = np.sqrt(6 / sum(shape))
            tensors[key] = rng.uniform(-limit, limit, shape)
        elif key.endswith(("bias", "offset", "scale")):
            tensors[key] = np.full(shape, key.endswith("scale"), np.float32)
        else:
            tensors[key] = 0.02 * np.clip(rng.standard_normal(shape), -2, 2)
    return Checkpoint(tensors, dataclasses.asdict(spec))


def _loader(read: Callable[..., Checkpoint], drawn: bool = False) -> Callable[..., ViTEncoder]:
    """Who loads the ViT of a checkpoint that `read` makes of what stands behind the colon."""

    def load(
        rest: str,
        /,
        *,
        name: str,
        dtype: str,
        image_size: int | None = None,
        seed: int | None = None,
        **given: Any,
    ) -> ViTEncoder:
        if seed is not None and not drawn:
            raise RequestError(f"seed={seed}: must not be given, nothing is drawn")
        checkpoint = read(rest, seed or 0) if drawn else read(rest)
        spec, tensors, settings, notes = _convert(checkpoint, given, image_size)
        if image_size is not None:
            spec, tensors, done = resized(spec, tensors, image_size)
            for note in done:
                logging.warning("%s: %s", name, note)
            notes += done
        seen = Preprocessing(**{k: v for k, v in settings.items() if k in _PREPROCESSING})
        return make_encoder(spec, tensors, seen, name=name, dtype=dtype, notes=tuple(notes))

    return load


load_file = _loader(read_checkpoint)
load_packaged = _loader(_read_packaged)
load_random = _loader(_draw, drawn=True)
load_hugging_face = _loader(read_hugging_face)
load_keras_hub = _loader(read_keras_hub)


def _convert(checkpoint, given, image_size):
    """(architecture, path to array, all settings, notes) of a checkpoint."""
    settings, notes = checkpoint.settings | given, list(checkpoint.notes)
    if checkpoint.architecture is not None:
        if "qk_scale" in given:
            text = f"qk_scale={given['qk_scale']:g}: must not be given, the queries hold it"
            raise RequestError(text)
        ours = {k: v for k, v in given.items() if k not in _PREPROCESSING}
        for name, tensor in checkpoint.tensors.items():
            check_floats(name, tensor)
        return ViTSpec.read(checkpoint.architecture | ours), checkpoint.tensors, settings, notes
    try:
        spec, tensors, done = _converted(checkpoint.tensors, settings, image_size)
    except RequestError as error:
        if called := family(checkpoint.tensors):
            raise RequestError(f"it looks like a {called}, must be a plain ViT: {error}") from None
        raise
    halves = (settings.get("model_type") or transformers_kind(checkpoint.tensors)) == "vit"
    assumed = {"mean": HALF, "std": HALF} if halves else _IMAGENET
    if not settings.keys() & assumed.keys():
        done.append(f"mean and std are {'0.5' if halves else _IMAGENETS}: none are stated")
    return spec, tensors, assumed | settings, notes + done


def _converted(tensors, settings, image_size):
    named = named_tensors(tensors)
    kernel = named.tensors.get("patch_embed.proj.weight")
    if is_flax(tensors) and "pos_embed" not in named.tensors and kernel.ndim == 4:
        size = image_size or 224
        table = big_vision_positions(size, kernel.shape[-1], kernel.shape[0])
        named.add("pos_embed", "pos_embed", table[None])
        named.notes.append(f"positions are big_vision's sine-cosine ones, computed for {size} px")
    return from_timm(named, settings)
