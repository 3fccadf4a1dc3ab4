"""What several tests of encoders need: files as torch writes them, made without torch."""

import struct
import zipfile

import numpy as np
import pytest

_KINDS = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<f2": "HalfStorage", "<i8": "LongStorage"}


def _global(module, name):
    return f"c{module}\n{name}\n".encode()


def _text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _number(value):
    return b"J" + struct.pack("<i", value)


def _tensor(key, array):
    kind = _global("torch", _KINDS[array.dtype.newbyteorder("<").str])
    stored = (
        b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _number(array.size) + b"tQ"
    )
    strides = [stride // array.itemsize for stride in array.strides]
    sizes = [b"(" + b"".join(map(_number, v)) + b"t" for v in (array.shape, strides)]
    hooks = _global("collections", "OrderedDict") + b")R"
    rest = b"".join([stored, _number(0), *sizes, b"\x89", hooks])
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + rest + b"tR"


def torch_bytes(tensors, member="", extra=b"", *, legacy=False, compress=False, path=None):
    """Writes tensors as torch.save does.

    Args:
        tensors: name to array.
        member: of the dictionary around the state dict, if any.
        extra: pickled key and value beside it.
        legacy: in the format of torch before 1.6.
        compress: the zip's members.
        path: of the file.
    """
    arrays = {str(i): np.ascontiguousarray(a) for i, a in enumerate(tensors.values())}
    items = [_text(n) + _tensor(k, arrays[k]) for k, n in zip(arrays, tensors, strict=True)]
    content = b"}(" + b"".join(items) + b"u"
    if member or extra:
        content = b"}(" + extra + _text(member) + content + b"u"
    pickled = b"\x80\x02" + content + b"."
    if not legacy:
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", kind) as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/byteorder", "little")
            for key, array in arrays.items():
                archive.writestr(f"archive/data/{key}", array.tobytes())
            archive.writestr("archive/version", "3\n")
        return path
    magic = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
    head = b"\x80\x02\x8a\x0a" + magic + b".\x80\x02M" + struct.pack("<H", 1001) + b"."
    system = b"\x80\x02}" + _text("little_endian") + b"\x88s."
    keys = b"\x80\x02](" + b"".join(map(_text, arrays)) + b"e."
    data = [struct.pack("<q", a.size) + a.tobytes() for a in arrays.values()]
    path.write_bytes(b"".join([head, system, pickled, keys, *data]))
    return path


@pytest.fixture(scope="session")
def write_torch():
    """The function torch_bytes."""
    return torch_bytes
