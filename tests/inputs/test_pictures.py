"""Pictures as cameras, scanners and programs write them: upright, in 8 bits, or refused."""

import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs import pictures
from sparse_ist_tf.inputs.pictures import read_picture, turned
from tests.fixtures.pictures import STORED, encoded, gradients, stored

PIXELS = gradients(40, 56)
COLOUR = Image.fromarray(PIXELS)
GREY = PIXELS[..., 0]
RAMP = np.repeat(GREY[..., None], 3, axis=-1)
TURNABLE = {
    "JPEG": {"quality": 98},
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "MPO": {"quality": 98},
    "AVIF": {"quality": 98},
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", TURNABLE)
def test_every_orientation_comes_out_upright(kind, orientation):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    found = read_picture(stored(COLOUR, kind, orientation, **TURNABLE[kind]))
    assert found.shape == PIXELS.shape
    assert abs(found.astype(int) - PIXELS).max() <= 12
    assert found.flags.c_contiguous


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_turned_by_its_own_boxes_and_not_again_by_exif(orientation):
    """Source: ISO/IEC 23008-12: readers turn as irot and imir say, and pass over Exif's word."""
    pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_picture(encoded(COLOUR, "HEIF", quality=98, exif=exif))
    assert found.shape == PIXELS.shape
    assert abs(found.astype(int) - PIXELS).mean() < 4


def box(major, *compatible, version=b"\0\0\0\0"):
    """A file's first box and what may follow it."""
    brands = major + version + b"".join(compatible)
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(40)


@pytest.mark.parametrize("extension", ["", ".heic", ".avif"], ids=lambda text: text or "nothing")
@pytest.mark.parametrize(
    ("contents", "needs"),
    [
        (box(b"heic"), ".heic"),
        (box(b"heix", b"mif1", b"heix"), ".heic"),
        (box(b"hevc", b"msf1"), ".heic"),
        (box(b"mif1", b"heic"), ".heic"),
        (box(b"mif1", b"miaf", b"MiHB", b"MiHE", b"miaf", b"miaf", b"miaf", b"heic"), ".heic"),
        (box(b"msf1"), ".heic"),
        (b"\0\0\0\0ftypheic", ".heic"),  # to the end of the file, cut
        (box(b"avif"), ".avif"),
        (box(b"avif", b"mif1", b"miaf"), ".avif"),
        (box(b"avis", b"msf1"), ".avif"),
        (box(b"mif1", b"miaf", b"avif"), ".avif"),
        (box(b"mp42"), ""),
        (box(b"mp42", b"isom", b"mp41"), ""),
        (box(b"qt  ", b"qt  "), ""),
        (box(b"isom", b"avc1") + b"heic mif1 avif", ""),
        (box(b"isom", b"avc1", version=b"heic"), ""),
        (box(b"isom", b"xavi", b"fhei", b"cmp4"), ""),  # brands are words of four bytes
        (b"\0\0\0\x08ftyp", ""),
        (b"\xff\xff\xff\xffftypM4V ", ""),
    ],
)
def test_a_file_is_told_by_its_brands_what_reads_it(contents, needs, extension, monkeypatch):
    """Films begin as HEIC and AVIF do."""
    monkeypatch.setattr(pictures, "_can_read_heif", lambda: False)  # nor says it to Pillow
    monkeypatch.setattr(
        pictures, "lacking", lambda asked: f"{asked} needs more" if asked == extension else ""
    )
    says = f"{needs} needs more" if needs and needs == extension else "of no known format"
    with pytest.raises(RunError, match=re.escape(says)) as caught:
        read_picture(contents, "a.tif")
    assert ("needs" in str(caught.value)) == (needs == extension != "")


def test_xmp_says_it_too():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(COLOUR.transpose(STORED[6]), "JPEG", quality=98, xmp=xmp)
    assert read_picture(data).shape == PIXELS.shape


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_means_nothing_turns_nothing(value):
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(read_picture(encoded(COLOUR, "PNG", exif=exif)), PIXELS)


def test_damaged_exif_is_passed_over(recwarn):
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0what is this",
        b"Exif\0\0MM",
    ):
        data = encoded(COLOUR, "JPEG", quality=98, exif=exif)
        assert read_picture(data).shape == PIXELS.shape
    assert not recwarn.list


def test_turning_twice_the_other_way_is_nothing():
    for orientation, back in ((6, 8), (5, 5), (7, 7), (3, 3)):
        again = turned(turned(PIXELS, orientation), back)
        np.testing.assert_array_equal(again, PIXELS)


def tiff(samples, bits, form, photometric, data, extra=None, shape=GREY.shape):
    """A TIFF of one strip, as Pillow itself couldn't write it."""
    entries = [
        (256, 4, shape[1]),
        (257, 4, shape[0]),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, samples),
        (278, 4, shape[0]),
        (279, 4, len(data)),
        (339, 3, form),
    ]
    if extra is not None:
        entries.insert(9, (338, 3, extra))
    out, behind = b"II*\0" + struct.pack("<I", 8 + len(data)) + data, b""
    start = len(out) + 2 + 12 * len(entries) + 4
    out += struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        values = [value] * samples if tag in (258, 339) else value
        values = values if isinstance(values, list) else [values]
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            behind, packed = behind + packed, struct.pack("<I", start + len(behind))
        out += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return out + b"\0\0\0\0" + behind


