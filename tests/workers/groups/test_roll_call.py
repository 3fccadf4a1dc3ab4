"""The chief says who takes part, and all of those get the same word."""

import socket
import threading
import time

import pytest

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.workers.cluster import Cluster
from sparse_ist_tf.workers.groups.roll_call import RollCall, _call_in
from sparse_ist_tf.workers.launch import free_ports
from sparse_ist_tf.workers.meeting import meet

FACTS = {"seed": "0"}


def _workers(count, facts=FACTS, peer_timeout_s=20.0, wait_s=1.0):
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(count))
    some = [Cluster(worker, addresses) for worker in range(count)]
    return [RollCall(cluster, facts, peer_timeout_s, wait_s) for cluster in some]


def _call(workers, late=()):
    """What each of some workers is told; None of one that is still waiting."""
    out = {}

    def work(one):
        worker = one.cluster.worker
        out[worker] = one.call(worker in late)

    threads = [threading.Thread(target=work, args=(one,), daemon=True) for one in workers]
    for thread in threads:
        thread.start()
    return out, threads


def _join(threads):
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_all_are_told_the_same_as_soon_as_all_are_there():
    started = time.monotonic()
    out, threads = _call(_workers(4))
    _join(threads)
    assert time.monotonic() - started < 10
    assert {call.members for call in out.values()} == {(0, 1, 2, 3)}
    assert len({call.name for call in out.values()}) == 1


def test_those_that_are_there_go_on_and_who_comes_later_waits_until_it_is_found():
    workers = _workers(3)
    workers[0]._patience_s = 1.0
    out, threads = _call(workers[:2])
    _join(threads)
    assert out[0] == out[1]
    assert out[0].members == (0, 1)
    late, waiting = _call(workers[2:])
    deadline = time.monotonic() + 10
    while not workers[0].someone_waits((0, 1)):
        assert time.monotonic() < deadline
    assert waiting[0].is_alive()
    again, threads = _call(workers[:2])
    _join([*threads, *waiting])
    assert late[2] == again[0] == again[1]
    assert late[2].members == (0, 1, 2)
    assert again[0].name != out[0].name


def test_who_is_late_is_not_waited_for_until_it_was_looked_for():
    workers = _workers(3, peer_timeout_s=60.0)
    out, threads = _call(workers, late=(2,))
    _join(threads[:2])
    assert out[0].members == (0, 1)
    assert workers[0].someone_waits((0, 1))
    again, others = _call(workers[:2])
    _join([*others, threads[2]])
    assert out[2] == again[0]
    assert again[0].members == (0, 1, 2)


def test_who_is_asked_for_something_else_is_named_and_not_taken_in(capsys):
    workers = _workers(2)
    other = RollCall(workers[1].cluster, {"seed": "1"}, 20.0, 1.0)
    _, threads = _call([other])
    deadline = time.monotonic() + 10
    while "isn't taken in: seed: worker 1 has 1, worker 0 has 0" not in capsys.readouterr().err:
        assert not workers[0].someone_waits((0,))
        assert time.monotonic() < deadline
    assert not workers[0].someone_waits((0,))
    assert capsys.readouterr().err == ""
    _, chief = _call(workers[:1])
    _join([*threads, *chief])


def test_a_chief_that_is_not_there_is_named_in_time():
    [_, worker] = _workers(2, peer_timeout_s=1.0)
    with pytest.raises(RunError, match=r"worker 1 can't reach worker 0 .* within .*timeout_s=1 s"):
        worker.call()


def test_those_of_different_calls_do_not_meet():
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in listeners]
    errors = {}

    def work(i):
        try:
            meet(i, {1 - i: addresses[1 - i]}, {}, 1.0, listeners[i], f"call {i}")
        except RunError as error:
            errors[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    _join(threads)
    assert set(errors) == {0, 1}


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"members": "[0, 1"},
        {"members": "1", "name of the call": "a"},
        {"members": '["x"]', "name of the call": "a"},
        {"members": "[0, 1]"},
    ],
)
def test_nobody_takes_part_in_what_is_no_call(facts):
    assert _call_in(facts).members == ()
