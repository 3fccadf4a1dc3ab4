"""Drills of workers that are about to do different things, or have other images."""

import re
import time
from collections.abc import Callable, Iterable

from sparse_ist_tf.benchmarks.faults.drill import Drill, Expected, Outcome
from sparse_ist_tf.benchmarks.faults.pictures import exchange_classes, leave_out
from sparse_ist_tf.benchmarks.faults.processes import ends
from sparse_ist_tf.benchmarks.faults.trial import Trial

_END_S = 90.0
# What worker 1 alone is told.
_KEYS = {
    "dataset.split_seed": "1",
    "masks.ratio": "0.25",
    "seed": "1",
    "learning_rate": "0.002",
    "total_epochs": "31",
    "eval_every_rounds": "41",
    "checkpoint_every_rounds": "21",
    "ist.local_steps": "5",
    "batch_size": "32",
    "ist.num_subnets": "2",
    "optimizer.name": "sgd",
}


def drills() -> Iterable[Drill]:
    """The drills of this file."""
    for key, value in _KEYS.items():
        yield Drill(
            key,
            f"a worker with another {key}",
            Expected((2, 2), rf"{re.escape(key)}: worker 1 has \S*{value}\S*, worker 0 has \S+"),
            _differ(key, value),
        )
    for name, fault, count in (
        ("exchanged-classes", "a worker's images: two classes exchanged", None),
        ("missing-file", "a worker's images: one file missing", 1),
        ("missing-files", "a worker's images: 20 of 160 files missing", 20),
    ):
        yield Drill(
            name,
            fault,
            Expected((2, 2), "[^:]*: worker 1 has .*, worker 0 has [^:]*"),
            _lack(count),
            is_of_folder=True,
        )


def _differ(key: str, value: str) -> Callable[[Trial], Outcome]:
    return lambda trial: _refused(trial, (), (f"--config.{key}={value}",))


def _lack(count: int | None) -> Callable[[Trial], Outcome]:
    """One worker lacks some files, or has two classes exchanged where None."""

    def lack(trial: Trial) -> Outcome:
        source, copy = trial.folder.parent / "images", trial.folder / "images"
        if count is None:
            exchange_classes(source, copy)
        else:
            leave_out(source, copy, count)
        names = [f"--config.dataset.name=folder:{path}" for path in (source, copy)]
        return _refused(trial, (names[0],), (names[1],))

    return lack


def _refused(trial: Trial, chief: tuple[str, ...], other: tuple[str, ...]) -> Outcome:
    """Both must end; then the chief's command, on the cache that they had, as if nothing was."""
    pair = trial.start_pair((chief, other))
    statuses = ends(pair, _END_S)
    detected = time.monotonic() - pair[0].started
    lines = {process.told() for process in pair}
    if len(lines) > 1:  # all must say the same
        return Outcome((None,), " | ".join(sorted(lines)), detected)
    return trial.outcome(statuses, lines.pop(), detected, chief)
