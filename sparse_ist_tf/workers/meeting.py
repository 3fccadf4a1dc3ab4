"""Workers meet before TensorFlow joins them: each says who it is and what it is about to do.

TensorFlow would wait for a missing peer for an hour, deaf to signals, take whoever listens at a
peer's address for that peer, and never ask what it is about to do.
"""

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Mapping

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.workers.agreement import Facts, disagreement

UNMET = "within cluster.peer_timeout_s="  # in the line of a worker that can't meet another one

_WORD = "sparse_ist_tf"  # in every greeting
_LONGEST = 1 << 18  # bytes of a greeting
_MOST = 256  # connections that are listened to at once; the oldest gives way
_PATIENCE_S = 5.0  # for a greeting


@dataclasses.dataclass(frozen=True)
class Greeting:
    """What workers tell each other first.

    Args:
        worker: index of who speaks.
        process: a name that no other process has.
        facts: what it is about to do.
        occasion: of the greeting; who greets on another one is not heard.
    """

    worker: int
    process: str
    facts: Facts
    occasion: str = ""

    def line(self) -> bytes:
        """As it is sent."""
        said = {_WORD: 1, **dataclasses.asdict(self)}
        return json.dumps(said).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> "Greeting | None":
        """The inverse of line(); None where it is something else."""
        try:
            said = json.loads(line)
            if said[_WORD] != 1:
                return None
            facts = {str(key): str(value) for key, value in said["facts"].items()}
            occasion = str(said.get("occasion", ""))
            return cls(int(said["worker"]), str(said["process"]), facts, occasion)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def meet(
    worker: int,
    addresses: Mapping[int, str],
    facts: Facts,
    timeout_s: float,
    listener: socket.socket,
    occasion: str = "",
) -> None:
    """Waits until every worker has greeted every other one, and compares what they are about to do.

    Args:
        worker: this one's index.
        addresses: host:port of the others by their index.
        facts: what this one is about to do.
        timeout_s: seconds.
        listener: a socket at this worker's address; closed in the end.
        occasion: of the meeting; those of another one aren't met.

    Raises:
        RunError: naming the peers that can't be reached, or aren't who they should be.
        RequestError: if the workers are about to do different things.
    """
    mine = Greeting(worker, os.urandom(8).hex(), facts, occasion)
    deadline = time.monotonic() + timeout_s
    with Reception(listener, mine) as reception:
        met, failures = _greet_all(mine, addresses, reception, deadline)
    twice = {i for i, processes in reception.processes.items() if len(processes) > 1}
    everyone = {worker: mine, **met}
    difference = disagreement([everyone[i].facts for i in sorted(everyone)])
    missing = [i for i in addresses if i not in met or not reception.has_told(met[i])]
    if missing and not difference:
        reasons = [_reason(i, addresses[i], failures.get(i), i in met) for i in missing]
        raise RunError(f"worker {worker} {'; '.join(reasons)} {UNMET}{timeout_s:g} s")
    if twice:
        raise RunError(f"two processes say that they are worker {min(twice)}")
    if difference:
        raise RequestError(difference)


def _greet_all(mine, addresses, reception, deadline):
    """Greets all until each has answered and has greeted this one, or a deadline."""
    met: dict[int, Greeting] = {}
    failures: dict[int, str] = {}
    first = True
    while first or time.monotonic() < deadline:
        first = False
        for i, address in addresses.items():
            if i not in met:
                answer = greet(mine, address, deadline)
                if isinstance(answer, str):
                    failures[i] = answer or failures.get(i, "")
                elif answer.worker != i:
                    failures[i] = f"answers as worker {answer.worker}"
                else:
                    met[i] = answer
        if len(met) == len(addresses) and reception.wait_for(met.values(), deadline):
            break
        time.sleep(0.1)
    return met, failures


def _reason(i, address, failure, met):
    who = f"worker {i} ({address})"
    if met:
        return f"isn't greeted by {who}, which it reaches: can that one reach this one's address?"
    if failure:
        return f"can't meet {who}, which {failure}"
    return f"can't reach {who}"


