"""Growth with the rounds is measured within the lives of processes, not between them."""

import os

import pytest

from sparse_ist_tf.benchmarks.growth import Sample, rounds_seen, slope, take, warmed_up


def _life(pid, level, grows, rounds=range(0, 100, 10)):
    return [Sample(0, pid, r, level + grows * r, 40 + (r >= 50)) for r in rounds]


def test_levels_of_lives_do_not_count_as_growth():
    samples = _life(1, 1000, 3) + _life(2, 90_000, 3, range(40, 140, 10))
    assert slope(samples, "resident_kb") == pytest.approx(3)
    assert rounds_seen(samples) == 180


def test_first_rounds_are_left_out_of_each_life():
    kept = warmed_up(_life(1, 0, 0) + _life(2, 0, 0, range(40, 140, 10)), 50)
    assert min(s.round for s in kept if s.pid == 1) == 50
    assert min(s.round for s in kept if s.pid == 2) == 90
    assert slope(warmed_up(_life(1, 0, 0), 50), "threads") == 0


def test_one_round_alone_has_no_slope():
    assert slope(_life(1, 5, 5, [3, 3]), "resident_kb") == 0
    assert slope([], "threads") == 0


def test_a_process_is_looked_at():
    found = take(2, os.getpid(), 7)
    assert (found.worker, found.round) == (2, 7)
    assert found.resident_kb > 1000
    assert found.threads >= 1
    assert take(0, 2**22 + 1, 7) is None
