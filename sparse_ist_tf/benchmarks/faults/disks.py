"""Drills of what goes wrong in a run directory."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparse_ist_tf.benchmarks.faults.drill import Drill, Expected, Outcome
from sparse_ist_tf.benchmarks.faults.processes import Process, ends, expect
from sparse_ist_tf.benchmarks.faults.trial import END_S, RUN_S, Trial

_KILLED = -signal.SIGKILL
_CHECKPOINT = r"round_\d+\.safetensors"


def drills() -> Iterable[Drill]:
    """The drills of this file."""
    yield Drill(
        "full-disk",
        f"a disk that is full while checkpoints are written ({_way()})",
        Expected((1, 1), rf"{_CHECKPOINT} can't be written: [^:]+"),
        _fill_disk,
    )
    yield Drill(
        "truncated",
        "a checkpoint cut to half of its length",
        Expected((_KILLED, _KILLED), rf"{_CHECKPOINT} is damaged"),
        _truncate,
    )
    yield Drill(
        "two-runs",
        "two runs in one directory",
        Expected((2, 0, 0), "--workdir=.*: (another process is at work there)"),
        _start_twice,
        peer_timeout_s=120.0,
    )


def _way() -> str:
    return "a small tmpfs" if os.geteuid() == 0 else "RLIMIT_FSIZE"


def _fill_disk(trial: Trial) -> Outcome:
    with _small_disk(trial.workdir) as disk:
        pair = trial.start_pair()
        trial.reach_checkpoint(pair, count=2)  # the third is the next that is written
        disk.fill(pair[0])
        start = time.monotonic()
        statuses = ends(pair, END_S)
        detected = time.monotonic() - start
        line = pair[0].told()
        disk.empty()
        return trial.outcome(statuses, line, detected)


class _SmallDisk:
    """A file system that has room for what is there, and no more, from one moment on.

    Args:
        folder: where it is.
        is_mounted: whether it is one of its own; else a limit of the process stands for it.
    """

    def __init__(self, folder: Path, is_mounted: bool):
        self._folder, self._is_mounted = folder, is_mounted

    def fill(self, process: Process) -> None:
        """From now on nothing larger than a page of memory finds room.

        Args:
            process: that writes there.
        """
        if self._is_mounted:
            ballast = self._folder / "ballast"
            with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            return
        limit = max(path.stat().st_size for path in self._folder.glob("checkpoints/*")) // 2
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))

    def empty(self) -> None:
        """Makes room."""
        (self._folder / "ballast").unlink(missing_ok=True)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[_SmallDisk]:
    is_mounted = False
    if os.geteuid() == 0:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        is_mounted = subprocess.run(command, capture_output=True).returncode == 0
        if not is_mounted:
            folder.rmdir()
    try:
        yield _SmallDisk(folder, is_mounted)
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _truncate(trial: Trial) -> Outcome:
    pair = trial.start_pair()
    trial.reach_checkpoint(pair, count=2)
    for process in pair:
        process.send(signal.SIGKILL)
    statuses = ends(pair, END_S)
    newest = max(trial.workdir.glob("checkpoints/round_*.safetensors"))
    os.truncate(newest, newest.stat().st_size // 2)
    again = trial.start_pair()
    expect(lambda: bool(_warning(again[0])), END_S, "a warning of it")
    detected, line = time.monotonic() - again[0].started, _warning(again[0])
    if any(ends(again, RUN_S)):
        line = again[0].told()
    return trial.outcome(statuses, line, detected)


def _warning(process: Process) -> str:
    match = re.search("^warning: .*damaged.*", process.text(), re.M)
    return match[0] if match else ""


def _start_twice(trial: Trial) -> Outcome:
    """The first pair sleeps while another process finds its directory taken."""
    pair = trial.start_pair()
    trial.reach_checkpoint(pair)
    for process in pair:
        process.send(signal.SIGSTOP)
    second = trial.launch("--num_workers=1")
    statuses = ends([second], END_S)
    detected = time.monotonic() - second.started
    for process in pair:
        process.send(signal.SIGCONT)
    return trial.outcome(statuses + ends(pair, RUN_S), second.told(), detected)
