"""Processes that end together: listened to, asked to end, and blamed for the end of all."""

import contextlib
import dataclasses
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from sparse_ist_tf.workers.stopping import (
    REGROUP,
    SAME_S,
    SIGNALS,
    SOON_S,
    STOPPED,
    name_of,
    stopped_line,
    waiting_line,
)

PORT_TAKEN = 75  # a worker's exit status: another process took its port, new ones may be free
REGROUPED = 128 + REGROUP  # of workers that ended to meet again in another number
LOST = "lost worker"  # in the line of a worker that failed because another one did

_PATIENCE_S = 3.0
_POLL_S = 0.5
_MARGIN_S = 4.0  # the workers' grace begins later than their launcher's
_NOISE = re.compile(
    rb"^([IWEF]\d{4} .*|WARNING: All log messages before absl.*|20\d\d-\d\d-\d\d .*: [IWE] .*)$"
)
_REGROUPS = re.compile(rb"\b" + name_of(REGROUP).encode() + rb"\b")  # asked for by this process


@dataclasses.dataclass(frozen=True)
class Failure:
    """How a group of workers failed.

    Args:
        status: what the launcher is to end with.
        lines: that say why, each beginning with "error: ".
        num_lost: workers that were lost, which another start may mend.
        is_own: whether a signal that nobody sent on purpose ended a worker of this group.
    """

    status: int
    lines: Sequence[str] = ()
    num_lost: int = 0
    is_own: bool = False

    @property
    def reason(self) -> str:
        """What happened, without what it means for the run."""
        return self.lines[0].removeprefix("error: ").partition("; the same command")[0]

    def tell(self) -> int:
        """Says why, and returns the exit status of this process."""
        for line in dict.fromkeys(self.lines):
            print(line, file=sys.stderr, flush=True)
        return 1 if self.status == PORT_TAKEN else self.status


