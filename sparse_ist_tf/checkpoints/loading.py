"""An encoder's weights: loaded from wherever a user names them, stored, and exported.

    python -m sparse_ist_tf.checkpoints.loading --to=timm hf:facebook/vit-mae-base mae.safetensors

writes what timm loads, and says how; --to=keras writes a .keras file. Its other options are those
of load_encoder.
"""

import os

from sparse_ist_tf.commands import quiet, say
from sparse_ist_tf.streams import Stream

if __name__ == "__main__":  # first of all: TensorFlow logs while it is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        import keras  # noqa: F401

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging
from safetensors.numpy import save

from sparse_ist_tf.checkpoints.conversion import from_timm
from sparse_ist_tf.checkpoints.files import FORMAT, Checkpoint, read_checkpoint
from sparse_ist_tf.checkpoints.naming import is_flax, named_tensors
from sparse_ist_tf.checkpoints.writing import (
    check_suffix,
    export_to_keras,
    export_to_timm,
    write_file,
)
from sparse_ist_tf.encoder.bundle import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
    Preprocessing,
    architecture,
    make_encoder,
    resized,
    stored_arrays,
)
from sparse_ist_tf.encoder.positions import big_vision_positions
from sparse_ist_tf.encoder.presets import PRESETS, create_encoder
from sparse_ist_tf.encoder.vit import ACTIVATIONS, POOLS, ViT
from sparse_ist_tf.errors import RequestError, RunError

DTYPES = ("float32", "bfloat16")
PACKAGED = Path(__file__).parents[1] / "encoder/packaged"
SOURCES = (
    "packaged:NAME, random:PRESET, hf:OWNER/MODEL, keras_hub:PRESET, resnet50:WEIGHTS or a path"
)
_MOST_TEXT = 2000  # characters of an error
_PREPROCESSING = ("mean", "std", "crop_fraction", "interpolation")


def load_encoder(
    weights: str = "packaged:vit_micro",
    *,
    dtype: str = "float32",
    image_size: int | None = None,
    num_heads: int | None = None,
    qk_scale: float | None = None,
    activation: str | None = None,
    epsilon: float | None = None,
    pool: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    seed: int = 0,
) -> Encoder:
    """Loads an encoder.

    What a checkpoint or its configuration states is read off there; what they can't tell is an
    argument. Position embeddings are resampled to another image size, and a warning says so.

    Args:
        weights: where they are.
            `packaged:NAME`: with the library.
            `random:PRESET`: nowhere; drawn from `seed`.
            `hf:OWNER/MODEL[@REVISION]`: on the Hugging Face hub, in transformers' or timm's names.
            `keras_hub:PRESET`: at KerasHub.
            `resnet50:random`, `resnet50:imagenet` or `resnet50:PATH`: a ResNet-50, to compare with,
            see load_resnet; it has an image size and nothing else to choose.
            A path to .safetensors (ours, timm's or transformers'), .npz (big_vision's or
            vision_transformer's), .weights.h5 or .keras (ours), .pth (Meta's MAE, DINO, DINOv2 or
            DeiT; no pickle code is run), or to a folder that transformers saved a model in.
        dtype: "float32" or "bfloat16", in which the model computes.
        image_size: side of the images in pixels, a multiple of the patch size; by default the one
            that the position embeddings are for (224 for a big_vision model that has none).
        num_heads: attention heads; by default they are 64 wide, or as in the published ViT of that
            width (ViT-H, g and G, So400m).
        qk_scale: what the products of query and key are multiplied by, above 0; by default
            1 / sqrt(size of a head). Not for this library's own files, whose queries hold it.
        activation: of the MLPs; by default "gelu", in .npz files "gelu_tanh", which is Flax's.
        epsilon: of the layer norms; 1e-6 by default.
        pool: the feature, "cls", "cls_mean", "mean" or "mean_norm" (see ViT); by default CLS where
            there is one.
        mean: of red, green and blue, of pixels in [0, 1]; by default ImageNet's for files in timm's
            and Meta's names, 0.5 for others.
        std: of red, green and blue; as mean.
        seed: of `random:` weights.

    Returns:
        The encoder.

    Raises:
        RequestError: if there are no such weights, the file is damaged or more than tensors, or
            they aren't those of a ViT.
        RunError: if a hub can't be reached.

    Example:
        >>> from sparse_ist_tf.checkpoints.loading import load_encoder
        >>> load_encoder("random:vit_pico").feature_dim
        96
    """
    given = {
        "num_heads": num_heads,
        "qk_scale": qk_scale,
        "activation": activation,
        "epsilon": epsilon,
        "pool": pool,
        "mean": mean,
        "std": std,
    }
    given = {name: value for name, value in given.items() if value is not None}
    try:
        _check("dtype", dtype, DTYPES)
        _check("activation", given.get("activation", ACTIVATIONS[0]), ACTIVATIONS)
        _check("pool", given.get("pool", POOLS[0]), POOLS)
        if weights.startswith("resnet50:"):
            return _resnet(weights, given, dtype, image_size, seed)
        checkpoint = _open(weights, seed)
        config, tensors, settings, notes = _convert(checkpoint, given, image_size)
        if image_size is not None:
            config, tensors, done = resized(config, tensors, image_size)
            for note in done:
                logging.warning("%s: %s", weights, note)
            notes += done
        preprocessing = Preprocessing(**{k: v for k, v in settings.items() if k in _PREPROCESSING})
        return make_encoder(
            config, tensors, preprocessing, name=weights, dtype=dtype, notes=tuple(notes)
        )
    except (RequestError, TypeError, ValueError) as error:
        text = "".join(c if c.isprintable() else " " for c in str(error))  # names may be damaged
        raise RequestError(f"encoder.weights={weights!r}: {text[:_MOST_TEXT]}") from None


