import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs import decoding
from sparse_ist_tf.inputs.decoding import decode_file, decode_image, image_errors, readable
from tests.fixtures.pictures import STORED, encoded, gradients, stored

PIXELS = gradients(40, 50)
COLOUR = Image.fromarray(PIXELS)


CASES = {
    "rgb jpeg": (encoded(COLOUR, "JPEG", quality=98), 8),
    "cmyk jpeg": (encoded(COLOUR.convert("CMYK"), "JPEG", quality=98), 8),
    "grey jpeg": (encoded(COLOUR.convert("L"), "JPEG", quality=98), 8),
    "rgb png": (encoded(COLOUR, "PNG"), 0),
    "rgba png": (encoded(COLOUR.convert("RGBA"), "PNG"), 0),
    "grey png": (encoded(COLOUR.convert("L"), "PNG"), 0),
    "grey and alpha png": (encoded(COLOUR.convert("LA"), "PNG"), 0),
    "palette png": (encoded(COLOUR.quantize(16), "PNG"), 0),
    "one bit png": (encoded(COLOUR.convert("1"), "PNG"), 0),
    "rgb bmp": (encoded(COLOUR, "BMP"), 0),
    "rgba bmp": (encoded(COLOUR.convert("RGBA"), "BMP"), 0),
    "palette bmp": (encoded(COLOUR.quantize(16), "BMP"), 0),
    "animated gif": (
        encoded(COLOUR, "GIF", save_all=True, append_images=[COLOUR.transpose(0)]),
        0,
    ),
    "webp": (encoded(COLOUR, "WEBP", lossless=True), 0),
    "rgba webp": (encoded(COLOUR.convert("RGBA"), "WEBP", lossless=True), 0),
    "grey bmp": (encoded(COLOUR.convert("L"), "BMP"), 0),
    "cmyk tiff": (encoded(COLOUR.convert("CMYK"), "TIFF"), 0),
    "rgb tiff": (encoded(COLOUR, "TIFF"), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_every_format_becomes_rgb(case):
    data, tolerance = CASES[case]
    image = decode_image(data, case).numpy()
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert image.dtype == np.uint8
    assert image.shape == (40, 50, 3)
    assert abs(image.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "MPO"])
def test_every_orientation_is_turned_upright(kind, orientation, tmp_path):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98}
    data = stored(COLOUR, kind, orientation, **options)
    (tmp_path / "photo").write_bytes(data)
    for image in (decode_image(data, "photo"), decode_file(tf.constant(f"{tmp_path}/photo"))):
        assert image.shape == PIXELS.shape
        assert abs(image.numpy().astype(int) - PIXELS).max() <= 12


def late(png):
    """A PNG with what lies in front of its image behind it, as some programs write it."""
    start = png.index(b"eXIf") - 4
    chunk = png[start : start + 12 + int.from_bytes(png[start : start + 4], "big")]
    rest = png.replace(chunk, b"")
    return rest[:-12] + chunk + rest[-12:]


def commented(jpeg):
    """A JPEG with a comment, an ICC profile and Adobe's segment in front of EXIF."""
    other = b"".join(
        b"\xff" + bytes([kind]) + (2 + len(body)).to_bytes(2, "big") + body
        for kind, body in ((0xFE, b"hello"), (0xE2, b"ICC_PROFILE\0" + bytes(60_000)), (0xED, b"P"))
    )
    return jpeg[:2] + other + jpeg[2:]


TEXT = PngInfo()
TEXT.add_text("Software", "a camera")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
TURNED = {
    "PNG, late": late(stored(COLOUR, "PNG", 6)),
    "JPEG, behind others": commented(stored(COLOUR, "JPEG", 6, quality=98)),
    "JPEG, XMP": encoded(COLOUR.transpose(STORED[6]), "JPEG", quality=98, xmp=XMP),
    "PNG with text": stored(COLOUR, "PNG", 6, pnginfo=TEXT, dpi=(300, 300)),
}


