"""Restarts are given while they help."""

from sparse_ist_tf.workers.restarts import Restarts


def test_a_run_that_gets_no_further_is_given_up():
    stuck = Restarts(9, lambda: "checkpoint")
    assert [stuck.take() for _ in range(3)] == [True, True, False]
    steps = iter(range(9))
    moving = Restarts(5, lambda: next(steps))
    assert [moving.take() for _ in range(6)] == [True] * 5 + [False]
