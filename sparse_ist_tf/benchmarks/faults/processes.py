"""Real processes whose output is kept, and which never outlive those who started them."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.workers.stopping import SIGNALS

_POLL_S = 0.02
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
# A line for the user, at the end of a progress bar too, which who was killed hasn't ended.
_TOLD = re.compile(r"(?:^|\])((?:error: |warning: |stopped by ).*)", re.M)


class Process:
    """A command that runs, with its output in a file.

    Args:
        command: what runs.
        environment: all of it.
        output: the file, which is made.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], output: Path):
        self.output = output
        self.started = time.monotonic()
        self._popen: subprocess.Popen | None = None
        try:
            with open(output, "wb") as sink, _held():
                self._popen = subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    start_new_session=True,  # the terminal's Ctrl-C is not theirs
                    preexec_fn=_before,
                )
        except BaseException:  # of a signal that waited
            if self._popen:
                self.kill()
            raise

    @property
    def pid(self) -> int:
        """Its id."""
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """Its exit status, minus the number of a signal that ended it; None while it runs."""
        return self._popen.poll()

    def send(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        self._popen.send_signal(number)

    def text(self) -> str:
        """What it has printed so far, each state of a progress bar a line."""
        return self.output.read_text(errors="replace").replace("\r", "\n")

    def told(self) -> str:
        """The last line that tells the user something besides its progress; "" where none does."""
        lines = _TOLD.findall(self.text())
        return lines[-1] if lines else ""

    def kill(self) -> None:
        """Ends it and its children at once."""
        below = descendants(self.pid) if self.status is None else []
        self._popen.kill()
        self._popen.wait()
        for pid in below:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, below)), 5.0)  # what they write comes before


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """Lets signals wait: what their handlers raise in Python's hooks around a fork is lost."""
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _before() -> None:
    """In a child before its command: signals as in a shell's foreground, an end with its parent."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The children of a process, their children and so on; none where it has ended."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    children = [int(child) for child in found]
    return children + [below for child in children for below in descendants(child)]


def local_workers(launcher: int) -> list[int]:
    """The ids of a launcher's workers, in their order; not of who holds their network."""
    found = []
    for pid in sorted(descendants(launcher)):
        with contextlib.suppress(OSError):
            if b"\0sparse_ist_tf.train\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process, anyone's, still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], within_s: float) -> bool:
    """Waits for a condition.

    Args:
        holds: is called until it returns True.
        within_s: seconds.

    Returns:
        Whether it came to hold.
    """
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def expect(holds: Callable[[], bool], within_s: float, what: str) -> None:
    """As wait_until.

    Raises:
        RunError: if it doesn't come to hold.
    """
    if not wait_until(holds, within_s):
        raise RunError(f"within {within_s:g} s, not: {what}")


def ends(processes: Sequence[Process], within_s: float) -> tuple[int | None, ...]:
    """Waits for the ends of processes.

    Args:
        processes: that are about to end.
        within_s: seconds; those that take longer are killed.

    Returns:
        Their exit statuses; None for one that was killed here.
    """
    wait_until(lambda: all(process.status is not None for process in processes), within_s)
    statuses = tuple(process.status for process in processes)
    for process in processes:
        process.kill()
    return statuses
