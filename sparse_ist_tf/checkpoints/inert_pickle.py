"""Pickles of PyTorch state dicts read as data: no name in them is ever looked up or called."""

import dataclasses
import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from sparse_ist_tf.errors import RequestError

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_NAMES = {f"torch.{name}" for name in _STORAGES} | {
    "collections.OrderedDict",
    "argparse.Namespace",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
}
# What trainers keep beside weights, such as the best accuracy as NumPy's number: read as nothing.
_BESIDE = {"numpy.dtype", "torch.device", "_codecs.encode", "__builtin__.set", "builtins.set"}
_BESIDE |= {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
_BESIDE |= {f"pathlib.{name}" for name in ("Path", "PosixPath", "_local.PosixPath")}
_BESIDE |= {"torch.float32", "torch.float16", "torch.bfloat16", "torch.float64"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_ARGUMENTS += ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING")
_ARGUMENTS += ("BINBYTES", "SHORT_BINBYTES")
_MAX_COPIES = 1_000_000  # items copied from one container to another, in a whole pickle
_MAX_LENGTH = 2**48  # of an axis or stride: a number that no file can back, and no int64 overflows
_DAMAGES = (ValueError, TypeError, LookupError, AttributeError, struct.error)
_DAMAGES += (OverflowError, MemoryError, RecursionError)  # lengths that no file backs
_MARK = object()


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `size` numbers that lies elsewhere in the file, under `key`."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; `offset` and `strides`, one for each axis, count its numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor's values, a copy, given its storage's numbers."""
        size = self.storage.dtype.itemsize
        strides = [size * stride for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides)
        return np.array(view, order="C")


def read_pickle(stream: BinaryIO) -> Any:
    """Reads one pickle as dictionaries, lists, tuples, numbers, texts and Tensors.

    A machine of its own for the few instructions that torch.save writes. A name that isn't one of
    torch's tensor builders, OrderedDict or argparse.Namespace (read as a dictionary), or one that
    trainers keep beside weights (read as nothing), is refused, and so is calling any other.

    Args:
        stream: stands at the pickle's first byte, and behind its last one afterwards.

    Raises:
        RequestError: if the pickle names or calls anything else, or is damaged.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.run(opcode.name, argument)
        return machine.result
    except RequestError:
        raise
    except _DAMAGES as error:
        raise RequestError(f"damaged pickle: {error or type(error).__name__}") from None


@dataclasses.dataclass(frozen=True)
class _Name:
    text: str


class _Machine:
    def __init__(self):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result, self.copies = None, 0
        push = self.stack.append
        self.instructions: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self.remember),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda place: push(self.memo[place])),
            **dict.fromkeys(_ARGUMENTS, push),
            "MARK": lambda _: push(_MARK),
            "GLOBAL": lambda text: self.name(*text.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self.name(*self.pop(2)),
            "MEMOIZE": lambda _: self.remember(len(self.memo)),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_TUPLE": lambda _: push(()),
            "TUPLE": lambda _: push(tuple(self.since_mark())),
            "TUPLE1": lambda _: push(tuple(self.pop(1))),
            "TUPLE2": lambda _: push(tuple(self.pop(2))),
            "TUPLE3": lambda _: push(tuple(self.pop(3))),
            "APPEND": lambda _: self.extend(self.pop(1)),
            "APPENDS": lambda _: self.extend(self.since_mark()),
            "SETITEM": lambda _: self.update(self.pop(2)),
            "SETITEMS": lambda _: self.update(self.since_mark()),
            "BINPERSID": lambda _: push(_storage(*self.pop(1))),
            **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda _: push(self.build(*self.pop(2)))),
            "BUILD": lambda _: self.set_state(*self.pop(1)),
            "STOP": lambda _: self.stop(),
        }

    def run(self, instruction, argument):
        if instruction in self.instructions:
            self.instructions[instruction](argument)
        elif instruction in _CONSTANTS:
            self.stack.append(_CONSTANTS[instruction])
        else:
            raise RequestError(f"refused: the pickle has a {instruction}, which tensors don't need")

    def pop(self, count):
        if len(self.stack) < count:
            raise ValueError("the stack is empty")
        values = self.stack[-count:]
        del self.stack[-count:]
        if any(value is _MARK for value in values):
            raise ValueError("a mark where a value is needed")
        return values

    def since_mark(self):
        start = len(self.stack)
        while self.stack[start - 1] is not _MARK:
            start -= 1
            if start == 0:
                raise ValueError("no mark")
        values = self.stack[start:]
        del self.stack[start - 1 :]
        return values

    def remember(self, place):
        self.memo[place] = self.stack[-1]

    def name(self, module, name):
        text = f"{module}.{name}"
        if text not in _NAMES | _BESIDE:
            shown = repr(text[:80])[1:-1]  # without control characters
            raise RequestError(
                f"refused: the pickle names {shown}, which is no part of a tensor: must be a "
                "state_dict() alone"
            )
        self.stack.append(_Name(text))

    def extend(self, values):
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for something that is no list")
        self.stack[-1].extend(values)

    def update(self, values):
        if not isinstance(self.stack[-1], dict) or len(values) % 2:
            raise ValueError("items for something that is no dictionary")
        if not all(isinstance(key, str | int) for key in values[::2]):
            # Not a tuple: hashing a deeply nested one overflows the interpreter's own stack.
            raise ValueError("a key that is neither a text nor a number")
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def set_state(self, state):
        if isinstance(self.stack[-1], _Nothing):
            return
        # Of an OrderedDict the state is _metadata, which nobody needs; of a Namespace its names.
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict):
            raise RequestError("refused: the pickle sets the state of something that is no data")
        if self.stack[-1].__class__ is _Namespace:
            self.stack[-1].update(self.counted(state))

    def build(self, name, arguments):
        what = name.text if isinstance(name, _Name) else type(name).__name__
        if not isinstance(arguments, tuple):
            raise ValueError("arguments that are no tuple")
        if what == "collections.OrderedDict":
            return _dictionary(*map(self.counted, arguments))
        if what in _BESIDE:
            return _Nothing()
        if what == "argparse.Namespace" and not arguments:
            return _Namespace()
        if what == "torch.Size":
            return tuple(*map(self.counted, arguments))
        if what in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return _tensor(*arguments[:4])
        if what == "torch._utils._rebuild_parameter" and isinstance(arguments[0], Tensor):
            return arguments[0]
        raise RequestError(f"refused: the pickle calls {what}")

    def counted(self, container):
        self.copies += len(container)
        if self.copies > _MAX_COPIES:
            raise RequestError("refused: the pickle multiplies its content")
        return container

    def stop(self):
        (self.result,) = self.pop(1)
        if self.stack:
            raise ValueError("values are left on the stack")


def _dictionary(pairs=()):
    pairs = list(pairs.items() if isinstance(pairs, dict) else pairs)
    if not all(isinstance(p, tuple | list) and isinstance(p[0], str | int) for p in pairs):
        raise ValueError("a dictionary of something that is no pairs")
    return dict(pairs)


class _Nothing:
    """What was made of a name of _BESIDE."""


class _Namespace(dict):
    """An argparse.Namespace, as data."""


def _storage(name):
    if not isinstance(name, tuple) or len(name) < 5 or name[0] != "storage":
        raise ValueError("a reference to something that is no storage")
    _, kind, key, _, size = name[:5]
    if not isinstance(kind, _Name) or kind.text.removeprefix("torch.") not in _STORAGES:
        raise ValueError("a storage of an unknown type")
    if len(name) > 5 and name[5] is not None:
        raise RequestError("refused: a view of a storage, as torch before 0.4 wrote it")
    if not isinstance(key, str) or not _is_count(size):
        raise ValueError("a storage without a key or size")
    return Storage(key, _STORAGES[kind.text.removeprefix("torch.")], size)


def _tensor(storage, offset, shape, strides):
    if not isinstance(storage, Storage) or len(shape) > 8 or len(strides) > 8:
        raise ValueError("a tensor without a storage or of too many axes")
    if not all(map(_is_count, (offset, *shape, *strides))):
        raise ValueError("a tensor without a place, shape or strides")
    if max((offset, *shape, *strides)) > _MAX_LENGTH:
        raise ValueError("a tensor larger than its storage")
    last, numbers = offset, 1
    for length, stride in zip(shape, strides, strict=True):
        last, numbers = last + (length - 1) * stride, numbers * length
    if numbers and (last >= storage.size or numbers > storage.size):
        raise ValueError("a tensor larger than its storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
