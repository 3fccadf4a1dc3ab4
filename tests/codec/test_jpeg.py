import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from sparse_ist_tf.codec.jpeg import _quantization_tables, restore_jpeg, strip_jpeg
from sparse_ist_tf.errors import RunError

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("quality", [1, 25, 49, 50, 51, 75, 95, 100])
def test_the_header_follows_from_quality_and_size(quality):
    data = tf.io.encode_jpeg(PIXELS, quality=quality).numpy()
    scan = strip_jpeg(data, quality, 16, 48)
    assert len(data) - len(scan) == 625
    whole = restore_jpeg(scan, quality, 16, 48)
    np.testing.assert_array_equal(tf.io.decode_jpeg(whole), tf.io.decode_jpeg(data))
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(whole))), np.asarray(Image.open(io.BytesIO(data)))
    )
    assert strip_jpeg(whole, quality, 16, 48) == scan


def test_tables_are_those_of_an_encoder_of_its_own():
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format="JPEG", quality=80, subsampling=2)
    assert restore_jpeg(strip_jpeg(file.getvalue(), 80, 16, 48), 80, 16, 48)
    assert [len(table) for table in _quantization_tables(80)] == [64, 64]


@pytest.mark.parametrize("options", [{"optimize": True}, {"subsampling": 0}, {"progressive": True}])
def test_jpegs_of_another_make_are_refused(options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format="JPEG", **{"quality": 80, "subsampling": 2} | options)
    with pytest.raises(RunError, match="quality 80, 16 x 48 pixels, doesn't have the tables"):
        strip_jpeg(file.getvalue(), 80, 16, 48)


def test_a_wrong_quality_or_size_is_noticed():
    data = tf.io.encode_jpeg(PIXELS, quality=80).numpy()
    for quality, height, width in ((81, 16, 48), (80, 16, 32), (80, 8, 48)):
        with pytest.raises(RunError, match="tables"):
            strip_jpeg(data, quality, height, width)
    with pytest.raises(ValueError, match="quality=0"):
        restore_jpeg(bytes(4), 0, 8, 8)


@pytest.mark.parametrize("side", [(16, 16), (17, 31), (8, 500), (64, 64)])
def test_a_scan_too_short_for_its_picture_is_refused(side):
    """The shortest scan is that of a flat picture."""
    height, width = side
    flat = tf.io.encode_jpeg(np.full((*side, 3), 128, np.uint8), quality=50).numpy()
    scan = strip_jpeg(flat, 50, *side)
    assert len(scan) == -(-height // 16) * -(-width // 16) * 4
    assert restore_jpeg(scan, 50, *side) == flat[:2] + flat[20:]
    with pytest.raises(RunError, match=f"a picture of {height} x {width} pixels in"):
        restore_jpeg(scan[:-1], 50, *side)


@pytest.mark.parametrize("size", [(0, 8), (8, 0), (65_501, 1), (1, 2**26)])
def test_sizes_that_no_jpeg_has_are_refused(size):
    with pytest.raises(RunError, match="a message is damaged"):
        restore_jpeg(bytes(2**20), 50, *size)