def greet(mine: Greeting, address: str, deadline: float) -> "Greeting | str":
    """Greets who is at an address.

    Args:
        mine: what is said.
        address: host:port.
        deadline: as time.monotonic has it.

    Returns:
        The answer; "" where nobody is there, or what is wrong with it.
    """
    host, port = address.rsplit(":", 1)
    left = max(0.2, min(_PATIENCE_S, deadline - time.monotonic()))
    try:
        peer = socket.create_connection((host.strip("[]"), int(port)), timeout=min(left, 2.0))
    except OSError:
        return ""
    with peer, contextlib.suppress(OSError):
        peer.settimeout(left)
        peer.sendall(mine.line())
        line = b""
        while not line.endswith(b"\n") and len(line) <= _LONGEST:
            if not (part := peer.recv(1 << 16)):
                break
            line += part
        answer = Greeting.of_line(line)
        if answer and answer.occasion == mine.occasion:
            peer.sendall(b"\n")  # it has been heard
            return answer
    return (
        "answers, but isn't a worker that waits for others: another service, or a run that goes on"
    )


class Reception:
    """Answers greetings at a port, in a thread, whoever sends what.

    Args:
        listener: a socket at the port; closed in the end.
        mine: the answer; may be set to another one.
    """

    def __init__(self, listener: socket.socket, mine: Greeting):
        self.listener, self.mine = listener, mine
        self.processes: dict[int, set[str]] = {}  # of each worker, that have heard an answer
        self.newest: dict[int, tuple[float, Greeting, Greeting]] = {}  # when, what, what they heard
        self._changed, self._over = threading.Condition(), False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Reception":
        self.listener.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        self.listener.close()

    def has_told(self, peer: Greeting) -> bool:
        """Has this process heard the answer?"""
        return peer.process in self.processes.get(peer.worker, ())

    def wait_for(self, peers: Iterable[Greeting], deadline: float) -> bool:
        """Have all of these heard the answer by a deadline?"""
        left = max(0.0, deadline - time.monotonic())
        with self._changed:
            return self._changed.wait_for(lambda: all(map(self.has_told, peers)), left)

    def _serve(self):
        open_ones: dict[socket.socket, _Visitor] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            while not self._over:
                for key, _ in selector.select(0.05):
                    if key.fileobj is self.listener:
                        self._admit(selector, open_ones)
                    elif self._hear(open_ones[key.fileobj]):
                        self._dismiss(selector, open_ones, key.fileobj)
                now = time.monotonic()
                for peer in [p for p, visitor in open_ones.items() if visitor.until < now]:
                    self._dismiss(selector, open_ones, peer)
            for peer in open_ones:
                peer.close()

    def _admit(self, selector, open_ones):
        with contextlib.suppress(OSError):
            peer, _ = self.listener.accept()
            peer.setblocking(False)
            if len(open_ones) >= _MOST:
                self._dismiss(selector, open_ones, next(iter(open_ones)))
            open_ones[peer] = _Visitor(peer, time.monotonic() + _PATIENCE_S)
            selector.register(peer, selectors.EVENT_READ)

    def _dismiss(self, selector, open_ones, peer):
        selector.unregister(peer)
        del open_ones[peer]
        peer.close()

    def _hear(self, visitor) -> bool:
        """Reads on; is the visit over?"""
        try:
            part = visitor.peer.recv(1 << 16)
            visitor.said += part
            if visitor.greeting is None and b"\n" in visitor.said:
                line, _, visitor.said = visitor.said.partition(b"\n")
                visitor.greeting = Greeting.of_line(line)
                if visitor.greeting is None or visitor.greeting.occasion != self.mine.occasion:
                    return True
                visitor.answer = self.mine
                visitor.peer.settimeout(1.0)
                visitor.peer.sendall(visitor.answer.line())
                visitor.peer.setblocking(False)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if visitor.greeting and visitor.said.startswith(b"\n"):
            self._note(visitor.greeting, visitor.answer)
            return True
        return not part or len(visitor.said) > _LONGEST

    def _note(self, greeting, answer):
        with self._changed:
            self.newest[greeting.worker] = time.monotonic(), greeting, answer
            self.processes.setdefault(greeting.worker, set()).add(greeting.process)
            self._changed.notify_all()


@dataclasses.dataclass
class _Visitor:
    peer: socket.socket
    until: float  # as time.monotonic has it
    said: bytes = b""
    greeting: Greeting | None = None
    answer: Greeting | None = None
