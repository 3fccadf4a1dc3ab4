"""Signals that ask this process to end, and the end of the round that they wait for."""

import atexit
import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)
REGROUP = int(getattr(signal, "SIGUSR1", 10))  # from who started this process: end to start anew
GRACE_S = 20.0  # Kubernetes and Slurm send SIGKILL 30 s behind SIGTERM
SAME_S = 1.0  # srun passes on a signal that Slurm sends to its task as well
SOON_S = 2.0  # until then an end needs no announcement
STOPPED = "stopped by "
_PROMPT_S = 5.0


class Stop:
    """The wish that this process end, as a signal made it: SIGTERM, SIGINT (Ctrl-C) or SIGHUP.

    The process ends at once where nothing is lost by it. While rounds are trained it ends behind
    the round, with a checkpoint; if that takes longer than the grace, or at a second signal,
    without one. The exit status is 128 and the signal's number: 143 for SIGTERM. A signal that is
    ignored when listening begins, as by nohup, stays ignored.

    Python handles a signal between two of its own instructions alone, a worker may be blocked in
    TensorFlow's; so a thread listens, too.

    Args:
        grace_s: seconds that a round and its checkpoint may take.
        prompt_s: seconds that all else may take until the process is ended.
        regroups: heed SIGUSR1, too: it ends a training behind a round and means nothing elsewhere.
    """

    def __init__(
        self, grace_s: float = GRACE_S, prompt_s: float = _PROMPT_S, regroups: bool = False
    ):
        self.grace_s, self.prompt_s, self.regroups = grace_s, prompt_s, regroups
        self.number = 0  # of the first signal
        self._since, self._patience = 0.0, prompt_s
        self._tell: Callable[[int], None] | None = None
        self._lock = threading.Lock()  # never taken by the handler, which interrupts its holders
        self._is_raised = self._is_announced = False
        self._handled: tuple[signal.Signals, ...] = ()

    def listen(self) -> None:
        """Takes the signals from now on; called once, in the main thread."""
        kept = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        if self.regroups and hasattr(signal, "SIGUSR1"):
            kept.append(signal.SIGUSR1)
        self._handled = tuple(kept)
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        self.take_back()

    def take_back(self) -> None:
        """Takes the signals again, if it listens: TensorFlow's server takes SIGTERM for itself."""
        for number in self._handled:
            signal.signal(number, self._handle)

    @contextlib.contextmanager
    def at_round_ends(self, tell: Callable[[int], None]) -> Iterator[None]:
        """Inside, a signal doesn't end the process, as long as its grace lasts.

        Args:
            tell: is called with the signal's number, in any thread and at any time.
        """
        with self._lock:
            self._tell, self._patience = tell, self.grace_s
            if self.number:
                tell(self.number)
        try:
            yield
        finally:
            with self._lock:
                self._tell = None
                if not self.number:
                    self._patience = self.prompt_s

    def end(self, number: int, when: str = "") -> NoReturn:
        """Ends this process, and says so as the last that it does.

        Args:
            number: of the signal, this process's or another worker's.
            when: " after round 12" and the like.

        Raises:
            SystemExit: always.
        """
        self._is_raised = True
        # Before what TensorFlow registered to run at exit, which waits for others; and said where
        # nothing keeps stderr any more.
        atexit.register(_leave, stopped_line(number, when), 128 + number)
        raise SystemExit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._tell is None and not self._is_raised and number != REGROUP:
            self.end(number)

    def _watch(self, reader: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([reader], [], [], self._wait_s())
            with self._lock:
                for number in reader.recv(64) if ready else b"":
                    self._take(number)
                if self.number and self._wait_s() == 0.0:
                    self._remind()

    def _wait_s(self) -> float | None:
        """Seconds until the user is told something, or the process ended."""
        if not self.number:
            return None
        patience = self._patience
        if self._tell and not self._is_announced:
            patience = min(SOON_S, patience)
        return max(0.0, self._since + patience - time.monotonic())

    def _take(self, number: int) -> None:
        if number not in self._handled:
            return
        now = time.monotonic()
        if number == REGROUP and (self.number or not self._tell):
            return
        if self.number in (0, REGROUP):
            self.number, self._since = number, now
            if self._tell:
                self._tell(number)
        elif now - self._since > SAME_S:
            self._exit(f"ended at once by a second signal ({name_of(number)})")

    def _remind(self) -> None:
        left = self._since + self._patience - time.monotonic()
        if left > 0:
            self._is_announced = True
            _write(waiting_line(self.number, left))
        else:
            self._exit(f"ended {self._patience:g} s after {name_of(self.number)}, within its work")

    def _exit(self, what: str) -> NoReturn:
        _write(f"{what}; the same command goes on from the last checkpoint")
        os._exit(128 + self.number)


def stopped_line(number: int, when: str = "") -> str:
    """What is said of a process that ended as it was asked to.

    Args:
        number: of the signal.
        when: as Stop.end.
    """
    return f"{STOPPED}{name_of(number)}{when}; the same command goes on"


def waiting_line(number: int, left_s: float) -> str:
    """What is said of a process that doesn't end soon.

    Args:
        number: of the signal.
        left_s: seconds that it may still take.
    """
    return (
        f"{name_of(number)}: ends with a checkpoint after this round, or without one in "
        f"{left_s:.0f} s; a second signal ends it at once"
    )


def _leave(line: str, status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    _write(line)
    os._exit(status)


def name_of(number: int) -> str:
    """A signal's name."""
    return signal.Signals(number).name if number != REGROUP else "SIGUSR1"


def _write(line: str) -> None:
    """To stderr, whatever holds sys.stderr's lock."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
