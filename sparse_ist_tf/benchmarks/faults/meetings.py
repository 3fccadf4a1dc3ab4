"""Drills of workers that meet late, never, or somebody else."""

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from sparse_ist_tf.benchmarks.faults.drill import Drill, Expected, Outcome
from sparse_ist_tf.benchmarks.faults.processes import ends
from sparse_ist_tf.benchmarks.faults.trial import END_S, RUN_S, SHORT_S, Trial, loopback
from sparse_ist_tf.errors import RunError

_LATE_S = 40.0
_HELD = 800
_GARBAGE = (b"", b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"[" * 5000 + b"\n", bytes(range(256)))


def drills() -> Iterable[Drill]:
    """The drills of this file."""
    yield Drill("late", f"a worker {_LATE_S:g} s late", Expected((0, 0)), _be_late)
    yield Drill(
        "never",
        "a worker that never comes",
        Expected((1,), r"can't reach worker 1 \(127\.0\.0\.1:\d+\)"),
        _never_come,
        peer_timeout_s=SHORT_S,
    )
    yield Drill(
        "strangers",
        f"strangers with garbage and {_HELD} held connections",
        Expected((0, 0)),
        _hold_connections,
    )
    for name, greeting in (("foreign-port", b"SSH-2.0-OpenSSH_9.6\r\n"), ("silent-port", b"")):
        what = "that answers as another service" if greeting else "that says nothing"
        yield Drill(
            name,
            f"a peer's port {what}",
            Expected((1,), r"can't meet worker 1 \(127\.0\.0\.1:\d+\)"),
            _meet_another(greeting),
            peer_timeout_s=SHORT_S,
        )


def _be_late(trial: Trial) -> Outcome:
    addresses = loopback(2)
    chief = trial.start(0, addresses)
    time.sleep(_LATE_S)
    pair = [chief, trial.start(1, addresses)]
    return trial.outcome(ends(pair, RUN_S), chief.told())


def _never_come(trial: Trial) -> Outcome:
    chief = trial.start(0, loopback(2))
    statuses = ends([chief], END_S)
    return trial.outcome(statuses, chief.told(), time.monotonic() - chief.started)


def _meet_another(greeting: bytes) -> Callable[[Trial], Outcome]:
    def meet(trial: Trial) -> Outcome:
        with _serving(greeting) as address:
            chief = trial.start(0, [loopback(1)[0], address])
            statuses = ends([chief], END_S)
            detected = time.monotonic() - chief.started
        return trial.outcome(statuses, chief.told(), detected)

    return meet


@contextlib.contextmanager
def _serving(greeting: bytes) -> Iterator[str]:
    """A service that says one thing to all, at the address that is given."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                kept.append(peer)
                peer.sendall(greeting)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        for peer in kept:
            peer.close()


def _hold_connections(trial: Trial) -> Outcome:
    """While workers meet, and again while they train."""
    addresses = loopback(2)
    pair = [trial.start(worker, addresses) for worker in range(2)]
    _allow_files(4 * _HELD)
    with _Strangers(addresses) as early:
        trial.reach_checkpoint(pair)
        with _Strangers(addresses) as late:
            statuses = ends(pair, RUN_S)
    for strangers in (early, late):
        if strangers.count < _HELD:
            raise RunError(f"strangers held {strangers.count} connections, not {_HELD}")
    return trial.outcome(statuses, pair[0].told())


def _allow_files(count: int) -> None:
    """Lets this process have so many files and connections open, if the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Strangers:
    """Connections to workers that are never closed from this side; most of them send garbage.

    Args:
        addresses: of the workers.
    """

    def __init__(self, addresses: Sequence[str]):
        self._targets = [(host, int(port)) for host, port in (a.split(":") for a in addresses)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._knock, daemon=True)
        self.count = 0

    def __enter__(self) -> "_Strangers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _knock(self) -> None:
        with contextlib.ExitStack() as stack:
            while self.count < _HELD and not self._over.is_set():
                target = self._targets[self.count % len(self._targets)]
                try:
                    peer = stack.enter_context(socket.create_connection(target, timeout=1.0))
                    self.count += 1
                    peer.sendall(_GARBAGE[self.count % len(_GARBAGE)])
                except OSError:  # nobody listens yet, or who does has closed it
                    self._over.wait(0.05)
            self._over.wait()
