"""Baseline JPEG without its header: only the entropy-coded scan has to be sent.

The header of a small JPEG is longer than its picture (623 bytes, of which 420 are the Huffman
tables that nearly every encoder uses), and follows from size and quality alone. strip_jpeg takes
it off, restore_jpeg puts it back. Pictures have three components, YCbCr with the chroma at half
the resolution (4:2:0), the example Huffman tables of the standard, and its example quantization
tables, scaled by quality as the Independent JPEG Group's library does.

Source: ITU-T T.81 (1992), annexes B and K; jcparam.c of libjpeg for the quality.
"""

import functools
import struct

import numpy as np

from sparse_ist_tf.errors import RunError

MAX_SIDE = 65_500  # of libjpeg, in pixels

_MCU, _MCU_BYTES = 16, 4  # side in pixels of what is coded at a time, and its least size: six
# blocks with a code of 2 bits for DC and 4 (luma) or 2 (chroma) for the end of the block

_LUMA = (  # annex K.1, row by row
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 "
    "62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 "
    "98 112 100 103 99"
)
_CHROMA = "17 18 24 47 18 21 26 66 24 26 56 99 47 66 99 99"  # annex K.2, its upper left quarter

# Annex K.3: table class and number, how many codes of 1 to 16 bits, and the values they stand for.
_HUFFMAN = (
    "0000010501010101010100000000000000000102030405060708090a0b",
    "100002010303020403050504040000017d"
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a"
    "25262728292a3435363738393a434445464748494a535455565758595a636465666768696a73747576777879"
    "7a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9"
    "cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa",
    "0100030101010101010101010000000000000102030405060708090a0b",
    "1100020102040403040705040400010277"
    "000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f117"
    "18191a262728292a35363738393a434445464748494a535455565758595a636465666768696a737475767778"
    "797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7"
    "c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa",
)
_SCAN = bytes.fromhex("03 01 00 02 11 03 11 00 3f 00")  # components, their tables, one pass


def _quantization_tables(quality: int) -> tuple[bytes, bytes]:
    """The tables of luma and chroma, 64 bytes each, in zigzag order."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality}: must be in [1, 100]")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    chroma = np.full((8, 8), 99)
    chroma[:4, :4] = np.array(_CHROMA.split(), int).reshape(4, 4)
    luma = np.array(_LUMA.split(), int).reshape(8, 8)
    rows, columns = np.indices((8, 8))
    diagonal = rows + columns
    order = np.lexsort((np.where(diagonal % 2, rows, columns).ravel(), diagonal.ravel()))

    def scaled(table):
        return bytes(np.clip((table.ravel() * scale + 50) // 100, 1, 255)[order].tolist())

    return scaled(luma), scaled(chroma)


@functools.lru_cache(maxsize=64)
def _segments(quality: int, height: int, width: int) -> dict[tuple[int, int], bytes]:
    """(Marker, table) to contents, of every segment that matters."""
    luma, chroma = _quantization_tables(quality)
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes.fromhex("012200 021101 031101")
    tables = {(0xC4, int(text[:2], 16)): bytes.fromhex(text)[1:] for text in _HUFFMAN}
    return {(0xDB, 0): luma, (0xDB, 1): chroma, (0xC0, 0): frame, **tables, (0xDA, 0): _SCAN}


def strip_jpeg(data: bytes, quality: int, height: int, width: int) -> bytes:
    """Takes everything off a JPEG that restore_jpeg can put back.

    Args:
        data: a whole JPEG, as tf.io.encode_jpeg makes it without optimize_size.
        quality: what it was made with, 1 to 100.
        height: in pixels.
        width: in pixels.

    Raises:
        RunError: if the JPEG is made of other tables than its quality says.
    """
    expected, found, at = _segments(quality, height, width), {}, 2
    while data[at : at + 1] == b"\xff" and (0xDA, 0) not in found:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        if marker == 0xDB:  # one or more tables of 1 + 64 bytes
            found |= {(0xDB, body[i]): body[i + 1 : i + 65] for i in range(0, len(body), 65)}
        while marker == 0xC4 and body:  # one or more tables of 1 + 16 + sum(counts) bytes
            size = 17 + sum(body[1:17])
            found[0xC4, body[0]], body = body[1:size], body[size:]
        if marker not in (0xC4, 0xDB) and not 0xE0 <= marker <= 0xEF:
            found[marker, 0] = body
    if found != expected or data[-2:] != b"\xff\xd9":
        raise RunError(
            f"a JPEG of quality {quality}, {height} x {width} pixels, doesn't have the tables of "
            "the standard; another encoder made it"
        )
    return data[at:-2]


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width in pixels of a baseline JPEG.

    Raises:
        RunError: if it is none.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:
        if data[at + 1] == 0xC0:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise RunError("a file is no baseline JPEG")


def restore_jpeg(scan: bytes, quality: int, height: int, width: int) -> bytes:
    """Makes a whole JPEG, which every decoder reads, of the scan that strip_jpeg left.

    Raises:
        RunError: if no picture of that size can be in the scan, so that nobody makes memory for it.
        ValueError: if quality is out of range.
    """
    least = -(-height // _MCU) * -(-width // _MCU) * _MCU_BYTES
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and least <= len(scan)):
        raise RunError(
            f"a message is damaged: a picture of {height} x {width} pixels in {len(scan)} bytes"
        )
    parts = [b"\xff\xd8"]
    for (marker, table), body in _segments(quality, height, width).items():
        if marker in (0xDB, 0xC4):
            body = bytes([table]) + body
        parts.append(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)
    return b"".join([*parts, scan, b"\xff\xd9"])
