"""This library's ViT as Keras stored it, read without deserialising any class."""

import io
import json
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sparse_ist_tf.checkpoints.conversion import architecture_of
from sparse_ist_tf.encoder.presets import PRESETS
from sparse_ist_tf.errors import RequestError

# What zipfile raises for damaged files.
ZIP_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)
PREPROCESSING_MEMBER = "preprocessing.json"  # of our own .keras files, which Keras ignores
_CLASS = "sparse_ist_tf>ViT"
_SOON = 2**30  # bytes that a file may always unfold to
_RATIO = 20  # how many times its own size it may unfold to beyond that
_MAX_NODES = 20_000
_NOT_ARCHITECTURE = ("name", "dtype", "trainable")
_TELLING = ("embed/kernel", "position_table", "block_0/fc1/kernel", "block_0/fc2/kernel")


def check_unfolded(size: int, stored: int, path: str | Path) -> None:
    """Refuses a file that unfolds to far more bytes than it has, as no weights do.

    Raises:
        RequestError: if size, in bytes, is over 1 GiB and over 20 times what is stored.
    """
    if size > max(_SOON, _RATIO * stored):
        raise RequestError(f"{path}: {stored} bytes that unfold to {size}: no weights do that")


def parse_json(text: str | bytes) -> Any:
    """Parses JSON that may be anything.

    Raises:
        ValueError: if it is no JSON, or nested as no configuration is.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_keras(path: str | Path) -> tuple[dict, dict[str, np.ndarray], dict]:
    """Reads a .keras file of a ViT.

    Returns:
        (arguments of ViT, path to array, preprocessing where the file has it).

    Raises:
        RequestError: if it is damaged, or holds another model.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            total = sum(info.file_size for info in members.values())
            check_unfolded(total, os.path.getsize(path), path)
            model = parse_json(archive.read("config.json"))
            if model.get("registered_name") != _CLASS:
                name = model.get("class_name")
                raise RequestError(f"{path}: a Keras model of class {name}, not {_CLASS}")
            config = {k: v for k, v in model["config"].items() if k not in _NOT_ARCHITECTURE}
            preprocessing = {}
            if PREPROCESSING_MEMBER in members:
                preprocessing = parse_json(archive.read(PREPROCESSING_MEMBER))
            weights = archive.read("model.weights.h5")
    except RequestError:
        raise
    except (*ZIP_DAMAGES, KeyError, ValueError, AttributeError) as error:
        raise RequestError(f"{path}: damaged, or no .keras file: {error}") from None
    tensors = _read_h5(io.BytesIO(weights), len(weights), path)
    if config.get("positions") == "sincos":
        tensors.pop("position_table", None)
    return config, tensors, preprocessing


def read_weights_h5(path: str | Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Reads a .weights.h5 file of a ViT and the architecture off its shapes.

    What shapes can't tell is taken from the preset of these sizes; where there is none, heads are
    64 wide, the activation is "quick_gelu" and epsilon 1e-6.

    Returns:
        (arguments of ViT, path to array).

    Raises:
        RequestError: if it is damaged, or holds another model.
    """
    tensors = _read_h5(path, os.path.getsize(path), path)
    missing = [key for key in _TELLING if key not in tensors or tensors[key].ndim != 2]
    if missing:
        raise RequestError(f"{path}: not this library's ViT: no {', '.join(missing)}")
    config = architecture_of(tensors)
    sizes = ("width", "depth", "patch_size")
    for preset in PRESETS.values():
        if all(getattr(preset, name) == config[name] for name in sizes):
            config |= {"num_heads": preset.num_heads, "activation": preset.activation}
    if tensors["block_0/fc1/kernel"].shape[1] == 2 * tensors["block_0/fc2/kernel"].shape[0]:
        config["activation"] = "swiglu"
    if config["positions"] == "sincos":
        del tensors["position_table"]
    defaults = {"num_heads": max(1, config["width"] // 64), "activation": "quick_gelu"}
    return defaults | {"epsilon": 1e-6} | config, tensors


def _read_h5(source, size, path):
    """Path to array: Keras' groups carry the layers' names, its arrays are numbered."""
    try:
        with h5py.File(source, "r") as file:
            found = {}
            _collect(file, "", found, [0], path)
            check_unfolded(sum(dataset.nbytes for dataset in found.values()), size, path)
            return _named({name: np.asarray(dataset) for name, dataset in found.items()}, path)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, RequestError | FileNotFoundError):
            raise
        raise RequestError(f"{path}: damaged, or no .h5 file: {error}") from None


def _collect(group, name, found, count, path, depth=0):
    """Gathers the arrays of a group under the names of their layers."""
    for key in group:
        count[0] += 1
        if count[0] > _MAX_NODES or depth > 8:
            raise RequestError(f"{path}: its groups are nested as no model's are")
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise RequestError(f"{path}: {key} is a link to elsewhere, which is not followed")
        node = group[key]
        if isinstance(node, h5py.Dataset):
            if node.external or node.is_virtual or node.dtype.kind != "f":
                raise RequestError(f"{path}: {node.name} is no plain array of floats")
            found[f"{name}{key}"] = node
        else:
            layer = node["vars"].attrs.get("name") if _is_group(node, "vars") else None
            layer = layer.decode() if isinstance(layer, bytes) else layer
            inner = f"{name}{layer}/" if layer else name
            _collect(node, inner, found, count, path, depth + 1)


def _is_group(group, key):
    linked = isinstance(group.get(key, getlink=True), h5py.HardLink)
    return linked and isinstance(group[key], h5py.Group)


def _named(arrays, path):
    """Names for the numbered arrays: of a dense layer or norm by number, of the ViT by shape."""
    out = {}
    for name, array in sorted(arrays.items()):
        layer, _, number = name.rpartition("/")
        if layer:
            kinds = ("scale", "offset") if re.search(r"norm\w*$", layer) else ("kernel", "bias")
            key = f"{layer}/{kinds[int(number)]}" if number in ("0", "1") else name
        elif array.ndim == 2:
            key = "position_table"
        else:
            key = "extra_tokens" if array.shape[1:2] != (1,) or "cls_token" in out else "cls_token"
        if key in out:
            raise RequestError(f"{path}: {key} is there twice")
        out[key] = array
    return out
