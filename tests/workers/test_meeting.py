"""Workers meet, whoever else knocks, and notice who isn't one of them or does something else."""

import contextlib
import socket
import threading

import pytest

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.workers.meeting import Greeting, meet


def _listeners(count):
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


def _address(listener):
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _meet_all(facts, listeners=None, timeout_s=20.0):
    """What became of every worker: None, or what it raised."""
    listeners = listeners or _listeners(len(facts))
    addresses = [_address(listener) for listener in listeners]
    out = [None] * len(facts)

    def work(i):
        peers = {k: a for k, a in enumerate(addresses) if k != i}
        try:
            meet(i, peers, facts[i], timeout_s, listeners[i])
        except (RequestError, RunError) as error:
            out[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(facts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return out, addresses


def test_workers_that_agree_meet():
    assert _meet_all([{"seed": "0"}] * 3)[0] == [None] * 3


def test_every_worker_says_who_differs_in_what():
    facts = [{"seed": "0", "masks.ratio": ratio} for ratio in ("0.5", "0.5", "0.75")]
    out, _ = _meet_all(facts)
    assert {(type(error), str(error)) for error in out} == {
        (
            RequestError,
            "masks.ratio: worker 2 has 0.75, worker 0 has 0.5: must be the same on all workers",
        )
    }


def test_a_key_that_one_version_lacks_is_named():
    out, _ = _meet_all([{"sparse_ist_tf": "1"}, {"sparse_ist_tf": "1", "masks.grid": "sensor"}])
    assert "masks.grid: worker 1 has sensor, worker 0 has none" in str(out[0])


def test_who_is_not_there_is_named_in_time():
    listeners = _listeners(2)
    gone = _address(listeners[1])
    listeners[1].close()
    with pytest.raises(RunError) as caught:
        meet(0, {1: gone}, {}, 0.5, listeners[0])
    assert (
        str(caught.value)
        == f"worker 0 can't reach worker 1 ({gone}) within cluster.peer_timeout_s=0.5 s"
    )


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00\xff" * 400_000])
def test_a_port_that_is_not_a_workers_is_named_in_time(answer):
    listeners = _listeners(2)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listeners[1].accept()
                with contextlib.suppress(OSError):
                    peer.sendall(answer)
                kept.append(peer)

    kept = []
    threading.Thread(target=serve, daemon=True).start()
    with pytest.raises(RunError, match=r"worker 0 can't meet worker 1 .*isn't a worker") as caught:
        meet(0, {1: _address(listeners[1])}, {}, 1.0, listeners[0])
    assert "cluster.peer_timeout_s=1 s" in str(caught.value)
    listeners[1].close()


def test_a_worker_at_anothers_address_is_named():
    listeners = _listeners(2)
    addresses = [_address(listener) for listener in listeners]
    out = []

    def other():  # believes that it is worker 2
        with contextlib.suppress(RunError):
            meet(2, {0: addresses[0]}, {}, 2.0, listeners[1])

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.raises(RunError, match="which answers as worker 2"):
        meet(0, {1: addresses[1]}, {}, 2.0, listeners[0])
    thread.join()
    assert not out


def test_a_second_process_of_a_worker_is_told_of():
    listeners = _listeners(2)
    with socket.create_connection(listeners[0].getsockname()) as peer:
        peer.sendall(Greeting(1, "another process", {}).line() + b"\n")
        out, _ = _meet_all([{}, {}], listeners)
    assert "two processes say that they are worker 1" in str(out[0])


def test_strangers_do_not_keep_workers_from_meeting():
    listeners = _listeners(2)
    with contextlib.ExitStack() as stack:
        for k in range(100):  # the backlog of a listening socket is about as long
            peer = stack.enter_context(
                socket.create_connection(listeners[k % 2].getsockname(), timeout=5)
            )
            peer.sendall((b"", b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"[" * 5000 + b"\n")[k % 4])
        assert _meet_all([{"a": "1"}] * 2, listeners)[0] == [None, None]


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"{}", b"[]", b"\xff\n", b"[" * 100_000, b'{"sparse_ist_tf": 2}', b"1e999"],
)
def test_what_is_no_greeting_is_none(line):
    assert Greeting.of_line(line) is None


def test_a_greeting_comes_back():
    greeting = Greeting(3, "x", {"ä": "1\n2"})
    assert Greeting.of_line(greeting.line()) == greeting
    assert greeting.line().count(b"\n") == 1
