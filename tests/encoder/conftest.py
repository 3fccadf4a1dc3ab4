"""What several tests of encoders need: images, and files as torch writes them."""

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


def patches_of(images, patch_size):
    """Cuts images into patches as the ViT takes them.

    Args:
        images: float32[b, 3, side, side], as torch has them.
        patch_size: in pixels.

    Returns:
        float32[b, n, 3 * patch_size**2], row-major, channels last in each.
    """
    b, _, side, _ = images.shape
    grid = side // patch_size
    cut = images.reshape(b, 3, grid, patch_size, grid, patch_size).transpose(0, 2, 4, 3, 5, 1)
    return np.ascontiguousarray(cut.reshape(b, grid * grid, -1))


def random_case(side, patch_size, ratio=0.0, batch=2, seed=0):
    """Random images and the visible positions of each.

    Returns:
        (images float32[b, 3, side, side], positions int32[b, v], the ViT's inputs).
    """
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((batch, 3, side, side)).astype(np.float32)
    count = (side // patch_size) ** 2
    visible = round(count * (1 - ratio))
    places = np.stack([rng.permutation(count)[:visible] for _ in range(batch)]).astype(np.int32)
    if ratio == 0:
        places = np.tile(np.arange(count, dtype=np.int32), (batch, 1))
    patches = np.take_along_axis(patches_of(images, patch_size), places[..., None], axis=1)
    return images, places, {"patches": patches, "positions": places}


@pytest.fixture(scope="session")
def make_case():
    """The function random_case."""
    return random_case


@pytest.fixture(scope="session")
def torch():
    """PyTorch, with what torchvision's wheel misses beside a CPU build of it."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: the extra 'references'")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        # Where torchvision came with it, it is defined already.
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    yield torch
    del library


@pytest.fixture(scope="session")
def randomise(torch):
    """A function that gives every weight of a torch module a value that matters."""

    def randomise(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in module.named_parameters():
                noise = torch.randn(value.shape, generator=generator)
                if value.ndim > 1 and "token" not in name and "pos" not in name:
                    value.copy_(noise * (1.5 / value[0].numel() ** 0.5))
                elif value.ndim == 1 and name.endswith(("weight", "gamma", "lambda1")):
                    value.copy_(1 + 0.3 * noise)
                else:
                    value.copy_(0.3 * noise)
        return module.eval()

    return randomise


@pytest.fixture(scope="session")
def images():
    """Bright and dark images: two classes that a few steps tell apart."""
    from sparse_ist_tf.encoder.pretraining_data import Images

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 96).astype(np.int32)
    pixels = rng.integers(0, 90, (96, 64, 64, 3)) + 130 * labels[:, None, None, None]
    pixels = pixels.astype(np.uint8)
    return Images(pixels[:64], labels[:64], pixels[64:], labels[64:], num_classes=2)