def load_configured(config: Mapping) -> Encoder:
    """Loads the encoder of a configuration.

    Args:
        config: `config.encoder`: its weights, and those of load_encoder's other arguments that it
            has; 0, "" and () leave a setting to the checkpoint.

    Returns:
        The encoder.

    Raises:
        RequestError: as load_encoder.
        RunError: as load_encoder.
    """
    names = "dtype image_size num_heads qk_scale activation epsilon pool mean std"
    given = {name: config[name] for name in names.split() if config.get(name)}
    return load_encoder(config["weights"], **given)


def _check(name, value, allowed):
    if value not in allowed:
        raise RequestError(f"{name}={value!r}: must be one of {', '.join(allowed)}")


def _resnet(weights, given, dtype, image_size, seed):
    from sparse_ist_tf.encoder.resnet import load_resnet

    if given:
        raise RequestError(f"{next(iter(given))}: is a ViT's, a ResNet-50 has no such setting")
    source = weights.partition(":")[2]
    return load_resnet(source, name=weights, dtype=dtype, image_size=image_size, seed=seed)


def _open(weights, seed):
    kind, colon, rest = weights.partition(":")
    if colon and kind == "packaged":
        path = PACKAGED / f"{rest}.safetensors"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in PACKAGED.glob("*.safetensors"))) or "none"
            raise RequestError(f"no such packaged weights; there are: {there}")
        return read_checkpoint(path)
    if colon and kind == "random":
        return _random(rest, seed)
    if colon and kind in ("hf", "keras_hub"):
        from sparse_ist_tf.checkpoints import hubs

        read = {"hf": hubs.read_hugging_face, "keras_hub": hubs.read_keras_hub}[kind]
        return read(rest)
    if colon and not Path(weights).exists() and kind.isidentifier() and len(kind) > 1:
        raise RequestError(f"must be {SOURCES}")
    return read_checkpoint(weights)


def _random(preset, seed):
    _check("random:", preset, PRESETS)
    model, rng = create_encoder(preset), Stream.ENCODER_WEIGHTS.rng(seed)
    tensors = stored_arrays(model)
    for key, value in tensors.items():
        if key == "embed/kernel":  # glorot
            limit = np.sqrt(6 / sum(value.shape))
            tensors[key] = rng.uniform(-limit, limit, value.shape)
        elif not key.endswith(("bias", "offset", "scale")):
            tensors[key] = 0.02 * np.clip(rng.standard_normal(value.shape), -2, 2)
    return Checkpoint(tensors, architecture(model))


