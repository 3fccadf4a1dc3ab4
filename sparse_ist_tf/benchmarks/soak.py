"""A training that loses a worker again and again, for as long as is wanted."""

import dataclasses
import os
import random
import re
import signal
import time

from sparse_ist_tf.benchmarks import growth
from sparse_ist_tf.benchmarks.faults.processes import Process, ends, local_workers
from sparse_ist_tf.benchmarks.faults.trial import RUN_S, Trial, Workshop, same_weights
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.reports.report import format_table

NUM_WORKERS = 4
_LOCAL_STEPS = 4
_NEVER = 1_000_000  # rounds, more than there is time for
_EVERY_S = 1.0  # between two samples
_WARM_UP = 100  # rounds: some evaluations and checkpoints
# What is flat: 2,000 rounds add less than 16 MB and 20 threads.
_MOST_KB, _MOST_THREADS = 8.0, 0.01
_LAUNCHER = -1
_TITLES = ("process", "lives", "rounds", "MB in the end", "KB per round", "threads per round", "")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long, and how often.

    Args:
        minutes: how long workers train.
        every_minutes: from one kill to the next.
        seed: of which worker is killed.
    """

    minutes: float
    every_minutes: float
    seed: int


def soak(plan: Plan) -> int:
    """Kills workers of a training, which its launcher starts again, and prints what that leaves.

    Behind it the same rounds are trained, on the same cache of features, by one worker that nothing
    happens to.

    Args:
        plan: of it.

    Returns:
        1 if the weights differ, or memory or threads grow; else 0.

    Raises:
        RunError: if a training ends on its own.
    """
    with Workshop() as workshop:
        trial = Trial(workshop.folder / "soak", 60.0, None)
        with trial:
            samples, kills = _disturb(plan, trial)
        rounds = trial.newest()
        with Trial(workshop.folder / "alone", 60.0, trial.folder) as alone:
            steps = f"--config.total_steps={_LOCAL_STEPS * rounds}"
            process = alone.launch("--num_workers=1", "--config.total_epochs=0", steps)
            if any(ends([process], RUN_S + 120 * plan.minutes)):
                raise RunError(f"the undisturbed run ended with {process.told()!r}")
            is_same = same_weights(trial.workdir, alone.workdir)
    rows, is_flat = _table(growth.warmed_up(samples, _WARM_UP))
    print(
        f"Soak: {plan.minutes:g} minutes, {NUM_WORKERS} workers on loopback, {rounds:,} rounds; "
        f"killed every {plan.every_minutes:g} minutes: worker {', '.join(map(str, kills))}"
    )
    print(format_table(rows))
    print(
        f"Weights {'as' if is_same else 'OTHER than'} those of one worker undisturbed, bit by bit"
    )
    return 0 if is_same and is_flat else 1


def _disturb(plan: Plan, trial: Trial) -> tuple[list[growth.Sample], list[int]]:
    """Samples of a training whose workers are killed, and the workers that were killed."""
    chance, samples, kills = random.Random(plan.seed), [], []
    launcher = trial.launch(
        *(f"--num_workers={NUM_WORKERS}", f"--max_restarts={_NEVER}"),
        *("--config.total_epochs=0", f"--config.total_steps={_LOCAL_STEPS * _NEVER}"),
    )
    bar = _Bar(launcher)
    now = time.monotonic()
    end, kill_at = now + 60 * plan.minutes, now + 60 * plan.every_minutes
    seen = 0
    while time.monotonic() < end:
        if launcher.status is not None:
            raise RunError(f"the training ended with {launcher.told()!r}")
        workers = local_workers(launcher.pid)
        round_ = bar.round(workers)
        if round_ and len(workers) == NUM_WORKERS:
            pids = {_LAUNCHER: launcher.pid, **dict(enumerate(workers))}
            found = (growth.take(worker, pid, round_) for worker, pid in pids.items())
            samples += [sample for sample in found if sample]
            # Restarts that bring a run no further are given up.
            if time.monotonic() > kill_at and trial.newest() > seen:
                kills.append(chance.randrange(NUM_WORKERS))
                os.kill(workers[kills[-1]], signal.SIGKILL)
                kill_at, seen = kill_at + 60 * plan.every_minutes, trial.newest()
        time.sleep(_EVERY_S)
    launcher.send(signal.SIGTERM)
    status = ends([launcher], RUN_S)[0]
    if status != 128 + signal.SIGTERM:
        raise RunError(f"SIGTERM ended the training with {status}: {launcher.told()!r}")
    return samples, kills


class _Bar:
    """Reads off a launcher's output how far its workers of today are.

    Args:
        launcher: of the workers.
    """

    def __init__(self, launcher: Process):
        self._output = launcher.output
        self._workers: list[int] = []
        self._from = 0

    def round(self, workers: list[int]) -> int:
        """The round; 0 where these workers have said nothing yet."""
        size = self._output.stat().st_size
        if workers != self._workers:
            self._workers, self._from = workers, size
        with open(self._output, "rb") as file:
            file.seek(max(self._from, size - 4096))
            text = file.read().decode(errors="replace")
        found = re.findall(rf" ([\d,]+) of {_NEVER:,},", text)
        return int(found[-1].replace(",", "")) if found else 0


def _table(samples: list[growth.Sample]) -> tuple[list[tuple[str, ...]], bool]:
    """Rows of what each process held, and whether none of it grows."""
    rows: list[tuple[str, ...]] = [_TITLES]
    is_flat = True
    for worker in (*range(NUM_WORKERS), _LAUNCHER):
        mine = [sample for sample in samples if sample.worker == worker]
        kilobytes, threads = (growth.slope(mine, what) for what in ("resident_kb", "threads"))
        grows = not mine or kilobytes > _MOST_KB or threads > _MOST_THREADS
        is_flat = is_flat and not grows
        rows.append(
            (
                "launcher" if worker == _LAUNCHER else f"worker {worker}",
                f"{len({sample.pid for sample in mine})}",
                f"{growth.rounds_seen(mine):,}",
                f"{mine[-1].resident_kb / 1024:.0f}" if mine else "",
                f"{kilobytes:.2f}",
                f"{threads:.5f}",
                ("grows" if mine else "not seen") if grows else "",
            )
        )
    return rows, is_flat
