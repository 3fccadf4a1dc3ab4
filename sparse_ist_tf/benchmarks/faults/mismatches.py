"""Drills of workers that are about to do different things, or have other images."""

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sparse_ist_tf.benchmarks.faults.drill import Drill, Expected, Outcome
from sparse_ist_tf.benchmarks.faults.pictures import exchange_classes, leave_out
from sparse_ist_tf.benchmarks.faults.processes import ends
from sparse_ist_tf.benchmarks.faults.trial import END_S, RUN_S, Trial

# What worker 1 alone is told.
_KEYS = {
    "dataset.split_seed": "1",
    "masks.ratio": "0.25",
    "seed": "1",
    "learning_rate": "0.002",
    "total_epochs": "21",
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
            Expected((2, 2), rf"{re.escape(key)}: worker 1 has \S*{value}\S*, worker 0 has [^:]+"),
            _differ(key, value),
        )
    for name, fault, count, what in (
        ("exchanged-classes", "a worker's images: two classes exchanged", None, "contents"),
        ("missing-file", "a worker's images: one file missing", 1, "images"),
        ("missing-files", "a worker's images: 20 of 160 files missing", 20, "images"),
    ):
        yield Drill(
            name,
            fault,
            Expected((2, 2), rf"{what} of \w+: worker 1 has .*, worker 0 has [^:]+"),
            _lack(count),
            is_of_folder=True,
        )
    yield Drill(
        "copied-folder",
        "a worker's images: the same in another place",
        Expected((0, 0)),
        _copy,
        is_of_folder=True,
    )


def _differ(key: str, value: str) -> Callable[[Trial], Outcome]:
    return lambda trial: _refused(trial, (), (f"--config.{key}={value}",))


def _lack(count: int | None) -> Callable[[Trial], Outcome]:
    """One worker lacks some files, or has two classes exchanged where None."""

    def lack(trial: Trial) -> Outcome:
        source, copy = _folders(trial)
        if count is None:
            exchange_classes(source, copy)
        else:
            leave_out(source, copy, count)
        return _refused(trial, (_of(source),), (_of(copy),))

    return lack


def _copy(trial: Trial) -> Outcome:
    source, copy = _folders(trial)
    leave_out(source, copy, 0)
    pair = trial.start_pair(((_of(source),), (_of(copy),)))
    return trial.outcome(ends(pair, RUN_S), pair[0].told(), None, (_of(source),))


def _folders(trial: Trial) -> tuple[Path, Path]:
    """The undisturbed run's folder of images, and one that the trial may make."""
    return trial.folder.parent / "images", trial.folder / "images"


def _of(folder: Path) -> str:
    return f"--config.dataset.name=folder:{folder}"


def _refused(trial: Trial, chief: tuple[str, ...], other: tuple[str, ...]) -> Outcome:
    """Both must end; then the chief's command, on the cache that they had, as if nothing was."""
    pair = trial.start_pair((chief, other))
    statuses = ends(pair, END_S)
    detected = time.monotonic() - pair[0].started
    lines = {process.told() for process in pair}
    if len(lines) > 1:  # all must say the same
        return Outcome((None,), " | ".join(sorted(lines)), detected)
    return trial.outcome(statuses, lines.pop(), detected, chief)
