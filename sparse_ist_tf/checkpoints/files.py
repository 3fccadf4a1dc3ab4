"""Files of weights, read whole and checked, whoever wrote them."""

import dataclasses
import os
import re
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  numpy knows bfloat16 by it
import numpy as np
from safetensors import SafetensorError, safe_open

from sparse_ist_tf.checkpoints.keras_files import (
    ZIP_DAMAGES,
    check_unfolded,
    parse_json,
    read_keras,
    read_weights_h5,
)
from sparse_ist_tf.checkpoints.model_configs import settings_of_config
from sparse_ist_tf.checkpoints.naming import is_flax
from sparse_ist_tf.checkpoints.torch_files import read_torch
from sparse_ist_tf.encoder.bundle import HALF
from sparse_ist_tf.errors import RequestError

FORMAT = "sparse_ist_tf.encoder/1"  # of our own safetensors files
EXPORTED = "sparse_ist_tf"  # the metadata of what we export to timm
TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
SUFFIXES = (".safetensors", ".npz", ".weights.h5", ".keras", *TORCH_SUFFIXES)
INDEX = ".index.json"  # of shards
# In a folder: what is taken, in this order, and what lies beside weights and holds none.
_TAKEN = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin")
_TAKEN += (f"pytorch_model.bin{INDEX}",)
_BESIDE = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state\w*|adapter_model)\.\w+$|.*-\d+-of-\d+\."
)

_HEADER_DAMAGES = (ValueError, TypeError, SyntaxError, OverflowError, tokenize.TokenError)
_HEADER_DAMAGES += (RecursionError, MemoryError)
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model and what is known about it.

    Args:
        tensors: name to array.
        architecture: arguments of ViT, where the tensors have this library's paths; else None.
        settings: what a configuration states: model_type, num_heads, activation, epsilon, pool,
            positions, mean, std, crop_fraction, interpolation.
        notes: what is worth telling, a line each.
    """

    tensors: dict[str, np.ndarray]
    architecture: dict | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a file of weights, or a folder with model.safetensors and config.json.

    Args:
        path: ends with one of SUFFIXES, or with .index.json, which lists the files of a model that
            is stored in several; or is a folder with one of those in it.

    Raises:
        RequestError: if it isn't there, is of no known kind, damaged, or more than tensors.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return read_checkpoint(_file_in(path))
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    if path.name.endswith(".safetensors"):
        return _read_safetensors(path)
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".keras":
        architecture, tensors, settings = read_keras(path)
        return Checkpoint(tensors, architecture, settings)
    if path.suffix == ".h5":
        return Checkpoint(*reversed(read_weights_h5(path)))
    if path.suffix in TORCH_SUFFIXES:
        tensors, member = read_torch(path)
        notes = (f"the state dict under {member!r}",) if member else ()
        return Checkpoint(tensors, None, _config_beside(path), notes)
    raise RequestError(f"{path}: must end with one of {', '.join(SUFFIXES)}")


def _file_in(folder):
    """The file of weights in a folder: by its usual name, or the only one."""
    for name in _TAKEN:
        if (folder / name).is_file():
            return folder / name
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    found = [n for n in names if n.endswith((*SUFFIXES, INDEX)) and not _BESIDE.match(n)]
    if len(found) == 1:
        return folder / found[0]
    if len(found) > 1:
        raise RequestError(f"{folder}: has {', '.join(found[:8])}: name one of them")
    adapters = [name for name in names if name.startswith("adapter_model.")]
    has = f", {adapters[0]} alone is LoRA that isn't merged" if adapters else ""
    raise RequestError(f"{folder}: a folder without {' or '.join(_TAKEN)}{has}")


def _read_safetensors(path):
    metadata, tensors = _open_safetensors(path)
    try:
        if metadata.get("format") == FORMAT:
            settings = {key: parse_json(metadata[key]) for key in ("mean", "std")}
            return Checkpoint(tensors, parse_json(metadata["config"]), settings)
        if EXPORTED in metadata:
            return Checkpoint(tensors, None, dict(parse_json(metadata[EXPORTED])))
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path}: damaged metadata: {error!r}") from None
    return Checkpoint(tensors, None, _config_beside(path))


def _open_safetensors(path):
    try:
        with safe_open(path, "np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except (SafetensorError, OSError, TypeError) as error:
        raise RequestError(f"{path}: damaged, or no safetensors file: {error}") from None


def _read_shards(index):
    try:
        names = sorted(set(parse_json(index.read_text("utf-8"))["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise ValueError("a shard in another folder")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{index}: damaged: {error!r}") from None
    tensors = {}
    for name in names:
        shard = index.parent / name
        if not shard.is_file():
            raise RequestError(f"{index}: names {name}, which isn't there")
        torch = shard.suffix in TORCH_SUFFIXES
        tensors |= read_torch(shard)[0] if torch else _open_safetensors(shard)[1]
    return Checkpoint(tensors, None, _config_beside(index))


def _config_beside(path):
    def content(name):
        beside = path.parent / name
        if not beside.is_file():
            return None
        try:
            read = parse_json(beside.read_text("utf-8"))
        except ValueError as error:
            raise RequestError(f"{beside}: no JSON: {error}") from None
        if not isinstance(read, dict):
            raise RequestError(f"{beside}: must be a JSON object")
        return read

    config = content("config.json")
    if config is None:
        return {}
    return settings_of_config(config, content("preprocessor_config.json"))


def _read_npz(path):
    try:
        with zipfile.ZipFile(path) as archive:
            members, tensors = archive.infolist(), {}
            total = sum(info.file_size for info in members)
            check_unfolded(total, os.path.getsize(path), path)
            for info in members:
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as file:
                    tensors[name] = _read_npy(file, info.file_size, f"{path}: {name}")
    except ZIP_DAMAGES as error:
        raise RequestError(f"{path}: damaged, or no .npz file: {error}") from None
    # Flax's gelu is the tanh approximation, and big_vision scales pixels to [-1, 1].
    defaults = {"activation": "gelu_tanh", "mean": HALF, "std": HALF} if is_flax(tensors) else {}
    return Checkpoint(tensors, None, defaults)


def _read_npy(file, size, name):
    """An array of plain numbers; its header is checked against its size before it is read."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READ_HEADER:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = _READ_HEADER[version](file)
        if dtype == np.dtype("V2"):  # how bfloat16 is stored
            dtype = np.dtype("bfloat16")
        if dtype.hasobject or (dtype.kind not in "fiub" and dtype != "bfloat16"):
            raise RequestError(f"{name}: holds {dtype}, not plain numbers")
        data = file.read()
        count = int(np.prod([int(n) for n in shape], dtype=object))
        if min(shape, default=0) < 0 or count * dtype.itemsize != len(data):
            raise ValueError(f"{shape} of {dtype} in {size} bytes")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    except RequestError:
        raise
    except _HEADER_DAMAGES as error:
        raise RequestError(f"{name}: damaged: {error}") from None
