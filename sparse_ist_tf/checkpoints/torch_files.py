"""Files that torch.save wrote, read without torch and without running any pickle code."""

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparse_ist_tf.checkpoints.inert_pickle import Storage, Tensor, read_pickle
from sparse_ist_tf.checkpoints.keras_files import ZIP_DAMAGES
from sparse_ist_tf.errors import RequestError

_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_PICKLE = 64 * 2**20  # bytes; a state dict's is well below one MiB
# In this order of preference; I-JEPA is used by its target encoder.
_MEMBERS = ("model", "teacher", "state_dict", "model_ema", "module", "state_dict_ema")
_MEMBERS += ("model_state_dict", "model_state", "target_encoder", "encoder", "backbone", "net")
_MEMBERS += ("network", "student", "ema", "weights", "params", "state", "checkpoint")
_MOST_DEEP = 4  # dictionaries around a state dict


def read_torch(path: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """Reads the state dict in a .pth file, of torch's zip format or the one before it.

    Returns:
        (name to array, the member that the state dict was found in: "" where it is the whole file,
        "model" in MAE's files, "teacher" in DINO's, "model/state_dict" one in another).

    Raises:
        RequestError: if the file is damaged, compressed, holds no state dict, or its pickle names
            or calls anything that a tensor doesn't need. Nothing is executed.
    """
    with open(path, "rb") as file:
        try:
            start = file.read(2)
            file.seek(0)
            if start == b"PK":
                return _read_zip(file, os.path.getsize(path))
            if start == b"\x80\x02":
                return _read_legacy(file, os.path.getsize(path))
            raise RequestError("neither of torch.save's two formats")
        except RequestError as error:
            raise RequestError(f"{path}: {error}") from None
        except (*ZIP_DAMAGES, KeyError, struct.error, TypeError) as error:
            raise RequestError(f"{path}: damaged or cut short: {error}") from None


def _read_zip(file, size):
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise RequestError("has compressed members, which torch.save never writes")
        if sum(info.file_size for info in members.values()) > size:
            raise RequestError("its members claim more bytes than the file has")
        pickles = [name for name in members if name.count("/") == 1 and "/data.pkl" in name]
        if len(pickles) != 1:
            raise RequestError("a zip file without torch.save's data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if root + "byteorder" in members and archive.read(root + "byteorder") != b"little":
            raise RequestError("written on a big-endian machine")
        length = members[pickles[0]].file_size
        if length > _MAX_PICKLE:
            raise RequestError(f"its pickle has {length} bytes, which no model needs")
        content = read_pickle(io.BytesIO(archive.read(pickles[0])))

        def read(storage: Storage) -> bytes:
            return archive.read(f"{root}data/{storage.key}")

        return _state_dict(content, read, size)


def _read_legacy(file, size):
    if read_pickle(file) != _MAGIC or read_pickle(file) != 1001:
        raise RequestError("neither of torch.save's two formats")
    system, content, keys = read_pickle(file), read_pickle(file), read_pickle(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RequestError("written on a big-endian machine")
    places, storages = {}, {s.key: s for s in _storages(content)}
    for key in keys:
        count = struct.unpack("<q", file.read(8))[0]
        storage = storages.get(key)
        if storage is None or count != storage.size:
            raise RequestError("damaged: its storages don't match its tensors")
        places[key] = file.tell()
        if places[key] + storage.nbytes > size:
            raise RequestError("cut short")
        file.seek(storage.nbytes, os.SEEK_CUR)

    def read(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.nbytes)

    return _state_dict(content, read, size)


def _storages(content):
    """Every storage under a value; a value that is met twice is looked at once."""
    seen, left = set(), [content]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value.storage
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)


def _state_dict(content, read: Callable[[Storage], bytes], size):
    member, content = _found(content)
    tensors, numbers, total = {}, {}, 0
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            continue
        if not name.isprintable():
            raise RequestError(f"damaged: a tensor's name is {name!r}")
        storage = tensor.storage
        total += math.prod(tensor.shape) * storage.dtype.itemsize
        if total > 4 * size:
            raise RequestError("its tensors share their numbers too often")
        if storage not in numbers:
            data = read(storage)
            if len(data) != storage.nbytes:
                raise RequestError(f"the storage of {name} is cut short")
            numbers[storage] = np.frombuffer(data, storage.dtype)
        tensors[name] = tensor.of(numbers[storage])
    return tensors, member


def _found(content):
    """(where it is, the state dict): the whole, a member of a usual name, or the only one."""
    dicts = {"/".join(place): value for place, value in _dictionaries(content, (), set())}
    for axes in (2, 1, 0):  # a count or a mean beside it is no state dict
        held = {place: value for place, value in dicts.items() if _has_tensors(value, axes)}
        if held:
            usual = [p for p in held if set(p.split("/")) <= {"", *_MEMBERS}]
            usual.sort(key=lambda p: [_MEMBERS.index(m) for m in p.split("/") if m])
            if not usual and len(held) > 1:
                raise RequestError(f"has several state dicts ({', '.join(held)}): must have one")
            place = usual[0] if usual else next(iter(held))
            return place, held[place]
    raise RequestError(f"no state dict, neither whole nor under {', '.join(_MEMBERS)}")


def _dictionaries(value, place, seen):
    """Every dictionary under names, once, but for an optimizer's or a scheduler's."""
    if not isinstance(value, dict) or id(value) in seen or len(place) > _MOST_DEEP:
        return
    seen.add(id(value))
    yield place, value
    for name, inner in value.items():
        if isinstance(name, str) and "optim" not in name and "sched" not in name:
            yield from _dictionaries(inner, (*place, name), seen)


def _has_tensors(value, axes):
    return any(isinstance(v, Tensor) and len(v.shape) >= axes for v in value.values())
