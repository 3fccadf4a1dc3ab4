"""A drill: a fault that is made on purpose, what has to follow it, and what did."""

import dataclasses
import re
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sparse_ist_tf.errors import RunError

if TYPE_CHECKING:
    from sparse_ist_tf.benchmarks.faults.trial import Trial

TITLES = ("fault", "patience", "detected after", "named", "statuses", "same weights", "")
_SIDE_BY_SIDE = 60  # characters of what was named that a table shows


class NotPossible(RunError):
    """This machine doesn't allow a drill."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """What has to follow a fault; identical weights in the end always do.

    Args:
        statuses: exit statuses of the processes in the order of their start, 0 where they come
            through, minus the signal's number where one is killed.
        named: a pattern that the line which tells of the fault has to match, with groups where only
            parts of it are shown; "" where the fault is waited out, or nobody is left to tell.
        within_s: seconds until it must have been detected.
    """

    statuses: tuple[int, ...]
    named: str = ""
    within_s: float = 120.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What followed a fault.

    Args:
        statuses: exit statuses; None for a process that had to be killed in the end.
        line: what was said of the fault.
        detected_s: seconds from the fault until those who were to notice it had; None where it was
            waited out.
        is_same: whether the same command went on to the undisturbed run's weights.
    """

    statuses: tuple[int | None, ...]
    line: str = ""
    detected_s: float | None = None
    is_same: bool = False


@dataclasses.dataclass(frozen=True)
class Drill:
    """A fault and what has to follow.

    Args:
        name: short, for --drill.
        fault: what is done, for people.
        expected: what has to follow.
        do: makes it, in a trial of its own.
        peer_timeout_s: cluster.peer_timeout_s of its workers, seconds.
        is_of_folder: whether its images are a folder's, not the digits.
    """

    name: str
    fault: str
    expected: Expected
    do: Callable[["Trial"], Outcome]
    peer_timeout_s: float = 60.0
    is_of_folder: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """How a drill went.

    Args:
        drill: it.
        outcome: None where it couldn't be made, or came to no end.
        reason: why there is no outcome.
        is_possible: whether this machine allows it.
    """

    drill: Drill
    outcome: Outcome | None
    reason: str = ""
    is_possible: bool = True

    def shortcomings(self) -> list[str]:
        """In what it falls short of what is expected; nothing where this machine forbids it."""
        if not self.is_possible:
            return []
        if self.outcome is None:
            return [self.reason]
        found, expected = self.outcome, self.drill.expected
        out = []
        if found.statuses != expected.statuses:
            out.append(f"statuses must be {_statuses(expected.statuses)}")
        if expected.named and not re.search(expected.named, found.line):
            out.append(f"must say {expected.named!r}, said {found.line!r}")
        if found.detected_s is not None and found.detected_s > expected.within_s:
            out.append(f"must be detected within {expected.within_s:g} s")
        if not found.is_same:
            out.append("other weights than the undisturbed run's")
        return out

    def row(self) -> tuple[str, ...]:
        """Its line of the table, as TITLES."""
        drill, found = self.drill, self.outcome
        start = (drill.fault, f"{drill.peer_timeout_s:g} s")
        if found is None:
            what = "falls short" if self.is_possible else f"not run: {self.reason}"
            return (*start, "", "", "", "", what)
        seconds = "waited out" if found.detected_s is None else f"{found.detected_s:.1f} s"
        return (
            *start,
            seconds,
            self.named(),
            _statuses(found.statuses),
            "yes" if found.is_same else "no",
            "falls short" if self.shortcomings() else "",
        )

    def named(self) -> str:
        """What the line about the fault names."""
        pattern = self.drill.expected.named
        match = re.search(pattern, self.outcome.line) if pattern and self.outcome else None
        text = (" and ".join(match.groups()) or match[0]) if match else ""
        return text if len(text) <= _SIDE_BY_SIDE else f"{text[: _SIDE_BY_SIDE - 4]} ..."


def _statuses(statuses: Sequence[int | None]) -> str:
    return ", ".join(_status(status) for status in statuses)


def _status(status: int | None) -> str:
    if status is None:
        return "no end"
    return str(status) if status >= 0 else signal.Signals(-status).name
