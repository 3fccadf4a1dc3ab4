"""What leaks of real images, by grid."""

import numpy as np
import pytest

from sparse_ist_tf.benchmarks.leak import Recovery, compare, measure_leak
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.split import ArraySource, Split
from sparse_ist_tf.masks import MaskOptions


def test_hidden_digits_are_read_where_the_grid_is_scaled_and_nowhere_else(capsys):
    sensor, scaled = compare(["digits"], [64], [0.5], images=12)
    assert (sensor["grid"], scaled["grid"]) == ("sensor", "scaled")
    assert scaled["leak"].attack.close > 0.95
    assert scaled["leak"].mean.close < 0.3
    assert sensor["leak"].attack == sensor["leak"].mean == scaled["leak"].mean
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5
    assert printed[-1].split()[:6] == ["digits", "8", "64", "50", "%", "scaled"]


def test_shares_are_of_hidden_values():
    errors = np.array([0, 2, -3, 100], np.int64)
    assert Recovery.of(errors) == Recovery(0.25, 0.5, pytest.approx(np.sqrt(10013 / 4)))


def _split(images):
    labels = np.zeros(len(images), np.int32)
    return Split("some/test", ArraySource(images), labels, ("a",), "0")


def test_what_cannot_be_measured_is_one_line():
    splits = datasets.load("digits")
    with pytest.raises(RequestError, match=r"masks\.ratio=0: hides nothing"):
        measure_leak(splits, MaskOptions("fixed", 0.0), 64, 8)
    with pytest.raises(RequestError, match="patch_size=8: must divide image_size=60"):
        compare(["digits"], [60])
    small = {part: _split(np.zeros((3, 4, 4, 3), np.uint8)) for part in ("train", "test")}
    with pytest.raises(RunError, match="4 pixels along a side can't be cut into 8 patches"):
        measure_leak(small, MaskOptions("fixed", 0.5), 64, 8)
