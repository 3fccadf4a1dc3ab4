"""Published models by name: the Hugging Face hub and KerasHub, each an optional extra."""

import importlib
from pathlib import Path

import keras
import numpy as np

from sparse_ist_tf.checkpoints.files import Checkpoint, read_checkpoint
from sparse_ist_tf.encoder.bundle import HALF
from sparse_ist_tf.errors import RequestError, RunError

_CONFIGS = ("config.json", "preprocessor_config.json")
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
_VARIANTS = ("model.*.safetensors",)  # such as model.fp16.safetensors


def read_hugging_face(name: str) -> Checkpoint:
    """Reads a model of the Hugging Face hub, by way of its cache.

    With HF_HUB_OFFLINE=1 only the cache is looked at; HF_HOME says where it is.

    Args:
        name: `owner/model`, or `owner/model@revision`.

    Raises:
        RequestError: if huggingface_hub isn't installed, there is no such model, or it isn't one
            that can be read.
        RunError: if the hub can't be reached and the cache doesn't have the model.
    """
    hub = _import("huggingface_hub", "hub")
    errors = _import("huggingface_hub.errors", "hub")
    repository, _, revision = name.partition("@")

    def download(*patterns):
        wanted = {"revision": revision or None, "allow_patterns": [*_CONFIGS, *patterns]}
        return Path(hub.snapshot_download(repository, **wanted))

    try:
        for patterns in (_SAFETENSORS, _PICKLES, _VARIANTS):
            folder = download(*patterns)
            if any(next(folder.glob(pattern), None) for pattern in patterns):
                return read_checkpoint(folder)
        raise RequestError(f"the model has neither {_SAFETENSORS[0]} nor {_PICKLES[0]}")
    except errors.LocalEntryNotFoundError as error:
        text = f"hf:{name}: not in the cache, and no hub at hand: {_first(error)}"
        raise RunError(text) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise RequestError(f"no such model or revision, or not yours: {_first(error)}") from None
    except errors.HFValidationError as error:
        raise RequestError(_first(error)) from None
    except (OSError, errors.HTTPError) as error:
        raise RunError(f"hf:{name}: can't be fetched: {_first(error)}") from None


def read_keras_hub(name: str) -> Checkpoint:
    """Reads a ViT preset of KerasHub.

    Args:
        name: of the preset, such as "vit_base_patch16_224_imagenet21k", or a folder that
            `ViTBackbone.save_to_preset` wrote.

    Raises:
        RequestError: if KerasHub isn't installed or has no such ViT.
        RunError: if the preset can't be fetched.
    """
    keras_hub = _import("keras_hub", "keras-hub")
    try:
        backbone = keras_hub.models.ViTBackbone.from_preset(name)
    except (ValueError, FileNotFoundError) as error:
        raise RequestError(f"KerasHub has no such ViT: {_first(error)}") from None
    except Exception as error:
        raise RunError(f"keras_hub:{name}: can't be fetched: {_first(error)}") from None
    config = backbone.get_config()
    settings = {"num_heads": config["num_heads"], "epsilon": config["layer_norm_epsilon"]}
    settings |= {"activation": "gelu"} | _images(keras_hub.layers.ViTImageConverter, name)
    tensors = {v.path: keras.ops.convert_to_numpy(v) for v in backbone.variables}
    return Checkpoint(tensors, None, settings)


def _images(converter_class, name):
    """Mean and std of a preset whose converter makes pixel * scale + offset of [0, 255]."""
    try:
        converter = converter_class.from_preset(name)
        scale, offset = (np.broadcast_to(v, 3) for v in (converter.scale, converter.offset))
        return {"mean": tuple(-offset / (255 * scale)), "std": tuple(1 / (255 * scale))}
    except (ValueError, TypeError, OSError):  # a preset without one, or one that scales nothing
        return {"mean": HALF, "std": HALF}


def _import(module, extra):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequestError(
            f"needs {module}, which isn't there ({error}): pip install 'sparse-ist-tf[{extra}]'"
        ) from None


def _first(error):
    """The first line of an error's text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
