"""A cell: some rounds of real workers, each on a host of its own, over links of one shape."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

from sparse_ist_tf.benchmarks.cluster.hosts.network import Hosts
from sparse_ist_tf.benchmarks.cluster.hosts.quota import held_to
from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.benchmarks.cluster.trainings import Case
from sparse_ist_tf.benchmarks.cluster.workplace import Workplace, environment
from sparse_ist_tf.benchmarks.faults.processes import Process
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.runs.rounds_log import read_rounds

WARM_UP = 1  # rounds, in which graphs are made
LEAST, _MOST = 2, 500  # rounds
_PATIENCE_S = 1800.0  # for a round, as long as a collective waits
_POLL_S = 0.05
_NEVER = 1_000_000_000  # rounds
# Between measured rounds nothing is tested or kept; a busy machine starts workers slowly.
_UNDISTURBED = (
    *(f"eval_every_rounds={_NEVER}", "eval_every_epochs=0.0"),
    *(f"checkpoint_every_rounds={_NEVER}", "checkpoint_every_epochs=0.0"),
    "cluster.peer_timeout_s=300.0",
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is measured.

    Args:
        case: what the workers train.
        num_workers: P.
        shape: of every host's link.
        congestion: TCP's way to meet a full link.
        rounds: how many; 0 for as many as fit.
        seconds: that they take together where rounds is 0; two are measured in any case.
        weak_share: of a core, that the last worker has; 0 where it has what the others have.
    """

    case: Case
    num_workers: int
    shape: LinkShape
    congestion: str
    rounds: int = 0
    seconds: float = 60.0
    weak_share: float = 0.0

    @property
    def digest(self) -> str:
        """The same for cells that are measured alike."""
        text = json.dumps([dataclasses.asdict(self), self.case.keys])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        weak = f", the last worker at {self.weak_share} of a core" if self.weak_share else ""
        case = self.case
        return f"{case.dataset}, {self.num_workers} workers, {self.shape}, {case.setting}{weak}"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a round costs, the mean over some where nothing else is said.

    Args:
        rounds: over how many.
        steps: local steps of one.
        seconds: from the end of a round to the end of the next one.
        ledger: bytes that each worker sent, as it counts them.
        kernel: bytes that each worker's host sent, as its kernel counts them, with all headers.
        shortest: seconds of a round in the two in a row that took the least, where the machine had
            the least else to do. One by itself may be short because the one before ended late.
            0 where a file doesn't have it.
    """

    rounds: int
    steps: int
    seconds: float
    ledger: tuple[float, ...]
    kernel: tuple[float, ...]
    shortest: float = 0.0


def measure(cell: Cell, workplace: Workplace) -> Measured:
    """Has the workers of a cell train until enough rounds are over, and ends them.

    Args:
        cell: what.
        workplace: where; the features have to be there.

    Raises:
        RequestError: if this machine can't have hosts.
        RunError: if a worker ends before.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(workplace.running())
        hosts = stack.enter_context(Hosts(cell.num_workers, cell.shape, cell.congestion))
        crew = _Crew(cell, workplace, hosts, folder)
        stack.callback(crew.end)
        first = WARM_UP
        if cell.weak_share:
            crew.reach(first)
            stack.callback(crew.end)
            stack.enter_context(held_to(cell.weak_share, crew.processes[-1].pid))
            stack.callback(crew.end)  # before the control group goes
            first = crew.rounds() + WARM_UP
        crew.reach(first)
        start = time.monotonic()
        crew.reach(first + (cell.rounds or LEAST))
        while not cell.rounds and crew.rounds() < first + _MOST:
            if time.monotonic() - start > cell.seconds or not crew.goes_on():
                break
        crew.end()
        return mean_of([read_rounds(path) for path in crew.logs], first)


class _Crew:
    """The workers of a cell.

    Args:
        cell: of it.
        workplace: where.
        hosts: one for each.
        folder: for what they write.
    """

    def __init__(self, cell: Cell, workplace: Workplace, hosts: Hosts, folder: Path):
        workers = range(cell.num_workers)
        self.logs = [folder / "rounds" / f"worker_{worker}.jsonl" for worker in workers]
        self.processes: list[Process] = []
        keys = (*cell.case.keys, *_UNDISTURBED)
        command = workplace.train(keys, folder / "run", f"--rounds_log={folder / 'rounds'}")
        for worker in workers:
            task = {"type": "worker", "index": worker}
            config = json.dumps({"cluster": {"worker": hosts.addresses}, "task": task})
            self.processes.append(
                Process(
                    hosts.within(worker, command),
                    environment(cell.num_workers, {"TF_CONFIG": config}),
                    folder / f"output_{worker}.txt",
                )
            )

    def rounds(self) -> int:
        """Rounds that all have done."""
        return min(log.read_bytes().count(b"\n") if log.exists() else 0 for log in self.logs)

    def goes_on(self) -> bool:
        """Waits a moment; whether all are still at work then, or have done it.

        Raises:
            RunError: if one has failed.
        """
        time.sleep(_POLL_S)
        for worker, process in enumerate(self.processes):
            if process.status:
                said = process.told() or f"status {process.status}"
                raise RunError(f"worker {worker} ended: {said}")
        return all(process.status is None for process in self.processes)

    def reach(self, rounds: int) -> None:
        """Waits until all have done some rounds, or the training is over.

        Raises:
            RunError: if a round takes too long, or a worker ends.
        """
        seen, deadline = self.rounds(), time.monotonic() + _PATIENCE_S
        while (now := self.rounds()) < rounds and self.goes_on():
            if now > seen:
                seen, deadline = now, time.monotonic() + _PATIENCE_S
            if time.monotonic() > deadline:
                raise RunError(f"no round within {_PATIENCE_S:g} s, after {now}")

    def end(self) -> None:
        """Ends them at once: a checkpoint over a thin link would take longer than the rounds."""
        for process in self.processes:
            process.kill()


def mean_of(logs: Sequence[Sequence[dict]], first: int) -> Measured:
    """What a round cost, from what each worker noted of each.

    Args:
        logs: lines of each worker, as RoundsLog has them.
        first: rounds that are not measured.

    Raises:
        RunError: if too few are left; a last round with fewer steps is not one.
    """
    last = min(len(log) for log in logs)
    done = [record["step"] for record in logs[0]]
    steps = [end - start for start, end in itertools.pairwise(done)]
    while last > first and steps[last - 2] != steps[first - 1]:
        last -= 1
    count = last - first
    if count < LEAST:
        raise RunError(
            f"{max(0, count)} rounds to measure behind {first} to warm up: must be at least {LEAST}"
        )
    spans = [(log[first - 1], log[last - 1]) for log in logs]

    ends = [max(record["seconds"] for record in records) for records in zip(*logs, strict=False)]
    some = ends[first - 1 : last]

    def sent(record: dict) -> int:
        return sum(record["sent"].values())

    return Measured(
        count,
        steps[first - 1],
        max(end["seconds"] - start["seconds"] for start, end in spans) / count,
        tuple((sent(end) - sent(start)) / count for start, end in spans),
        tuple(
            (end["interfaces"]["sent"] - start["interfaces"]["sent"]) / count
            for start, end in spans
        ),
        min(end - start for start, end in zip(some, some[2:], strict=False)) / 2,
    )
