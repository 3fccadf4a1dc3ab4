"""From timm's tensors to this library's ViT and back."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_ist_tf.checkpoints.names.towers import some
from sparse_ist_tf.checkpoints.naming import NamedTensors
from sparse_ist_tf.encoder.positions import sincos_positions
from sparse_ist_tf.encoder.presets import nearest_preset, refuse_misfits
from sparse_ist_tf.encoder.spec import ACTIVATIONS, ViTSpec
from sparse_ist_tf.errors import RequestError

# Attention heads of published models whose heads are not 64 wide, by width: ViT-H, ViT-g, ViT-G
# and So400m. Source: "Scaling Vision Transformers" (Zhai et al., 2022), table 2, and timm.
_HEADS = {1280: 16, 1408: 16, 1664: 16, 1152: 16}
_DEFAULTS = {"activation": "gelu", "epsilon": 1e-6}
_LINEAR = {"attn.qkv": "qkv", "attn.proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}


def from_timm(
    named: NamedTensors, settings: dict[str, Any]
) -> tuple[ViTSpec, dict[str, np.ndarray], list[str]]:
    """Reads the architecture off a ViT's tensors and brings them to this library's layout.

    Layer scale is multiplied into the weights before it, position embeddings of CLS and of the
    extra tokens are added to these tokens, separate query, key and value weights are joined, and
    where attention scores have another factor than 1 / sqrt(size of a head), the query takes it in:
    the function stays the same and costs less.

    Args:
        named: the tensors.
        settings: what they can't tell: num_heads, qk_scale, activation, epsilon, pool and
            positions. By default heads are 64 wide (or as in the published ViT of that width),
            scores are divided by the square root of that, the activation is "gelu", epsilon 1e-6,
            and the feature is CLS where there is one, else the mean of the patches' tokens.

    Returns:
        (the architecture, path to array, what was done to the weights).

    Raises:
        RequestError: if a tensor is missing, unexpected or misshapen, or the architecture is none
            that ViT has.
    """
    taken = _Taken(named)
    kernel = named.tensors.get("patch_embed.proj.weight")
    shape = None if kernel is None else kernel.shape
    if shape is None or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        found = f"; found: {some(named.tensors)}" if shape is None else ""
        raise RequestError(
            f"patch_embed.proj.weight: must be [width, 3, size, size], is {shape}{found}"
        )
    width, _, patch, _ = shape
    depth = len({m[1] for m in map(re.compile(r"blocks\.(\d+)\.").match, named.tensors) if m})
    if not depth:
        raise RequestError(
            "no weights of transformer blocks: must be blocks.0.norm1.weight and so on, or "
            f"transformers' encoder.layer.0...; found: {some(named.origin.values())}"
        )
    fc2 = named.tensors.get("blocks.0.mlp.fc2.weight")
    hidden = fc2.shape[-1] if fc2 is not None and fc2.ndim == 2 else 4 * width
    inner = named.tensors.get("blocks.0.mlp.fc1.weight", np.empty((hidden, 0))).shape[0]
    if inner == 2 * hidden:
        settings = settings | {"activation": "swiglu"}

    kernel = taken.take("patch_embed.proj.weight", shape)
    out = {"embed/kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, width)}
    pre_norm = taken.has("norm_pre.weight")
    out["embed/bias"] = taken.take("patch_embed.proj.bias", (width,), optional=pre_norm)
    tokens = _prefix_tokens(taken, width)
    out["position_table"] = _position_table(taken, tokens, width)
    out |= tokens
    notes = list(named.notes)
    for i in range(depth):
        for key, value in _block(taken, f"blocks.{i}", width, hidden, inner).items():
            out[f"block_{i}/{key}"] = value
    if taken.any_block_has("ls1.gamma"):
        notes.append("layer scale is multiplied into proj and fc2")
    if taken.any_block_has("attn.q.weight"):
        notes.append("query, key and value are joined")
    if not taken.any_block_has("attn.qkv.bias") and not taken.any_block_has("attn.q.bias"):
        notes.append("query, key and value have no bias")
    if pre_norm:
        out |= _norm(taken, "norm_pre", "norm_pre", width)
    config = architecture_of(out)
    stated = ("pool", "positions", "activation", "epsilon")
    config |= _DEFAULTS | {key: settings[key] for key in stated if settings.get(key)}
    config["num_heads"] = settings.get("num_heads") or named.num_heads or _usual_heads(width)
    if taken.has("fc_norm.weight") and not taken.has("norm.weight"):
        config["pool"] = "mean_norm"
    out |= _norm(taken, "fc_norm" if config["pool"] == "mean_norm" else "norm", "norm", width)
    if config["positions"] != "learned":
        del out["position_table"]
    taken.check(width, depth, patch)
    spec = ViTSpec.read(config)
    if (scale := settings.get("qk_scale")) is not None:
        _scale_queries(out, spec, scale)
        notes.append(f"attention scores are scaled by {scale:g}: multiplied into the query")
    return spec, out, notes


def check_floats(name: str, tensor: np.ndarray) -> None:
    """Refuses weights that are stored as integers, whose scales no name tells.

    Raises:
        RequestError: if they aren't floating-point numbers.
    """
    if "float" not in tensor.dtype.name:
        raise RequestError(
            f"{name} is {tensor.dtype}, quantized or no weight: must be float32, float16, "
            "bfloat16 or float64"
        )


def architecture_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arguments of ViTSpec that the tensors of a whole ViT tell.

    Args:
        tensors: path to array; sine-cosine positions are among them.
    """
    table, (pixels, width) = tensors["position_table"], tensors["embed/kernel"].shape
    patch, grid = math.isqrt(pixels // 3), math.isqrt(len(table))
    sincos = width % 4 == 0 and np.array_equal(table, sincos_positions(grid, width))
    class_token, extra = "cls_token" in tensors, tensors.get("extra_tokens")
    return {
        "image_size": grid * patch,
        "patch_size": patch,
        "width": width,
        "depth": len({path.split("/")[0] for path in tensors if path.startswith("block_")}),
        "mlp_ratio": tensors["block_0/fc2/kernel"].shape[0] / width,
        "positions": "sincos" if sincos else "learned",
        "class_token": class_token,
        "extra_tokens": 0 if extra is None else extra.shape[1],
        "pool": "cls" if class_token else "mean",
        "pre_norm": "norm_pre/scale" in tensors,
    }


def to_timm(
    spec: ViTSpec, tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Brings this library's weights to timm's names and torch's layouts.

    Returns:
        (timm's name to array, arguments of timm's VisionTransformer).

    Raises:
        RequestError: if timm has no such pool.
    """
    width, patch, pool = spec.width, spec.patch_size, spec.pool
    if pool == "cls_mean":
        raise RequestError("pool='cls_mean' has no counterpart in timm: give pool='cls' or 'mean'")
    computed = spec.positions == "sincos"
    table = sincos_positions(spec.grid, width) if computed else tensors["position_table"]
    kernel = tensors["embed/kernel"].reshape(patch, patch, 3, width).transpose(3, 2, 0, 1)
    out = {"patch_embed.proj.weight": kernel}
    if spec.pre_norm:  # timm's embedding has no bias then
        table = table + tensors["embed/bias"] if tensors["embed/bias"].any() else table
    else:
        out["patch_embed.proj.bias"] = tensors["embed/bias"]
    if spec.class_token:
        out["cls_token"] = tensors["cls_token"]
    if spec.extra_tokens:
        out["reg_token"] = tensors["extra_tokens"]
    elif spec.class_token:  # timm's CLS has a position unless there are registers
        table = np.concatenate([np.zeros((1, width), np.float32), table])
    out["pos_embed"] = table[None]
    for i in range(spec.depth):
        ours, theirs = f"block_{i}", f"blocks.{i}"
        for name, part in _LINEAR.items():
            out[f"{theirs}.{name}.weight"] = tensors[f"{ours}/{part}/kernel"].T
            out[f"{theirs}.{name}.bias"] = tensors[f"{ours}/{part}/bias"]
        for name in ("norm1", "norm2"):
            out |= _timm_norm(tensors, f"{ours}/{name}", f"{theirs}.{name}")
    if spec.pre_norm:
        out |= _timm_norm(tensors, "norm_pre", "norm_pre")
    out |= _timm_norm(tensors, "norm", "fc_norm" if pool == "mean_norm" else "norm")
    arguments = {
        "img_size": spec.image_size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": spec.depth,
        "num_heads": spec.num_heads,
        "mlp_ratio": spec.mlp_ratio * ACTIVATIONS[spec.activation].branches,
        "class_token": spec.class_token,
        "reg_tokens": spec.extra_tokens,
        "no_embed_class": bool(spec.extra_tokens) or not spec.class_token,
        "pre_norm": spec.pre_norm,
        "global_pool": "token" if pool == "cls" else "avg",
        "fc_norm": pool == "mean_norm",
        "act_layer": "silu" if spec.activation == "swiglu" else spec.activation,
        "num_classes": 0,
    }
    return {name: np.ascontiguousarray(array) for name, array in out.items()}, arguments


class _Taken:
    """Hands out tensors and keeps account of what was missing, misshapen or never asked for."""

    def __init__(self, named):
        self.named, self.used = named, set()
        self.missing, self.misshapen = [], []

    def has(self, name):
        return name in self.named.tensors

    def any_block_has(self, part):
        return any(re.match(rf"blocks\.\d+\.{part}$", name) for name in self.named.tensors)

    def take(self, name, shape, *, optional=False):
        self.used.add(name)
        tensor = self.named.tensors.get(name)
        if tensor is not None:
            check_floats(self.named.origin[name], tensor)
        if tensor is not None and tensor.shape == shape:
            return tensor.astype(np.float32)
        if tensor is not None:
            self.misshapen.append(f"{self.named.origin[name]} is {tensor.shape}, not {shape}")
        elif not optional:
            self.missing.append(name)
        return np.zeros(shape, np.float32)

    def take_bias(self, block, part, shape):
        """A block's bias: zeros where no block has one."""
        return self.take(f"{block}.{part}", shape, optional=not self.any_block_has(part))

    def check(self, width, depth, patch):
        unexpected = [o for n, o in self.named.origin.items() if n not in self.used]
        unexpected += self.named.unknown
        hint = (
            f"it looks like a ViT of {depth} blocks of width {width} with patches of {patch}; the "
            f"nearest known architecture is {nearest_preset(width, depth, patch)}"
        )
        refuse_misfits(self.missing, unexpected, self.misshapen, hint)


def _prefix_tokens(taken, width):
    tokens = {}
    for name in filter(taken.has, ("cls_token", "dist_token", "reg_token")):
        cls = name == "cls_token"
        count = 1 if cls else taken.named.tensors[name].size // width
        tokens[name if cls else "extra_tokens"] = taken.take(name, (1, count, width))
    return tokens


def _position_table(taken, tokens, width):
    """The patches' positions; those of the tokens before them are added to these tokens."""
    found = taken.named.tensors.get("pos_embed")
    rows = found.shape[1] if found is not None and found.ndim == 3 else 0
    table = taken.take("pos_embed", (1, rows, width))[0]
    if found is None:  # reported with all else that is missing
        return np.zeros((1, width), np.float32)
    counts = [0]  # of tokens with a position, among those before the patches
    for token in tokens.values():
        counts.append(counts[-1] + token.shape[1])
    fitting = [n for n in counts if rows > n and math.isqrt(rows - n) ** 2 == rows - n]
    if not fitting:
        raise RequestError(
            f"{taken.named.origin['pos_embed']} has {rows} rows: no square grid of patches behind "
            f"{' or '.join(map(str, counts))} other tokens"
        )
    start, ahead = 0, fitting[-1]
    for name, token in tokens.items():
        rows = table[start : min(start + token.shape[1], ahead)]
        if rows.any():  # not for zeros: -0.0 + 0.0 is 0.0
            tokens[name] = token + rows
        start += token.shape[1]
    return table[ahead:]


def _block(taken, name, width, hidden, inner):
    if taken.has(f"{name}.attn.q.weight"):
        kernels, biases = [], []
        for part in "qkv":
            kernels.append(taken.take(f"{name}.attn.{part}.weight", (width, width)))
            biases.append(taken.take_bias(name, f"attn.{part}.bias", (width,)))
        kernel, bias = np.concatenate(kernels), np.concatenate(biases)
    else:
        kernel = taken.take(f"{name}.attn.qkv.weight", (3 * width, width))
        bias = taken.take_bias(name, "attn.qkv.bias", (3 * width,))
    out = {"qkv/kernel": kernel.T, "qkv/bias": bias}
    shapes = {"attn.proj": (width, width), "mlp.fc1": (inner, width), "mlp.fc2": (width, hidden)}
    scales = {"attn.proj": "ls1", "mlp.fc2": "ls2"}
    for theirs, shape in shapes.items():
        kernel = taken.take(f"{name}.{theirs}.weight", shape).T
        bias = taken.take_bias(name, f"{theirs}.bias", shape[:1])
        scale = f"{name}.{scales.get(theirs)}.gamma"
        if taken.has(scale):
            gamma = taken.take(scale, (width,))
            kernel, bias = kernel * gamma, bias * gamma
        out |= {f"{_LINEAR[theirs]}/kernel": kernel, f"{_LINEAR[theirs]}/bias": bias}
    for norm in ("norm1", "norm2"):
        out |= _norm(taken, f"{name}.{norm}", norm, width)
    return out


def _scale_queries(tensors, spec, scale):
    if not 0 < scale < math.inf:
        raise RequestError(f"qk_scale={scale!r}: must be a number above 0")
    factor = np.ones(3 * spec.width, np.float32)
    factor[: spec.width] = scale * math.sqrt(spec.width / spec.num_heads)
    for i in range(spec.depth):
        for part in ("kernel", "bias"):
            name = f"block_{i}/qkv/{part}"
            tensors[name] = tensors[name] * factor


def _norm(taken, theirs, ours, width):
    return {
        f"{ours}/scale": taken.take(f"{theirs}.weight", (width,)),
        f"{ours}/offset": taken.take(f"{theirs}.bias", (width,)),
    }


def _timm_norm(tensors, ours, theirs):
    return {
        f"{theirs}.weight": tensors[f"{ours}/scale"],
        f"{theirs}.bias": tensors[f"{ours}/offset"],
    }


def _usual_heads(width):
    if width in _HEADS:
        return _HEADS[width]
    if width % 64:
        raise RequestError(f"num_heads is not known of a ViT of width {width}: give it")
    return width // 64
