"""The folder where a comparison is made, and the commands that run there."""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.benchmarks.faults.processes import is_alive
from sparse_ist_tf.workers.launch import LIFELINE, threads_per_worker

_RUNNING = "running_"
_THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Workplace:
    """What a comparison has found so far, and the features that its trainings share.

    Args:
        folder: is made, and stays; the same one goes on where it stopped.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()

    def train(self, keys: Sequence[str], workdir: Path, *more: str) -> list[str]:
        """The command that trains.

        Args:
            keys: of the configuration, NAME=VALUE; later ones hold.
            workdir: the run directory.
            more: arguments behind them.
        """
        cache = f"features.cache_dir={self.folder / 'features'}"
        return [
            *(sys.executable, "-m", "sparse_ist_tf.train", f"--workdir={workdir}"),
            *(f"--config.{key}" for key in (cache, "centralized_baseline=False", *keys)),
            *more,
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[Path]:
        """A folder for workers, which goes with this context; with the next if it is killed."""
        for left in self.folder.glob(f"{_RUNNING}*"):
            if not is_alive(int(left.name.removeprefix(_RUNNING))):
                shutil.rmtree(left, ignore_errors=True)
        folder = self.folder / f"{_RUNNING}{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def environment(num_workers: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a worker finds in its environment.

    Args:
        num_workers: that share this machine's cores.
        extra: beside what is here.
    """
    kept = {name: text for name, text in os.environ.items() if name not in ("TF_CONFIG", LIFELINE)}
    kept |= dict.fromkeys(_THREADS, str(threads_per_worker(num_workers)))
    kept |= {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE", "PYTHONUNBUFFERED": "1"}
    return kept | dict(extra or {})


@contextlib.contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is in this context as Ctrl-C does, with all that it started."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _: object) -> None:
    raise SystemExit(128 + number)