class Asked:
    """Inside, SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does; tells which it was."""

    def __init__(self) -> None:
        self.number = 0
        self.is_held = False  # while processes are ended
        self._since = 0.0
        self._previous: dict = {}

    def __enter__(self) -> "Asked":
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                self._previous[number] = signal.signal(number, self._interrupt)
        return self

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.is_held or (self.number and now - self._since < SAME_S):
            return
        self.number, self._since = self.number or number, now
        raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class Group:
    """Processes that end together.

    Args:
        asked: tells of signals to this process.
        grace_s: seconds that the workers take at most to end behind their round.
        first: the index of the worker that is started first.
        losses: words in a worker's last line that say that it lost another one.
    """

    def __init__(
        self, asked: Asked, grace_s: float, first: int = 0, losses: Sequence[str] = (LOST,)
    ):
        self.asked, self.grace_s, self.first, self.losses = asked, grace_s, first, losses
        self.processes: list[subprocess.Popen] = []
        self.pumps: list[list[threading.Thread]] = []
        self.errors: list[list[str]] = []  # lines that begin with "error: ", by worker
        self.said_once: set[bytes] = set()  # what all workers say
        self.ended: queue.Queue[int] = queue.Queue()
        self.is_silent = self.is_in_bar = False  # such a line isn't at its end

    def __enter__(self) -> "Group":
        return self

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts the next worker.

        Args:
            command: its program and arguments.
            environment: all of it.
        """
        worker = len(self.processes)
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C goes to this process alone
        )
        self.processes.append(process)
        self.errors.append([])
        streams = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        self.pumps.append([])
        for source, sink in streams:
            pump = threading.Thread(target=self._pump, args=(worker, source, sink), daemon=True)
            self.pumps[worker].append(pump)
            pump.start()
        threading.Thread(target=self._watch, args=(worker,), daemon=True).start()

    def _watch(self, worker: int) -> None:
        self.processes[worker].wait()
        for pump in self.pumps[worker]:
            pump.join(timeout=_PATIENCE_S)
        self.ended.put(worker)

    def wait(self, is_due: Callable[[], bool] | None = None) -> Failure | None:
        """Returns when all have ended, or one has failed.

        Args:
            is_due: asked again and again whether the workers are to end behind their round, to
                meet again.
        """
        try:
            left, failed = len(self.processes), []
            while left and not failed:
                try:
                    worker = self.ended.get(timeout=_POLL_S if is_due else None)
                except queue.Empty:
                    if is_due and is_due():
                        is_due = None
                        self._tell(self.processes[0], REGROUP)
                    continue
                left -= 1
                if self.processes[worker].returncode:
                    failed.append(worker)
            if not failed:
                return None
            # Another may be the cause, or say the same; those that were asked to end, end alike.
            seconds = self.grace_s if self._asks_to_end(failed[0]) else 1.0
            failed += self._ended_within(seconds)
            return self._blame(failed)
        except KeyboardInterrupt:
            return self._stop()

    def _asks_to_end(self, worker: int) -> bool:
        """Whether a worker ended as a signal asked it to, of which it has told the others."""
        return self.processes[worker].returncode - 128 in (*SIGNALS, REGROUP)

    def _tell(self, process: subprocess.Popen, number: int) -> None:
        with contextlib.suppress(OSError):
            process.stdin.write(bytes([number]))
            process.stdin.flush()

    def _ended_within(self, seconds: float) -> list[int]:
        """The workers that fail within some seconds; returns sooner where all have ended."""
        failed, deadline = [], time.monotonic() + seconds
        while any(p.poll() is None for p in self.processes) or not self.ended.empty():
            patience = min(0.1, deadline - time.monotonic())
            if patience <= 0:
                break
            with contextlib.suppress(queue.Empty):
                worker = self.ended.get(timeout=patience)
                if self.processes[worker].returncode:
                    failed.append(worker)
        return failed

    def _stop(self) -> Failure | None:
        """Passes a signal on, and waits for the workers' end behind their round."""
        number, started = self.asked.number, time.monotonic()
        for process in self.processes:
            self._tell(process, number)
        try:
            failed = self._ended_within(SOON_S)
            patience = started + self.grace_s + _MARGIN_S - time.monotonic()
            if not self._has_said_why() and any(p.poll() is None for p in self.processes):
                print(waiting_line(number, patience), file=sys.stderr, flush=True)
            failed += self._ended_within(patience)
            ended = all(p.poll() is not None for p in self.processes)
        except KeyboardInterrupt:
            ended, failed = False, []
        if ended and not any(process.returncode for process in self.processes):
            return None
        own = [w for w in failed if self.processes[w].returncode > 0 and self.errors[w]]
        own = [w for w in own if not self._has_lost_a_peer(w)]
        lines = self.errors[own[0]] if own else []
        if not ended:
            name = signal.Signals(number).name
            lines = [f"{name}: ended at once; the same command goes on from the last checkpoint"]
        elif not lines and not self._has_said_why():
            lines = [stopped_line(number)]
        return Failure(self.processes[own[0]].returncode if own else 128 + number, lines)

    def _has_said_why(self) -> bool:
        return any(line.startswith(STOPPED.encode()) for line in self.said_once)

    def _has_lost_a_peer(self, worker: int) -> bool:
        return any(word in line for line in self.errors[worker] for word in self.losses)

    def _blame(self, failed: list[int]) -> Failure:
        """Why the group ends: by the first that didn't fail because of another."""
        worker = min(failed, key=lambda w: (self._has_lost_a_peer(w), failed.index(w)))
        status, lines = self.processes[worker].returncode, self.errors[worker]
        if self._asks_to_end(worker):
            return Failure(status, lines)
        who = f"worker {self.first + worker}"
        if status == PORT_TAKEN:
            return Failure(status, [f"error: another process took the port of {who}"])
        if status < 0:
            goes_on = "the same command goes on from the last checkpoint"
            name = signal.Signals(-status).name
            lines = [f"error: {who} was ended by {name}; {goes_on}"]
            if -status in SIGNALS:
                return Failure(128 - status, lines)
            killed = [w for w in failed if self.processes[w].returncode < 0]
            return Failure(1, lines, len(killed), is_own=True)
        lines = lines or [f"error: {who} ended with status {status}"]
        return Failure(status, lines, int(self._has_lost_a_peer(worker)))

    def __exit__(self, *_: object) -> None:
        if self.is_in_bar and not self.is_silent:
            with contextlib.suppress(OSError):
                print(file=sys.stderr, flush=True)  # what is said next has a line of its own
        self.is_silent = self.asked.is_held = True
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process, pumps in zip(self.processes, self.pumps, strict=True):
            process.wait()
            process.stdin.close()
            for pump in pumps:
                pump.join(timeout=_PATIENCE_S)
        self.asked.is_held = False

    def _pump(self, worker: int, source, sink) -> None:
        """Passes output on, without what TensorFlow's libraries log; keeps errors for later."""
        prefix = b"" if worker == 0 else f"[worker {worker}] ".encode()
        rest = b""
        with source:
            while chunk := source.read1(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._pass_on(worker, prefix, line, b"\n", sink)
                if rest.startswith(b"\r"):  # a progress bar, to be seen now
                    self._pass_on(worker, prefix, rest, b"", sink)
                    rest = b""
        if rest:
            self._pass_on(worker, prefix, rest, b"\n", sink)

    def _pass_on(self, worker, prefix, line, end, sink) -> None:
        if line.startswith(b"error: "):
            self.errors[worker].append(line.decode(errors="replace"))
        elif not (self.is_silent or _NOISE.match(line) or _REGROUPS.search(line)):
            if line.startswith((b"warning: ", STOPPED.encode())):
                if line in self.said_once:
                    return
                self.said_once.add(line)
                prefix = b""
            if self.is_in_bar and line and not line.startswith(b"\r"):
                prefix = b"\n" + prefix
            try:
                sink.buffer.write(prefix + line + end)
                self.is_in_bar = not end
                sink.flush()
            except OSError:  # nobody listens any more; the work goes on
                self.is_silent = True
