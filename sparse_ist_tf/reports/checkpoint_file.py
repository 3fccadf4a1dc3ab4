"""A checkpoint's file: arrays as safetensors, how far the run was, and a digest of both."""

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.files import replacing, writing

_MAPPED_BYTES = 1 << 24  # of arrays that are left in the file until they are used
_DTYPES = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    "bool": "BOOL",
}


def write_checkpoint(path: Path, state: Mapping[str, np.ndarray], progress: Mapping) -> None:
    """Writes a state and how far it is, without a copy of the state in memory.

    Raises:
        RunError: if it can't be written; what stood there stays.
    """
    text = json.dumps(dict(progress))
    metadata = {"progress": text, "digest": _digest(state, text)}
    with writing(path), replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(_header(state, metadata))
        for array in state.values():
            for part in _parts(array):
                file.write(part)


def _header(state: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """What stands before the arrays.

    Source: https://huggingface.co/docs/safetensors, "Format".
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, array in state.items():
        stop = start + array.nbytes
        kind = _DTYPES[array.dtype.name]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (start, stop)}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads what write_checkpoint wrote, now or in earlier versions.

    Those up to 0.2.0 have a digest of the arrays alone, those of pretraining of 0.1.0 none.

    Returns:
        The state, whose large arrays stay in the file until they are used, and the progress.

    Raises:
        RunError: if it is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata()
            small = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
                if not _is_large(file.get_slice(name))
            }
        state = small | _mapped(path, small)
        if "progress" not in metadata:
            return state, {"step": int(metadata["step"]), "preset": metadata["preset"]}
        if "digest" in metadata:
            whole = metadata["digest"] == _digest(state, metadata["progress"])
        else:
            whole = metadata["sha256"] == _digest(state)
        if whole:
            return state, json.loads(metadata["progress"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        pass
    raise RunError(f"{path} is damaged")


def _is_large(array) -> bool:
    return 8 * int(np.prod(array.get_shape())) > _MAPPED_BYTES


def _mapped(path: Path, others: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All arrays of a file that safetensors has found to be whole, but some others."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    kinds = {kind: name for name, kind in _DTYPES.items()}
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and name not in others:
            start = 8 + size + entry["data_offsets"][0]
            shape, dtype = tuple(entry["shape"]), np.dtype(kinds[entry["dtype"]])
            found[name] = np.asarray(np.memmap(path, dtype, "r", start, shape))
    return found


def _digest(state: Mapping[str, np.ndarray], progress: str = "") -> str:
    total = hashlib.sha256(progress.encode())
    for name in sorted(state):
        array = np.asarray(state[name])
        total.update(repr((name, array.dtype.str, array.shape)).encode())
        for part in _parts(array):
            total.update(part)
    return total.hexdigest()


def _parts(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array; of one that lies in a file, what has been read leaves memory again."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    file: object = array
    while (base := getattr(file, "base", None)) is not None:
        file = base
    for start in range(0, len(flat), _MAPPED_BYTES):
        yield flat[start : start + _MAPPED_BYTES]
        if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)
