"""Accuracy by round of each setting, from a training by one worker without a link.

It depends neither on the link nor on the number of workers, so that it is trained once, to the end.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

from sparse_ist_tf.benchmarks.cluster.settings import DATASETS, SETTINGS
from sparse_ist_tf.benchmarks.cluster.workplace import Workplace, environment
from sparse_ist_tf.benchmarks.faults.processes import Process, wait_until
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.reports.run_directory import RunDirectory

_FOREVER_S = 1e6  # a training takes what it takes
_EVERY_EPOCH = ("eval_every_rounds=0", "eval_every_epochs=1.0")
_SELDOM = ("checkpoint_every_rounds=0", "checkpoint_every_epochs=3.0")
_ONE_STEP = ("total_epochs=0.0", "total_steps=1", "total_examples=0")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        dataset: one of DATASETS.
        setting: one of SETTINGS.
        overrides: keys of the configuration that hold for all, NAME=VALUE; those of the setting
            hold before them.
    """

    dataset: str
    setting: str
    overrides: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the configuration."""
        return (*DATASETS[self.dataset], *self.overrides, *SETTINGS[self.setting])

    @property
    def name(self) -> str:
        """Of a folder: the same for the same keys."""
        digest = hashlib.sha256("\n".join(self.keys).encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.setting}-{digest}"


@dataclasses.dataclass(frozen=True)
class Point:
    """An evaluation of the merged head.

    Args:
        round: rounds done.
        accuracy: on the test split, in [0, 1].
    """

    round: int
    accuracy: float


def curve(workplace: Workplace, case: Case) -> list[Point]:
    """Accuracy by round: trained where it isn't there yet, and gone on with where it stopped.

    Args:
        workplace: where.
        case: what.

    Raises:
        RunError: if the training fails.
    """
    folder = workplace.folder / "trainings" / case.name
    keys = (*_EVERY_EPOCH, *_SELDOM, *case.keys)
    if not (folder / "results.json").exists():
        _train(workplace, f"{case.name}.txt", workplace.train(keys, folder, "--num_workers=1"))
    records = RunDirectory(folder).metrics()
    return [Point(record["round"], record["test_accuracy"]) for record in records]


def rounds_to(points: Sequence[Point], accuracy: float) -> int | None:
    """Rounds until a training first has an accuracy; None where it never has.

    Args:
        points: of the training.
        accuracy: in [0, 1].
    """
    return next((point.round for point in points if point.accuracy >= accuracy), None)


def encode(workplace: Workplace, case: Case) -> None:
    """Makes sure that features lie where workers find them, so that none cross a thin link.

    Args:
        workplace: where.
        case: whose features.

    Raises:
        RunError: if they can't be made.
    """
    folder = workplace.folder / "encodings" / case.name
    if not (folder / "results.json").exists():
        keys = (*case.keys, *_ONE_STEP)
        _train(workplace, f"{case.name}.txt", workplace.train(keys, folder, "--num_workers=1"))


def _train(workplace: Workplace, output: str, command: Sequence[str]) -> None:
    workplace.folder.mkdir(parents=True, exist_ok=True)
    process = Process(command, environment(1), workplace.folder / output)
    try:
        wait_until(lambda: process.status is not None, _FOREVER_S)
        if process.status:
            said = process.told() or f"status {process.status}"
            raise RunError(f"a training by one worker failed: {said}")
    finally:
        process.kill()