@pytest.mark.parametrize("case", TURNED)
def test_an_orientation_is_found_wherever_programs_put_it(case):
    image = decode_image(TURNED[case], case).numpy()
    assert image.shape == PIXELS.shape
    assert abs(image.astype(int) - PIXELS).max() <= 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_has_exif_and_lies_upright_keeps_tensorflow_s_pixels(kind):
    options = {"quality": 60} if kind == "JPEG" else {}
    plain = encoded(COLOUR, kind, **options)
    for data in (stored(COLOUR, kind, 1, **options), stored(COLOUR, kind, 9, **options)):
        np.testing.assert_array_equal(decode_image(data, "a"), decode_image(plain, "b"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_high_byte(kind):
    deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    image = decode_image(encoded(deep, kind), "deep").numpy()
    np.testing.assert_array_equal(image, np.repeat(PIXELS[..., :1], 3, axis=-1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_tensorflow_has_decoded_pillow_need_not(kind, monkeypatch):
    def fail(*_):
        raise AssertionError("slow")

    monkeypatch.setattr(decoding, "read_picture", fail)
    assert decode_image(encoded(COLOUR, kind), "photo").shape == (40, 50, 3)


def test_formats_are_told_apart_without_a_word(capfd):
    for case in ("rgb bmp", "animated gif", "webp", "rgb tiff"):
        decode_image(CASES[case][0], case)
    assert capfd.readouterr().err == ""


def test_what_is_transparent_in_a_gif_is_black():
    numbers = COLOUR.quantize(16)
    image = decode_image(encoded(numbers, "GIF", transparency=3), "gif").numpy()
    hidden = np.asarray(numbers) == 3
    assert hidden.any()
    assert not image[hidden].any()
    np.testing.assert_array_equal(image[~hidden], np.asarray(numbers.convert("RGB"))[~hidden])


_SIZES = """
import resource, sys
import numpy as np
import tensorflow as tf
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs.decoding import decode_file, image_errors, readable

decode_file(tf.constant(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        with image_errors():
            decode_file(tf.constant(path))
    except RunError as error:
        print(error)
print(readable(tf.data.Dataset.from_tensor_slices(sys.argv[1:]), decode_file).tolist())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Files of few bytes and many pixels."""
    folder = tmp_path_factory.mktemp("large")
    paths = [folder / "good.png"]
    paths[0].write_bytes(CASES["rgb png"][0])
    for kind in ("JPEG", "GIF", "WEBP"):
        paths.append(folder / f"large.{kind.lower()}")
        Image.new("L", (9_500, 9_500)).save(paths[-1], format=kind, quality=0, method=0)
    for kind, size in (
        ("PNG", (16_000, 16_000)),  # of which Pillow makes an error, not a warning
        ("BMP", (20_000, 5_000)),
        ("TIFF", (20_000, 5_000)),
    ):
        paths.append(folder / f"large.{kind.lower()}")
        Image.new("1", size).save(paths[-1], format=kind)
    return paths


def test_large_images_are_refused_before_there_is_memory_for_them(large):
    done = subprocess.run(
        [sys.executable, "-c", _SIZES, *map(str, large)], capture_output=True, text=True
    )
    assert "Warning" not in done.stderr
    *lines, readable, megabytes = done.stdout.splitlines()
    for path, line in zip(large[1:], lines, strict=True):
        assert line.startswith(f"{path}: can't be read as an image (it has "), line
        assert " pixels, at most 89,478,485 are allowed" in line
    assert "it has 90,250,000 pixels" in lines[0]
    assert "it has 256,000,000 pixels" in lines[3]
    assert readable == str([True, *[False] * 6])
    assert int(megabytes) < 100


def test_the_limit_is_pillow_s(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1999)
    for case in ("rgb jpeg", "rgb png", "webp"):
        with (
            pytest.raises(RunError, match=r"2,000 pixels, at most 1,999 are allowed"),
            image_errors(),
        ):
            decode_image(CASES[case][0], case)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for case in ("rgb jpeg", "rgb png", "webp"):
        decode_image(CASES[case][0], case)


BROKEN = {
    "empty": b"",
    "noise": b"no image at all",
    "cut.jpg": CASES["rgb jpeg"][0][:700],
    "cut.png": CASES["rgb png"][0][:60],
    "cut.tif": CASES["rgb tiff"][0][:700],
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_images_are_named_in_one_line(case):
    data = tf.data.Dataset.from_tensor_slices([CASES["rgb png"][0], BROKEN[case]])
    names = tf.data.Dataset.from_tensor_slices(["good", f"Bärenfoto/{case}"])
    images = tf.data.Dataset.zip(data, names).map(decode_image, num_parallel_calls=2)
    says = f"^Bärenfoto/{case}: can't be read as an image"
    with pytest.raises(RunError, match=says) as caught, image_errors():
        list(images)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(RunError, match=r"gone\.png: .*No such file"), image_errors():
        decode_file(str(tmp_path / "gone.png"))


def test_files_decode_like_their_bytes(tmp_path):
    for case in ("rgb jpeg", "webp", "rgb tiff"):
        (tmp_path / "x").write_bytes(CASES[case][0])
        image = decode_file(str(tmp_path / "x"))
        np.testing.assert_array_equal(image, decode_image(CASES[case][0], "x"))


def test_other_errors_pass():
    with pytest.raises(tf.errors.InvalidArgumentError), image_errors():
        tf.constant([1, 2]) + tf.constant([1, 2, 3])
    with pytest.raises(ZeroDivisionError), image_errors():
        1 / 0  # noqa: B018


def test_readable_tells_which():
    cases = [CASES["rgb png"][0], *BROKEN.values(), CASES["rgb tiff"][0]]
    stream = tf.data.Dataset.from_tensor_slices((cases, [str(i) for i in range(7)]))
    good = readable(stream, lambda element: decode_image(*element))
    assert good.tolist() == [True, *[False] * 5, True]
    assert readable(stream.take(0), lambda element: decode_image(*element)).tolist() == []
