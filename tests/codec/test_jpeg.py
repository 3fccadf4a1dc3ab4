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
        restore_jpeg(b"", 0, 8, 8)
