"""The format of a message: what is visible of one image, or all of it, or the image's feature.

| bytes | what |
|---|---|
| 2 | b"SP" |
| 1 | version, 2; 3 of features in 4, 3 or 2 bits |
| 1 | low half: content (0 JPEG, 1 raw pixels, 2 float32, 3 float16, 4 int8, 5 the JPEG of a whole image, 6, 7, 8 features in 4, 3, 2 bits); high half: mask (0 bitmap, 1 the seed of a fixed mask, 2 the seed of a random mask) |
| | of patches: |
| varint | quality, 1 to 100; 0 for raw pixels |
| varint, varint | height and width of a patch in pixels (one number for both in version 1) |
| varint, varint | rows and columns of patches in the image |
| (rows * columns + 7) // 8 | bitmap: bit i % 8 of byte i // 8, the lowest first, is 1 where patch i is visible |
| varint, varint, varint | or seed modulo 2**64, image index, number of visible patches; then the epoch of a random mask |
| rest | the JPEG's scan, or the patches' pixels, in ascending order of position |
| | of a whole image: |
| varint, varint, varint | quality, height and width in pixels |
| rest | the JPEG's scan |
| | of a feature: |
| varint | its length |
| rest | little-endian floats; or a little-endian float32, the scale, and an int8 for each; or the numbers of their steps (few_bits.py), 4, 3 or 2 bits each, from the lowest bit of a byte upwards |
| 4 | CRC-32 (as in zlib) of all before, little-endian; of features in few bits of the channels' means and deviations, as float32, and then of all before |

Means and deviations of the channels are what both sides have to know: channels.json of a run. By the
checksum a message that was made with others is refused. A varint has seven bits to a byte, the lowest first, the high bit set where more follow.
"""  # noqa: E501

import dataclasses
import zlib

import numpy as np
import tensorflow as tf

from sparse_ist_tf.codec.few_bits import BITS, Channels, pack_bits, packed_size, unpack_bits
from sparse_ist_tf.codec.jpeg import jpeg_size, restore_jpeg, strip_jpeg
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.masks.drawing import fixed_positions, random_positions

MAGIC, VERSION, NEWEST = b"SP", 2, 3  # what needs no newer one is of VERSION
JPEG, RAW, FLOAT32, FLOAT16, INT8, WHOLE, INT4, INT3, INT2 = range(9)
BITMAP, FIXED, RANDOM = range(3)
FEATURES = {
    "float32": FLOAT32,
    "float16": FLOAT16,
    "int8": INT8,
    "int4": INT4,
    "int3": INT3,
    "int2": INT2,
}
_BITS = {FEATURES[name]: bits for name, bits in BITS.items()}

_MAX_PATCHES, _MAX_PIXELS = 2**20, 2**26  # of a message: more is damage, or an attack


@dataclasses.dataclass(frozen=True)
class MaskSeed:
    """What a mask can be drawn from again, so that no positions have to be sent.

    Args:
        seed: any integer.
        index: the image's place in its split, at least 0; a tensor in a graph.
        epoch: of a random mask, at least 0; None for a fixed one; a tensor in a graph.

    Raises:
        ValueError: if index or epoch is out of range.
    """

    seed: int
    index: int | tf.Tensor
    epoch: int | tf.Tensor | None = None

    def __post_init__(self) -> None:
        for name, most in (("index", 63), ("epoch", 62)):
            value = getattr(self, name)
            if isinstance(value, int | np.integer) and not 0 <= value < 2**most:
                raise ValueError(f"{name}={value}: must be in [0, 2**{most})")

    def positions(self, num_patches: int, num_visible: int) -> np.ndarray:
        """Draws the mask: int32[num_visible], ascending."""
        ratio = (num_patches - num_visible) / num_patches
        if self.epoch is None:
            return fixed_positions(self.seed, [self.index], num_patches, ratio)[0]
        return random_positions(self.seed, [self.index], self.epoch, num_patches, ratio)[0]


@dataclasses.dataclass(frozen=True)
class Header:
    """What a message says of its patches.

    Args:
        content: JPEG or RAW.
        quality: of the JPEG, 1 to 100; 0 for raw pixels.
        patch: (height, width) of a patch in pixels.
        grid: (rows, columns) of patches in the image.
        positions: int32[v], the visible patches, ascending.
    """

    content: int
    quality: int
    patch: tuple[int, int]
    grid: tuple[int, int]
    positions: np.ndarray


class _Reader:
    """Takes a message to pieces from its front."""

    def __init__(self, data: bytes):
        self.data = data

    def take(self, count: int) -> bytes:
        if count > len(self.data):
            raise RunError("a message is damaged: it ends too early")
        part, self.data = self.data[:count], self.data[count:]
        return part

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            [byte] = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise RunError("a message is damaged: a number in it is too long")


