"""What images cost, by grid."""

import pytest

from sparse_ist_tf.benchmarks.bytes import compare
from sparse_ist_tf.errors import RequestError


def test_a_sensor_sends_its_own_pixels_and_no_more(capsys):
    sensor, scaled = compare(["digits"], [32], [0.5])
    assert (sensor["grid"], scaled["grid"]) == ("sensor", "scaled")
    assert sensor["images"] == 256
    assert scaled["patches_raw"] - sensor["patches_raw"] == 8 * 3 * (8 * 8 - 2 * 2)
    assert sensor["patches_jpeg"] < scaled["patches_jpeg"]
    for row in (sensor, scaled):
        assert 590 < row["image_jpeg"] - row["image_jpeg_message"] < 640, "a header"
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].split()[:5] == ["digits", "32", "50", "%", "scaled"]


def test_what_cannot_be_measured_is_one_line():
    with pytest.raises(RequestError, match="patch_size=8: must divide image_size=60"):
        compare(["digits"], [60])