SCALED = {
    "float": encoded(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
    "float, white is zero": tiff(1, 32, 3, 0, (1 - GREY / 255).astype("<f4").tobytes()),
    "16 bits": encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
    "16 bits, big-endian": encoded(
        Image.frombytes("I;16B", (56, 40), (GREY.astype(">u2") * 257).tobytes()), "TIFF"
    ),
    "16 bits, white is zero": tiff(1, 16, 1, 0, (65535 - GREY.astype("<u2") * 257).tobytes()),
    "16 bits, PNG": encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
    "3 x 16 bits": tiff(3, 16, 1, 2, (RAMP.astype("<u2") * 257).tobytes()),
    "8 bits, white is zero": tiff(1, 8, 1, 0, (255 - GREY).tobytes()),
    "grey and alpha": encoded(Image.fromarray(GREY).convert("LA"), "PNG"),
    "palette and alpha": encoded(Image.fromarray(GREY).convert("P").convert("PA"), "TIFF"),
    "grey, a band more": tiff(2, 8, 1, 1, np.repeat(GREY[..., None], 2, -1).tobytes(), extra=0),
    "grey and alpha, multiplied": tiff(
        2, 8, 1, 1, np.stack([GREY, np.full_like(GREY, 255)], -1).tobytes(), extra=1
    ),
    "RGB and infrared": tiff(4, 8, 1, 2, np.insert(RAMP, 3, 9, -1).tobytes(), extra=0),
}


@pytest.mark.parametrize("case", SCALED)
def test_a_ramp_is_the_same_from_every_type(case):
    np.testing.assert_array_equal(read_picture(SCALED[case]), RAMP)


def test_twelve_bits_are_not_taken_for_sixteen():
    """Two values are three bytes."""
    values = (GREY.astype(np.uint16) << 4 | 5).reshape(-1, 2)
    packed = np.stack(
        [values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], -1
    )
    data = tiff(1, 12, 1, 1, packed.astype(np.uint8).tobytes())
    np.testing.assert_array_equal(read_picture(data), RAMP)


def test_one_bit_and_other_colours():
    bits = Image.fromarray(GREY).convert("1")
    for kind in ("PNG", "TIFF", "BMP"):
        found = read_picture(encoded(bits, kind))
        np.testing.assert_array_equal(found[..., 0], np.asarray(bits.convert("L")))
    for mode, kind in (("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF"), ("RGBA", "PNG")):
        found = read_picture(encoded(COLOUR.convert(mode), kind))
        assert abs(found.astype(int) - PIXELS).mean() < 3


REFUSED = {
    "32 bits": (tiff(1, 32, 1, 1, GREY.astype("<u4").tobytes()), "32-bit integers"),
    "32 bits, signed": (tiff(1, 32, 2, 1, GREY.astype("<i4").tobytes()), "signed integers"),
    "16 bits, signed": (tiff(1, 16, 2, 1, GREY.astype("<i2").tobytes()), "signed integers"),
    "8 bits, signed": (tiff(1, 8, 2, 1, GREY.tobytes()), "signed integers"),
    "floats to 255": (tiff(1, 32, 3, 1, GREY.astype("<f4").tobytes()), "floats from 0 to 220"),
    "no number": (tiff(1, 32, 3, 1, np.full(GREY.shape, np.nan, "<f4").tobytes()), "from nan"),
    "floats below 0": (tiff(1, 32, 3, 1, (GREY / -255).astype("<f4").tobytes()), "not in 0..1"),
    "8 bands": (
        tiff(8, 16, 1, 1, np.zeros((*GREY.shape, 8), "<u2").tobytes()),
        "TIFF of 8 bands of 16-bit unsigned integers",
    ),
    "3 floats": (
        tiff(3, 32, 3, 2, (RAMP / 255).astype("<f4").tobytes()),
        "TIFF of 3 bands of 32-bit floats",
    ),
    "64 bits": (tiff(1, 64, 3, 1, (GREY / 255).astype("<f8").tobytes()), "1 band of 64-bit float"),
    "2 x 16 bits": (
        tiff(2, 16, 1, 1, np.zeros((*GREY.shape, 2), "<u2").tobytes()),
        "TIFF of 2 bands of 16-bit unsigned",
    ),
    "noise": (b"no image at all", "of no known format"),
    "nothing": (b"", "empty or of no known format"),
    "a cut TIFF": (b"II*\0\x08", "."),
    "a film": (b"\0\0\0 ftypmp42" + bytes(40), "of no known format"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_one_meaning_is_refused_in_a_line(case):
    data, says = REFUSED[case]
    with pytest.raises(RunError, match=says) as caught:
        read_picture(data, "photos/a\nb.tif")
    assert str(caught.value).startswith(r"photos/a\nb.tif: can't be read as an image (")
    assert "\n" not in str(caught.value)


def test_paths_of_all_kinds(tmp_path):
    data = encoded(COLOUR, "PNG")
    for name in ("a.png", "ä.jfif", b"\xe9\xff.png".decode(errors="surrogateescape")):
        path = tmp_path / name
        path.write_bytes(data)
        np.testing.assert_array_equal(read_picture(path), PIXELS)
        np.testing.assert_array_equal(read_picture(str(path)), PIXELS)
    with pytest.raises(RunError, match=r"gone.png: can't be read as an image \(No such file"):
        read_picture(tmp_path / "gone.png")
    path.write_bytes(b"?")
    with pytest.raises(RunError, match=r"\\xe9\\xff.png: can't be read"):
        read_picture(path)
    with pytest.raises(RunError, match="can't be read as an image"):
        read_picture(tmp_path)


def test_what_reads_pictures_alone_imports_no_tensorflow():
    program = """
import sys
import sparse_ist_tf.inputs.pictures as pictures
assert not [name for name in sys.modules if name.startswith(("tensorflow", "keras", "PIL"))]
"""
    subprocess.run([sys.executable, "-c", program], check=True)
