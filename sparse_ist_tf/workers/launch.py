"""Worker processes on this machine: started, listened to, and stopped together."""

import contextlib
import dataclasses
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from sparse_ist_tf.errors import warn
from sparse_ist_tf.workers.restarts import Restarts
from sparse_ist_tf.workers.seclusion import Seclusion
from sparse_ist_tf.workers.stopping import (
    GRACE_S,
    SAME_S,
    SIGNALS,
    SOON_S,
    STOPPED,
    stopped_line,
    waiting_line,
)

PORT_TAKEN = 75  # a worker's exit status: another process took its port, new ones may be free
LIFELINE = "SPARSE_IST_LIFELINE"  # set for workers whose standard input ends with their launcher
LOST = "lost worker"  # in the line of a worker that failed because another one did

_ATTEMPTS = 3
_PATIENCE_S = 3.0
_MARGIN_S = 4.0  # the workers' grace begins later than their launcher's
_OPEN = (
    "the workers' ports are open to this machine's network: who reaches one can read and write "
    "this user's files (SECURITY.md)"
)
_NOISE = re.compile(
    rb"^([IWEF]\d{4} .*|WARNING: All log messages before absl.*|20\d\d-\d\d-\d\d .*: [IWE] .*)$"
)


@dataclasses.dataclass(frozen=True)
class Failure:
    """How a group of workers failed.

    Args:
        status: what the launcher is to end with.
        lines: that say why, each beginning with "error: ".
        is_loss: whether a worker was lost, which another start may mend.
    """

    status: int
    lines: Sequence[str] = ()
    is_loss: bool = False


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on.

    Returns:
        Ports; all were free at one moment.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def threads_per_worker(num_workers: int) -> int:
    """The share of this machine's cores that one of some workers gets, at least 1.

    Returns:
        How many threads each may compute with.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    return max(1, cores // num_workers)


def run_local_workers(
    command: Sequence[str],
    num_workers: int,
    restarts: Restarts | None = None,
    grace_s: float = GRACE_S,
    is_secluded: bool = True,
) -> int:
    """Starts worker processes on this machine and waits for them; none outlives this call.

    The chief's output passes through as it is, that of the others with their number in front. When
    one fails, the others are stopped and one line says why; where one died and restarts allow it,
    all start again. Ctrl-C, SIGTERM and SIGHUP are passed on to the workers, which may end behind
    their round. If this process is killed, they see their standard input end (see follow_launcher).

    Args:
        command: of each worker, which finds its place in TF_CONFIG.
        num_workers: P.
        restarts: of workers that a signal ended or that lost a peer; none where None.
        grace_s: seconds that the workers take at most to end behind their round.
        is_secluded: give them a loopback of their own, out of which they reach nothing, where the
            system allows it.

    Returns:
        0, or the exit status of the worker that failed: 1 if a signal ended it, 128 and the
        signal's number if that asked it, or this process, to end: 143 for SIGTERM.
    """
    asked, taken = _Asked(), 0
    with asked:
        try:
            with Seclusion(is_secluded) as seclusion:
                if not seclusion.holds:
                    warn(_OPEN)
                inside = seclusion.within(command)
                while True:
                    failure = _run_group(inside, num_workers, asked, grace_s)
                    if failure is None:
                        return 0
                    if failure.status == PORT_TAKEN:
                        taken += 1
                        if taken < _ATTEMPTS:
                            continue
                    if not (failure.is_loss and restarts and restarts.take()):
                        break
                    warn(_restarting(failure, restarts))
        except KeyboardInterrupt:  # while workers start
            return 128 + asked.number
    for line in dict.fromkeys(failure.lines):
        print(line, file=sys.stderr, flush=True)
    return 1 if failure.status == PORT_TAKEN else failure.status


def _restarting(failure: Failure, restarts: Restarts) -> str:
    what = failure.lines[0].removeprefix("error: ").partition("; the same command")[0]
    return (
        f"{what}; all workers start again from the last checkpoint ({restarts.left} restarts left)"
    )


def _run_group(
    command: Sequence[str], num_workers: int, asked: "_Asked", grace_s: float
) -> Failure | None:
    with _Group(asked, grace_s) as group:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(num_workers)]
        for worker in range(num_workers):
            group.start(command, _environment(addresses, worker))
        return group.wait()


def follow_launcher(environment: Mapping[str, str]) -> None:
    """Ends this process as soon as the one that launched it is gone, however that ended.

    Signals that the launcher passes on come the same way, and are sent to this process.

    Args:
        environment: such as os.environ; without SPARSE_IST_LIFELINE nothing happens.
    """
    if not environment.get(LIFELINE):
        return

    def watch():
        with contextlib.suppress(OSError):
            while numbers := os.read(0, 1):
                os.kill(os.getpid(), numbers[0])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _environment(addresses: list[str], worker: int) -> dict[str, str]:
    task = {"type": "worker", "index": worker}
    threads = str(threads_per_worker(len(addresses)))
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    ours = dict.fromkeys(names, threads)
    ours |= {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE"}
    if sys.stderr.isatty():  # for the progress bars' width
        size = shutil.get_terminal_size()
        ours |= {"COLUMNS": str(size.columns), "LINES": str(size.lines)}
    ours |= os.environ
    ours["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    ours[LIFELINE] = "1"
    ours["PYTHONUNBUFFERED"] = "1"
    return ours


class _Asked:
    """Inside, SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does; tells which it was."""

    def __init__(self):
        self.number = 0
        self.is_held = False  # while processes are ended
        self._since = 0.0
        self._previous: dict = {}

    def __enter__(self):
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                self._previous[number] = signal.signal(number, self._interrupt)
        return self

    def _interrupt(self, number, frame):
        now = time.monotonic()
        if self.is_held or (self.number and now - self._since < SAME_S):
            return
        self.number, self._since = self.number or number, now
        raise KeyboardInterrupt

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class _Group:
    """Processes that end together."""

    def __init__(self, asked: _Asked, grace_s: float):
        self.asked, self.grace_s = asked, grace_s
        self.processes: list[subprocess.Popen] = []
        self.pumps: list[list[threading.Thread]] = []
        self.errors: list[list[str]] = []  # lines that begin with "error: ", by worker
        self.said_once: set[bytes] = set()  # what all workers say
        self.ended: queue.Queue[int] = queue.Queue()
        self.is_silent = self.is_in_bar = False  # such a line isn't at its end

    def __enter__(self):
        return self

    def start(self, command, environment) -> None:
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

    def wait(self) -> Failure | None:
        """Returns when all have ended, or one has failed."""
        try:
            left, failed = len(self.processes), []
            while left and not failed:
                worker = self.ended.get()
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
        return self.processes[worker].returncode - 128 in SIGNALS

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
            with contextlib.suppress(OSError):
                process.stdin.write(bytes([number]))
                process.stdin.flush()
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
        return any(LOST in line for line in self.errors[worker])

    def _blame(self, failed: list[int]) -> Failure:
        """Why the group ends: by the first that didn't fail because of another."""
        worker = min(failed, key=lambda w: (self._has_lost_a_peer(w), failed.index(w)))
        status, lines = self.processes[worker].returncode, self.errors[worker]
        if self._asks_to_end(worker):
            return Failure(status, lines)
        if status == PORT_TAKEN:
            return Failure(status, [f"error: another process took the port of worker {worker}"])
        if status < 0:
            goes_on = "the same command goes on from the last checkpoint"
            name = signal.Signals(-status).name
            lines = [f"error: worker {worker} was ended by {name}; {goes_on}"]
            asked = -status in SIGNALS
            return Failure(128 - status if asked else 1, lines, is_loss=not asked)
        lines = lines or [f"error: worker {worker} ended with status {status}"]
        return Failure(status, lines, is_loss=self._has_lost_a_peer(worker))

    def __exit__(self, *_):
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
        elif not _NOISE.match(line) and not self.is_silent:
            if line.startswith((b"warning: ", STOPPED.encode())):
                if line in self.said_once:
                    return
                self.said_once.add(line)
                prefix = b"\n" if self.is_in_bar else b""
            try:
                sink.buffer.write(prefix + line + end)
                self.is_in_bar = not end
                sink.flush()
            except OSError:  # nobody listens any more; the work goes on
                self.is_silent = True
