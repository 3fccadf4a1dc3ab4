"""Worker processes on this machine: started, listened to, and stopped together."""

import contextlib
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

PORT_TAKEN = 75  # a worker's exit status: another process took its port, new ones may be free
LIFELINE = "SPARSE_IST_LIFELINE"  # set for workers whose standard input ends with their launcher
LOST = "lost worker"  # in the line of a worker that failed because another one did

_ATTEMPTS = 3
_PATIENCE_S = 3.0
_NOISE = re.compile(
    rb"^([IWEF]\d{4} .*|WARNING: All log messages before absl.*|20\d\d-\d\d-\d\d .*: [IWE] .*)$"
)


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


def run_local_workers(command: Sequence[str], num_workers: int) -> int:
    """Starts worker processes on this machine and waits for them; none outlives this call.

    The chief's output passes through as it is, that of the others with their number in front. When
    one fails, the others are stopped and one line says why. If this process is killed, the workers
    see their standard input end (see follow_launcher).

    Args:
        command: of each worker, which finds its place in TF_CONFIG.
        num_workers: P.

    Returns:
        0, or the exit status of the worker that failed: 1 if a signal ended it; 130 on Ctrl-C, 143
        on SIGTERM.
    """
    for _ in range(_ATTEMPTS):
        with _Group() as group:
            addresses = [f"127.0.0.1:{port}" for port in free_ports(num_workers)]
            for worker in range(num_workers):
                group.start(command, _environment(addresses, worker))
            status = group.wait()
        if status != PORT_TAKEN:
            break
    return 1 if status == PORT_TAKEN else status


def follow_launcher(environment: Mapping[str, str]) -> None:
    """Ends this process as soon as the one that launched it is gone, however that ended.

    Args:
        environment: such as os.environ; without SPARSE_IST_LIFELINE nothing happens.
    """
    if not environment.get(LIFELINE):
        return

    def watch():
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
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


class _Group:
    """Processes that end together."""

    def __init__(self):
        self.processes: list[subprocess.Popen] = []
        self.pumps: list[list[threading.Thread]] = []
        self.errors: list[list[str]] = []  # lines that begin with "error: ", by worker
        self.warnings: set[bytes] = set()  # lines that begin with "warning: ", from any worker
        self.ended: queue.Queue[int] = queue.Queue()
        self.handlers: dict = {}
        self.stopping = False

    def __enter__(self):
        for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # not on Windows
            self.handlers[number] = signal.signal(number, self._interrupt)
        return self

    def _interrupt(self, number, frame):
        self.signal = number
        raise KeyboardInterrupt

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

    def wait(self) -> int:
        self.signal = signal.SIGINT
        try:
            left, failed = len(self.processes), []
            while left and not failed:
                worker = self.ended.get()
                left -= 1
                if self.processes[worker].returncode:
                    failed.append(worker)
            if not failed:
                return 0
            deadline = time.monotonic() + 1.0  # another may be the cause, or say the same
            while left and (patience := deadline - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    worker = self.ended.get(timeout=patience)
                    left -= 1
                    if self.processes[worker].returncode:
                        failed.append(worker)
            return self._blame(failed)
        except KeyboardInterrupt:
            return 128 + self.signal

    def _blame(self, failed: list[int]) -> int:
        """Says why the group ends: by the first that didn't fail because of another."""

        def lost(worker):
            return any(LOST in line for line in self.errors[worker])

        worker = min(failed, key=lambda w: (lost(w), failed.index(w)))
        self.stopping = True
        status, lines = self.processes[worker].returncode, self.errors[worker]
        if status == PORT_TAKEN:
            return status
        if status < 0:
            lines = [
                f"error: worker {worker} was ended by {signal.Signals(-status).name}; the same "
                "command goes on from the last checkpoint"
            ]
        elif not lines:
            lines = [f"error: worker {worker} ended with status {status}"]
        for line in dict.fromkeys(lines):
            print(line, file=sys.stderr, flush=True)
        return status if status > 0 else 1

    def __exit__(self, *_):
        self.stopping = True
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in self.handlers:
            signal.signal(number, signal.SIG_IGN)
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _PATIENCE_S
        for process, pumps in zip(self.processes, self.pumps, strict=True):
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdin.close()
            for pump in pumps:
                pump.join(timeout=_PATIENCE_S)
        for number, handler in {**self.handlers, signal.SIGINT: previous}.items():
            signal.signal(number, handler)

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
        elif not _NOISE.match(line) and not self.stopping:
            if line.startswith(b"warning: "):
                if line in self.warnings:  # all workers read the same data
                    return
                self.warnings.add(line)
                prefix = b""
            try:
                sink.buffer.write(prefix + line + end)
                sink.flush()
            except OSError:  # nobody listens any more; the work goes on
                self.stopping = True
