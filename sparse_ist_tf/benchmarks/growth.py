"""What processes hold while they work, and how it grows with the rounds."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sample:
    """A process at one moment.

    Args:
        worker: its index, or -1 for the launcher.
        pid: its id; a worker that starts again has another.
        round: the run's.
        resident_kb: resident memory in KB of 1,024 bytes.
        threads: of the process.
    """

    worker: int
    pid: int
    round: int
    resident_kb: int
    threads: int


def take(worker: int, pid: int, round_: int) -> Sample | None:
    """Looks at a process; None where it has ended.

    Source: the manual page proc_pid_status(5).
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = [re.search(rf"^{name}:\s+(\d+)", text, re.M) for name in ("VmRSS", "Threads")]
    if not all(found):
        return None
    return Sample(worker, pid, round_, *(int(match[1]) for match in found))


def warmed_up(samples: Iterable[Sample], rounds: int) -> list[Sample]:
    """Without those of a process' first rounds, which make its graphs and buffers."""
    samples = list(samples)
    first: dict[int, int] = {}
    for sample in samples:
        first.setdefault(sample.pid, sample.round)
    return [sample for sample in samples if sample.round >= first[sample.pid] + rounds]


def rounds_seen(samples: Sequence[Sample]) -> int:
    """Rounds between the first and the last sample of each process, added up."""
    found: dict[int, list[int]] = {}
    for sample in samples:
        found.setdefault(sample.pid, []).append(sample.round)
    return sum(max(rounds) - min(rounds) for rounds in found.values())


def slope(samples: Sequence[Sample], what: str) -> float:
    """How much one more round adds, by least squares with a level of its own for each process.

    Args:
        samples: of one worker.
        what: resident_kb or threads.

    Returns:
        The slope; 0 where no process was seen at two rounds.
    """
    above, below = 0.0, 0.0
    for pid in {sample.pid for sample in samples}:
        mine = [sample for sample in samples if sample.pid == pid]
        rounds = np.array([sample.round for sample in mine], np.float64)
        values = np.array([getattr(sample, what) for sample in mine], np.float64)
        rounds -= rounds.mean()
        above += float(rounds @ (values - values.mean()))
        below += float(rounds @ rounds)
    return above / below if below else 0.0