def _convert(checkpoint, given, image_size):
    """(arguments of ViT, path to array, all settings, notes) of a checkpoint."""
    settings, notes = checkpoint.settings | given, list(checkpoint.notes)
    if checkpoint.architecture is not None:
        if "qk_scale" in given:
            raise RequestError(
                f"qk_scale={given['qk_scale']:g}: must not be given, the queries hold it"
            )
        ours = {k: v for k, v in given.items() if k not in _PREPROCESSING}
        return checkpoint.architecture | ours, checkpoint.tensors, settings, notes
    named = named_tensors(checkpoint.tensors)
    kernel = named.tensors.get("patch_embed.proj.weight")
    if is_flax(checkpoint.tensors) and "pos_embed" not in named.tensors and kernel.ndim == 4:
        size = image_size or 224
        table = big_vision_positions(size, kernel.shape[-1], kernel.shape[0])
        named.add("pos_embed", "pos_embed", table[None])
        notes.append(f"positions are big_vision's sine-cosine ones, computed for {size} px")
    config, tensors, done = from_timm(named, settings)
    assumed = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if not settings.keys() & assumed.keys():
        done.append("mean and std are ImageNet's: none are stated")
    return config, tensors, assumed | settings, notes + done


def save_encoder(
    path: str | os.PathLike,
    model: ViT,
    mean: tuple[float, float, float] = HALF,
    std: tuple[float, float, float] = HALF,
    *,
    dtype: str = "float16",
    extra_metadata: dict[str, str] | None = None,
) -> None:
    """Stores an encoder as safetensors, atomically: a good file is never left half overwritten.

    Tensors are keyed by their path in the model (`block_0/qkv/kernel`); the architecture, mean and
    std are in the file's metadata. Sine-cosine positions are computed and not stored.

    Args:
        path: where to.
        model: the encoder's model.
        mean: of red, green and blue, of pixels in [0, 1].
        std: of red, green and blue.
        dtype: "float16" or "float32", of the stored numbers.
        extra_metadata: more texts for the file's metadata.

    Raises:
        ValueError: if a weight is not finite in dtype, or dtype is another one.
        RunError: if the file can't be written.
    """
    _check("dtype", dtype, ("float16", "float32"))
    arrays = {}
    for name, value in stored_arrays(model).items():
        with np.errstate(over="ignore"):
            arrays[name] = np.ascontiguousarray(value.astype(dtype))
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name}: not every weight is a finite {dtype}")
    metadata = dict(extra_metadata or {})
    metadata |= {"format": FORMAT, "config": json.dumps(architecture(model))}
    metadata |= {"mean": json.dumps(list(mean)), "std": json.dumps(list(std))}
    write_file(path, save(arrays, metadata=metadata))


_EXPORTS = {"timm": (export_to_timm, ".safetensors"), "keras": (export_to_keras, ".keras")}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise RequestError(message)


def main(argv: list[str] | None = None) -> int:
    """The command: load, describe, export.

    Args:
        argv: its arguments; those of the process where None.

    Returns:
        The exit status.
    """
    parser = _Parser(prog="python -m sparse_ist_tf.checkpoints.loading", description=__doc__)
    parser.add_argument("weights", metavar="IN", help=SOURCES)
    parser.add_argument("path", metavar="OUT", help="the file that is written")
    parser.add_argument("--to", required=True, choices=["timm", "keras"], help="whose format")
    parser.add_argument("--image_size", type=int, help="side of the images, in pixels")
    parser.add_argument("--num_heads", type=int, help="attention heads")
    parser.add_argument("--qk_scale", type=float, help="of the products of query and key")
    parser.add_argument("--activation", choices=ACTIVATIONS, help="of the MLPs")
    parser.add_argument("--epsilon", type=float, help="of the layer norms")
    parser.add_argument("--pool", choices=POOLS, help="the feature")
    parser.add_argument("--mean", type=float, nargs=3, help="of pixels in [0, 1]")
    parser.add_argument("--std", type=float, nargs=3, help="of pixels in [0, 1]")
    try:
        options = vars(parser.parse_args(argv))
        path, to = options.pop("path"), options.pop("to")
        export, suffix = _EXPORTS[to]
        check_suffix(path, suffix)  # before a hub is asked
        encoder = load_encoder(**options)
        if not isinstance(encoder.model, ViT):
            raise RequestError(f"{encoder.name}: only a ViT can be written")
        print(encoder.describe())
        print(f"{path}: load it with\n  {export(encoder, path)}")
    except (RequestError, RunError, OSError) as error:
        return say(error)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
