"""Runs the trainings of a study, some at a time, each as a train command of its own."""

import contextlib
import os
import pprint
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.files import write_file, writing
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.shown.bars import Bar
from sparse_ist_tf.studies.grid import Cell
from sparse_ist_tf.workers.launch import LIFELINE, threads_per_worker

PATIENCE_S = 26.0  # until a training that is stopped has kept its checkpoint

_FILE = '''"""A training of a study.

    {command}
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The settings."""
    return ConfigDict(
{values}
    )
'''


def command_of(cell: Cell, folder: Path) -> list[str]:
    """What follows `python -m` in the command that trains a cell."""
    place = folder / "cells" / cell.name
    return [
        "sparse_ist_tf.train",
        f"--config={place}.py",
        f"--workdir={place}",
        f"--num_workers={cell.num_workers}",
    ]


def run_cells(cells: Sequence[Cell], folder: Path, jobs: int) -> None:
    """Trains the cells that aren't finished; one that fails doesn't stop the others.

    Cells that share their features wait until the first of them has put them into the cache. Those
    that share none, as random masks are encoded anew in every epoch, take longest and start first.

    Args:
        cells: of all grids; the same one may be there twice.
        folder: of the study.
        jobs: worker processes at a time; a training that has more of them runs alone.

    Raises:
        RunError: if a file can't be written.
    """
    todo = {cell.name: cell for cell in cells}
    finished = {name for name, cell in todo.items() if _is_finished(cell, folder)}
    # The time left is told by the trainings of this call, not by those that were there.
    bar = Bar(len(todo), "trainings", "trainings", initial=len(finished))
    waiting = [cell for name, cell in todo.items() if name not in finished]
    waiting.sort(key=lambda cell: cell.features != "")
    encoded = {todo[name].features for name in finished}
    running: dict[str, tuple[Cell, subprocess.Popen]] = {}
    failed = 0
    with bar, contextlib.ExitStack() as stack:
        stack.callback(_stop, running)
        while waiting or running:
            for name, (cell, process) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    process.communicate()  # which closes the lifeline
                    failed += process.returncode != 0
                    _note_signal(process.returncode, folder / "cells" / f"{name}.log")
                    encoded.add(cell.features)
                    bar.update(1)
            for name, (cell, _) in running.items():
                if (folder / "cells" / name / "metrics.jsonl").exists():  # behind the encoding
                    encoded.add(cell.features)
            while len(running) < jobs:
                busy = {cell.features for cell, _ in running.values()} - encoded - {""}
                left = jobs - sum(cell.num_workers for cell, _ in running.values())
                free = [c for c in waiting if c.num_workers <= left or not running]
                cell = next((cell for cell in free if cell.features not in busy), None)
                if cell is None:
                    break
                waiting.remove(cell)
                running[cell.name] = (cell, _start(cell, folder, jobs))
            state = [f"{len(running)} at work", *[f"{failed} failed"] * bool(failed)]
            bar.update(0, state)  # the time goes on while no training ends
            time.sleep(0.1)


def _is_finished(cell: Cell, folder: Path) -> bool:
    try:
        return RunDirectory(folder / "cells" / cell.name).results() is not None
    except RunError:  # its results are damaged: the training says so again
        return False


def _note_signal(status: int, log: Path) -> None:
    """Says in the log of a training that was ended from outside what it could not say itself."""
    if status < 0:
        text = f"\nerror: it was ended by signal {-status} ({signal.strsignal(-status)})\n"
        with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
            file.write(text)


def _start(cell: Cell, folder: Path, jobs: int) -> subprocess.Popen:
    command = command_of(cell, folder)
    place = folder / "cells" / cell.name
    values = pprint.pformat(cell.config.to_dict(), width=90)
    values = "\n".join(f"        {line}" for line in values.splitlines())
    text = _FILE.format(command=f"python -m {' '.join(command)}", values=values)
    write_file(place.with_name(f"{cell.name}.py"), text)
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    threads = dict.fromkeys(names, str(threads_per_worker(max(jobs, cell.num_workers))))
    environment = threads | os.environ | {LIFELINE: "1"}  # ends with this process, however it ends
    path = place.with_name(f"{cell.name}.log")
    with writing(path), open(path, "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(running) -> None:
    for _, process in running.values():
        process.terminate()
    deadline = time.monotonic() + PATIENCE_S
    for _, process in running.values():
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
