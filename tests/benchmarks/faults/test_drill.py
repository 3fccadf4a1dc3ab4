"""A drill that falls short of what is expected is told of, whatever it falls short in."""

import signal

import pytest

from sparse_ist_tf.benchmarks.faults.drill import TITLES, Drill, Expected, Outcome, Result

EXPECTED = Expected((1, -signal.SIGKILL), r"lost worker 1 \(\S+:\d+\)", 10.0)
LINE = "error: worker 0 lost worker 1 (127.0.0.1:2222); the same command goes on"
GOOD = Outcome((1, -signal.SIGKILL), LINE, 3.0, True)


def _result(outcome, expected=EXPECTED, **more):
    return Result(Drill("kill", "a kill", expected, lambda trial: outcome), outcome, **more)


def test_what_is_as_expected_falls_short_of_nothing():
    result = _result(GOOD)
    assert result.shortcomings() == []
    assert dict(zip(TITLES, result.row(), strict=True)) == {
        "fault": "a kill",
        "patience": "60 s",
        "detected after": "3.0 s",
        "named": "lost worker 1 (127.0.0.1:2222)",
        "statuses": "1, SIGKILL",
        "same weights": "yes",
        "": "",
    }


def test_parts_are_shown_where_a_line_is_long():
    expected = Expected((1, -9), r"lost (worker \d).* goes (on)")
    assert _result(GOOD, expected).named() == "worker 1 and on"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome((0, -9), LINE, 3.0, True), "statuses must be 1, SIGKILL"),
        (Outcome((None, -9), LINE, 3.0, True), "statuses must be 1, SIGKILL"),
        (Outcome((1, -9), "error: worker 0 lost worker 2 (a:1)", 3.0, True), "must say"),
        (Outcome((1, -9), "", 3.0, True), "must say"),
        (Outcome((1, -9), LINE, 11.0, True), "must be detected within 10 s"),
        (Outcome((1, -9), LINE, 3.0, False), "other weights"),
    ],
)
def test_each_shortcoming_is_told(outcome, words):
    result = _result(outcome)
    (found,) = result.shortcomings()
    assert found.startswith(words)
    assert result.row()[-1] == "falls short"


def test_what_comes_to_no_end_falls_short_and_what_is_not_possible_does_not():
    assert _result(None, reason="no checkpoint").shortcomings() == ["no checkpoint"]
    result = _result(None, reason="needs root", is_possible=False)
    assert result.shortcomings() == []
    assert result.row()[-1] == "not run: needs root"
