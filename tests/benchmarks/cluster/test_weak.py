"""Capacities that fit workers of different speeds."""

import pytest

from sparse_ist_tf.benchmarks.cluster.weak import fitting, speeds


def test_equal_speeds_have_equal_shares():
    assert fitting((0.5,) * 4, 1000, 192) == (0.25,) * 4


@pytest.mark.parametrize("speed", [(0.6, 0.6, 0.6, 0.1), (1.0, 0.5)])
def test_all_need_the_same_time(speed):
    shares = fitting(speed, 1000, 192)
    assert sum(shares) == pytest.approx(1, abs=0.003)
    times = [(192e3 * c + (1000 * c) ** 2) / s for c, s in zip(shares, speed, strict=True)]
    assert max(times) == pytest.approx(min(times), rel=0.03)


def test_a_weak_worker_has_a_tenth_of_a_core():
    assert speeds(2) == pytest.approx((1.9 / 3,) * 3 + (0.1,))
    assert speeds(16) == (1.0, 1.0, 1.0, 0.1)
