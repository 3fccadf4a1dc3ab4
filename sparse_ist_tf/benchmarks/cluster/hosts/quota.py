"""Holds a process to a share of a core: a weak device.

A process of its own, which lasts until its standard input ends, so that no control group outlives
those who wanted it. Where the system has no control group of processors that can be written, the
process is stopped and let go on in turns.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/scheduler/sched-bwc.html.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sparse_ist_tf.errors import RunError

_PERIOD_US = 100_000
_PARENTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct")
_REMOVE_S = 5.0


@contextlib.contextmanager
def held_to(share: float, process: int, may_group: bool = True) -> Iterator[str]:
    """Holds a process, with all its threads, to a share of a core as long as this context lasts.

    Args:
        share: of one core, above 0.
        process: its id.
        may_group: False for turns even where control groups can be had.

    Yields:
        How: "control group" or "turns".

    Raises:
        RunError: if the process is gone, or can't be held.
    """
    command = [sys.executable, "-m", __spec__.name, str(share), str(process), str(int(may_group))]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as holder:
        way = holder.stdout.readline().decode().strip()
        try:
            if not way:
                raise RunError(f"process {process} can't be held to {share:g} of a core")
            yield way
        finally:
            holder.stdin.close()


def hold(share: float, process: int, may_group: bool) -> None:
    """Holds a process until standard input ends.

    Args:
        share: of one core.
        process: its id.
        may_group: as of held_to.

    Raises:
        OSError: if the process is gone.
    """
    group = _group(share) if may_group else None
    if group is None:
        _say("turns")
        _take_turns(share, process)
        return
    before = group.parent
    try:
        before = _group_of(process, group)
        (group / "cgroup.procs").write_text(str(process))
        _say("control group")
        sys.stdin.read()
    finally:
        with contextlib.suppress(OSError):  # gone, mostly
            (before / "cgroup.procs").write_text(str(process))
        _remove(group)


def _say(way: str) -> None:
    print(way, flush=True)


def _group(share: float) -> Path | None:
    """A new control group with that share, of version 1 or 2; None where none can be had."""
    for parent in _PARENTS:
        group = Path(parent) / f"sparse_ist_tf_{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            quota = f"{round(share * _PERIOD_US)}"
            if (group / "cpu.max").exists():
                (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
                return group
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(f"{_PERIOD_US}")
                (group / "cpu.cfs_quota_us").write_text(quota)
                return group
        except OSError:
            pass
        _remove(group)
    return None


def _group_of(process: int, group: Path) -> Path:
    """Where a process is now, in the hierarchy of a control group."""
    controllers = "" if (group / "cpu.max").exists() else "cpu"
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controllers == names or (controllers and controllers in names.split(",")):
            return group.parent / path.lstrip("/")
    return group.parent


def _remove(group: Path) -> None:
    """Once all who were in it are elsewhere or gone."""
    deadline = time.monotonic() + _REMOVE_S
    while group.exists() and time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.02)


def _take_turns(share: float, process: int) -> None:
    """Stops it as soon as it has used its share of a period, until the period is over."""
    try:
        while not select.select([0], (), (), 0)[0]:
            start, used = time.monotonic(), _used_ns(process)
            os.kill(process, signal.SIGCONT)
            while time.monotonic() - start < _PERIOD_US * 1e-6:
                if (_used_ns(process) - used) * 1e-9 >= share * _PERIOD_US * 1e-6:
                    os.kill(process, signal.SIGSTOP)
                    rest = (_used_ns(process) - used) * 1e-9 / share
                    time.sleep(max(0.0, start + rest - time.monotonic()))
                    break
                time.sleep(0.002)
    finally:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGCONT)


def _used_ns(process: int) -> int:
    """Processor time of all its threads.

    Source: the manual page clock_getcpuclockid(3): the clock of a process is made of its id.
    """
    return time.clock_gettime_ns((~process << 3) | 2)


if __name__ == "__main__":
    hold(float(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3])))
