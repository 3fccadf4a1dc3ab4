"""What the configurations beside published weights say about the model and its images."""

import re
from typing import Any

from sparse_ist_tf.errors import RequestError

_TRANSFORMERS = ("vit", "vit_mae", "deit", "dinov2", "dinov2_with_registers")
_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "quickgelu": "quick_gelu"}
_ACTIVATIONS |= dict.fromkeys(
    ("gelu_tanh", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"
)
# Architectures of timm whose activation is in its code alone.
_TANH_SIGLIP = re.compile(
    r"vit_(base_patch32|large_patch16|so400m_patch16|giantopt_patch16)_siglip_(gap_)?\d+$"
)
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def settings_of_config(config: dict[str, Any], preprocessor: dict[str, Any] | None = None) -> dict:
    """Reads a config.json of transformers or timm.

    Returns:
        Those of model_type (transformers'), num_heads, qk_scale, activation, epsilon, pool, mean,
        std, crop_fraction and interpolation that it states.

    Raises:
        RequestError: if the model is of a type that ViT doesn't cover.
    """
    try:
        if "model_type" in config:
            settings = _transformers(config) | _images(preprocessor or {})
        elif "architecture" in config:
            settings = _timm(config)
        else:
            raise RequestError("config.json: neither a model_type nor an architecture in it")
    except (TypeError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise RequestError(f"config.json: not as transformers or timm write it: {error}") from None
    return {key: value for key, value in settings.items() if value is not None}


def _transformers(config):
    kind = config["model_type"]
    if kind not in _TRANSFORMERS:
        known = ", ".join(_TRANSFORMERS)
        raise RequestError(f"config.json: model_type={kind!r}: must be one of {known}")
    swiglu = config.get("use_swiglu_ffn", False)
    return {
        "model_type": kind,
        "num_heads": config.get("num_attention_heads"),
        "activation": None if swiglu else _activation(config.get("hidden_act")),
        "epsilon": config.get("layer_norm_eps"),
    }


def _activation(name):
    if name is not None and name not in _ACTIVATIONS:
        raise RequestError(
            f"config.json: activation {name!r}: must be one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS.get(name)


def _images(preprocessor):
    resample = preprocessor.get("resample")
    settings = {"interpolation": _INTERPOLATIONS.get(resample, resample)}
    if preprocessor.get("do_normalize", True):
        settings["mean"] = _triple(preprocessor.get("image_mean"))
        settings["std"] = _triple(preprocessor.get("image_std"))
    else:
        settings |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if preprocessor.get("do_center_crop") and preprocessor.get("crop_size"):
        resized, cropped = (_side(preprocessor[key]) for key in ("size", "crop_size"))
        settings["crop_fraction"] = min(1.0, cropped / resized)
    return settings


def _side(size):
    return size.get("shortest_edge") or size["height"] if isinstance(size, dict) else size


def _triple(values):
    return None if values is None else tuple(values) * (3 if len(values) == 1 else 1)


def _timm(config):
    name, arguments = config["architecture"], config.get("model_args") or {}
    images = config.get("pretrained_cfg") or {}
    if "_rpn_" in name:  # its tensors have the names and shapes of one that normalises before
        raise RequestError(
            f"config.json: architecture {name!r}: its blocks normalise after attention and MLP, "
            "must be a ViT whose blocks normalise before"
        )
    activation = _activation(arguments.get("act_layer"))
    if activation is None and "quickgelu" in name:
        activation = "quick_gelu"
    if activation is None and _TANH_SIGLIP.match(name):
        activation = "gelu_tanh"
    pool = config.get("global_pool") or arguments.get("global_pool")
    return {
        "num_heads": arguments.get("num_heads"),
        "qk_scale": arguments.get("qk_scale"),
        "activation": activation,
        "epsilon": 1e-5 if "clip" in name else None,
        "pool": {"token": "cls", "avg": "mean"}.get(pool),
        "mean": _triple(images.get("mean")),
        "std": _triple(images.get("std")),
        "crop_fraction": images.get("crop_pct"),
        "interpolation": images.get("interpolation"),
    }