def _varint(value: int) -> bytes:
    """An integer of at least 0, of any size, seven bits to a byte."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _seal(kind: int, *parts: bytes, known: bytes = b"") -> bytes:
    """Puts the beginning and the checksum around a message; kind is content + 16 * mask.

    Checked is what the receiver has to know as well.
    """
    version = NEWEST if kind in _BITS else VERSION
    data = b"".join([MAGIC, bytes([version, kind]), *parts])
    return data + zlib.crc32(data, zlib.crc32(known)).to_bytes(4, "little")


def _unseal(message: bytes, known: bytes = b"") -> tuple[int, int, bytes]:
    """Checks that a message is whole: its version, its kind, and what is in it."""
    if message[:2] != MAGIC or len(message) < 8:
        raise RunError(f"{len(message)} bytes beginning with {message[:4]!r}: no message of ours")
    few = message[2] == NEWEST and message[3] in _BITS
    check = zlib.crc32(message[:-4], zlib.crc32(known if few else b""))
    expected = int.from_bytes(message[-4:], "little")
    if check != expected:
        how = "damaged, or made with other channels" if few else "damaged"
        raise RunError(
            f"a message of {len(message)} bytes is {how}: its checksum is {check:08x}, "
            f"it says {expected:08x}"
        )
    if not 1 <= message[2] <= NEWEST:
        raise RunError(f"a message is of version {message[2]}; this release reads 1 to {NEWEST}")
    return message[2], message[3], message[4:-4]


def write_patches(header: Header, content: bytes, seed: MaskSeed | None = None) -> bytes:
    """Writes a message of a JPEG's scan or of pixels; a seed is sent in place of a bitmap.

    Raises:
        ValueError: if positions are not ascending patches of the grid, or not what seed draws.
    """
    positions, (rows, columns) = np.asarray(header.positions), header.grid
    patches = rows * columns
    ascending = np.all(np.diff(positions) > 0)
    if not len(positions) or not ascending or positions[0] < 0 or positions[-1] >= patches:
        raise ValueError(f"positions: must be one or more, ascending, in [0, {patches})")
    if seed is None:
        form, visible = BITMAP, np.zeros(patches, bool)
        visible[positions] = True
        mask = np.packbits(visible, bitorder="little").tobytes()
    else:
        if not np.array_equal(positions, seed.positions(patches, len(positions))):
            raise ValueError(f"positions: are not those that {seed} draws")
        form = FIXED if seed.epoch is None else RANDOM
        epoch = [] if seed.epoch is None else [seed.epoch]
        mask = b"".join(map(_varint, [seed.seed % 2**64, seed.index, len(positions), *epoch]))
    numbers = [header.quality, *header.patch, rows, columns]
    return _seal(header.content + 16 * form, *map(_varint, numbers), mask, content)


def read_patches(message: bytes) -> tuple[Header, bytes]:
    """Reads a message of patches.

    Raises:
        RunError: if the message is damaged, or not one of patches.
    """
    version, kind, data = _unseal(message)
    content, form = kind % 16, kind // 16
    if content not in (JPEG, RAW) or form not in (BITMAP, FIXED, RANDOM):
        raise RunError(f"a message is of kind {kind:#04x}, which has no patches")
    reader = _Reader(data)
    quality, height = reader.varint(), reader.varint()
    width = height if version == 1 else reader.varint()
    rows, columns = reader.varint(), reader.varint()
    patches, size = rows * columns, height * width
    known = 1 <= quality <= 100 if content == JPEG else quality == 0
    if not (known and 1 <= patches <= _MAX_PATCHES and 1 <= size * patches <= _MAX_PIXELS):
        raise RunError(
            f"a message is damaged: {rows} x {columns} patches of {height} x {width} pixels, "
            f"quality {quality}"
        )
    if form == BITMAP:
        bits = np.frombuffer(reader.take((patches + 7) // 8), np.uint8)
        positions = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    else:
        seed, index, visible = (reader.varint() for _ in range(3))
        epoch = reader.varint() if form == RANDOM else None
        if not 1 <= visible <= patches or index >= 2**63 or (epoch or 0) >= 2**62:
            raise RunError(f"a message is damaged: {visible} of {patches} patches, image {index}")
        positions = MaskSeed(seed, index, epoch).positions(patches, visible)
    if not len(positions) or positions[-1] >= patches:
        raise RunError(f"a message is damaged: its bitmap doesn't fit {patches} patches")
    expected = len(positions) * size * 3
    if len(reader.data) != expected if content == RAW else not reader.data:
        raise RunError(
            f"a message is damaged: {len(positions)} patches in {len(reader.data)} bytes"
        )
    patch, grid = (height, width), (rows, columns)
    header = Header(content, quality, patch, grid, positions.astype(np.int32))
    return header, reader.data


def pack_image(file: bytes, quality: int) -> bytes:
    """Packs a whole image, a JPEG of tf.io.encode_jpeg with 4:2:0 chroma, into a message.

    Args:
        file: the JPEG.
        quality: that it was made with, 1 to 100.

    Raises:
        RunError: if it is no such JPEG, or too large for a message.
    """
    height, width = jpeg_size(file)
    if height * width > _MAX_PIXELS:
        raise RunError(
            f"an image of {height} x {width} pixels: a message has at most {_MAX_PIXELS:,} of them"
        )
    scan = strip_jpeg(file, quality, height, width)
    return _seal(WHOLE, *map(_varint, (quality, height, width)), scan)


def unpack_image(message: bytes) -> bytes:
    """The JPEG that pack_image packed, byte for byte but for an application's header.

    Raises:
        RunError: if the message is damaged, or none of a whole image.
    """
    _, kind, data = _unseal(message)
    if kind != WHOLE:
        raise RunError(f"a message is of kind {kind:#04x}, which is no whole image")
    reader = _Reader(data)
    quality, height, width = (reader.varint() for _ in range(3))
    if not (1 <= quality <= 100 and 1 <= height * width <= _MAX_PIXELS):
        raise RunError(f"a message is damaged: {height} x {width} pixels, quality {quality}")
    return restore_jpeg(reader.data, quality, height, width)


def pack_feature(
    feature: np.ndarray, dtype: str = "float32", channels: Channels | None = None
) -> bytes:
    """Packs an image's feature into a message.

    Args:
        feature: float[d].
        dtype: "float32", "float16", "int8": 127 steps to each side of zero, up to the largest
            magnitude; or "int4", "int3", "int2": steps of the channels.
        channels: of training images, for the last three.

    Raises:
        ValueError: if dtype isn't known, if the feature isn't one row of finite numbers that
            dtype can hold, or if the channels aren't its own.
    """
    feature = np.asarray(feature, np.float32)
    if feature.ndim != 1:
        raise ValueError(f"feature of shape {feature.shape}: must be one row")
    _check_features(feature, dtype, channels)
    if dtype in BITS and channels:
        data = pack_bits(channels.codes(feature, BITS[dtype]), BITS[dtype])
        return _seal(FEATURES[dtype], _varint(len(feature)), data, known=channels.as_bytes())
    if dtype == "int8":
        scale, steps = _steps(feature)
        data = scale.astype("<f4").tobytes() + steps.tobytes()
    else:
        data = feature.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    return _seal(FEATURES[dtype], _varint(len(feature)), data)


def sent_features(features: np.ndarray, dtype: str, channels: Channels | None = None) -> np.ndarray:
    """What unpack_feature makes of the messages of some features, without the messages.

    Args:
        features: float[n, d].
        dtype: as pack_feature.
        channels: likewise.

    Returns:
        float32[n, d].

    Raises:
        ValueError: as pack_feature.
    """
    features = np.asarray(features, np.float32)
    _check_features(features, dtype, channels)
    if dtype in BITS and channels:
        return channels.values(channels.codes(features, BITS[dtype]), BITS[dtype])
    if dtype == "int8":
        scale, steps = _steps(features)
        return steps.astype(np.float32) * scale
    return features.astype(dtype).astype(np.float32)


def _check_features(features, dtype, channels):
    if dtype not in FEATURES:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(FEATURES)}")
    if dtype in BITS and (channels is None or len(channels.mean) != features.shape[-1]):
        found = "none" if channels is None else str(len(channels.mean))
        raise ValueError(
            f"{found} of the channels are known: {dtype} must be one of features with "
            f"{features.shape[-1]} known channels"
        )
    limit = float(np.finfo(np.float16 if dtype == "float16" else np.float32).max)
    if not np.all(np.abs(features) <= limit):
        largest = np.abs(features).max()
        raise ValueError(f"feature up to {largest:g}: must be one that {dtype} can hold")


def _steps(features) -> tuple[np.ndarray, np.ndarray]:
    """(scale float32[..., 1], steps int8[..., d]) of features in int8."""
    scale = np.abs(features).max(axis=-1, initial=0, keepdims=True) / np.float32(127)
    steps = np.round(features / np.where(scale, scale, 1))
    return scale, np.clip(steps, -127, 127).astype(np.int8)


def unpack_feature(message: bytes, channels: Channels | None = None) -> np.ndarray:
    """Takes a feature, float32[d], out of a message.

    Args:
        message: as pack_feature made it.
        channels: that it was made with, where it has few bits.

    Raises:
        RunError: if the message is damaged, not one of a feature, or made with other channels.
    """
    _, kind, data = _unseal(message, channels.as_bytes() if channels else b"")
    if kind not in FEATURES.values():
        raise RunError(f"a message is of kind {kind:#04x}, which has no feature")
    reader = _Reader(data)
    length, bits = reader.varint(), _BITS.get(kind, 8)
    sizes = {FLOAT32: 4 * length, FLOAT16: 2 * length, INT8: 4 + length}
    if len(reader.data) != sizes.get(kind, packed_size(length, bits)):
        raise RunError(f"a message is damaged: {length} numbers in {len(reader.data)} bytes")
    if kind in _BITS:
        if channels is None or len(channels.mean) != length:
            raise RunError(f"a message of {length} channels in few bits: others are known")
        return channels.values(unpack_bits(reader.data, bits, length), bits)
    if kind == INT8:
        scale = np.frombuffer(reader.take(4), "<f4")[0]
        return np.frombuffer(reader.data, np.int8).astype(np.float32) * scale
    return np.frombuffer(reader.data, "<f4" if kind == FLOAT32 else "<f2").astype(np.float32)
