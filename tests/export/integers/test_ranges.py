"""Ranges for integers: those of the samples, cut where cutting loses least."""

import numpy as np
import pytest

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.integers.memory import Recording
from sparse_ist_tf.export.integers.ranges import best_logits_range, best_range, calibrate


def test_a_range_loses_less_than_the_whole_span_would():
    """Measured by rounding the values themselves, which have long tails."""
    values = np.random.default_rng(0).standard_t(3, 20_000)
    low, high = values.min(), values.max()

    def error(a, b):
        step = (b - a) / 255
        return np.mean((np.clip(np.round((values - a) / step), 0, 255) * step + a - values) ** 2)

    counts, _ = np.histogram(values, 2048, (low, high))
    found = best_range(counts, low, high)
    assert low <= found[0] < 0 < found[1] < high
    assert error(*found) < error(low, high)
    grid = np.arange(0.1, 1.01, 0.1)
    assert error(*found) < 1.05 * min(error(low * a, high * b) for a in grid for b in grid)


def test_a_range_without_tails_stays_whole():
    assert best_range(np.ones(2048), -1.0, 3.0) == (-1.0, 3.0)
    assert best_range(np.zeros(2048), 0.0, 0.0) == (0.0, 0.0)


def test_ranges_are_those_of_the_samples(head_file, head_samples, head_features):
    ranges = calibrate(Recording(head_file, head_samples), bits=16)
    (index,) = flatbuffer.parse(head_file).subgraphs[0].inputs
    low, high = ranges[int(index)]
    assert low == pytest.approx(2 * head_features.min())
    assert high == pytest.approx(2 * head_features.max())
    eight = calibrate(Recording(head_file, head_samples), bits=8)[int(index)]
    assert head_features.min() <= eight[0] < 0 < eight[1] <= head_features.max()


def test_values_that_are_not_finite_are_an_error(head_file):
    for samples in ([], [{"feature": np.full((1, 8), np.nan, "float32")}]):
        with pytest.raises(RunError, match="no samples, or a tensor that is not finite"):
            calibrate(Recording(head_file, lambda s=samples: s), bits=8)


def test_close_logits_stay_apart_where_far_ones_do_not_matter():
    """A few images with huge logits, many whose two best are close."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-10, 8, (200, 10))
    logits[:, 3], logits[:, 4] = 9.0 + 0.2 * rng.random((2, 200))
    logits[0] = np.where(np.arange(10) == 7, 60, -70)
    low, high = best_logits_range(logits)
    assert logits.min() < low < 0 < high < logits.max()

    def agreement(a, b):
        step = (b - a) / 255
        return np.mean(np.round(np.clip(logits, a, b) / step).argmax(1) == logits.argmax(1))

    assert agreement(low, high) > agreement(logits.min(), logits.max())


def test_logits_without_far_ones_keep_their_range():
    logits = np.linspace(-1, 2, 64 * 3).reshape(64, 3)
    assert best_logits_range(logits) == (-1.0, 2.0)
    assert best_logits_range(np.zeros((4, 3))) == (0.0, 0.0)
