"""Local worker processes are stopped together, whatever happens, and the reason is said once."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from sparse_ist_tf.workers.launch import (
    PORT_TAKEN,
    free_ports,
    run_local_workers,
    threads_per_worker,
)

LAUNCHER = """
import sys
from sparse_ist_tf.workers.launch import run_local_workers
sys.exit(run_local_workers([sys.executable, "-c", sys.argv[1]], int(sys.argv[2])))
"""
WORKER = """
import json, os, sys, time
from sparse_ist_tf.workers.launch import follow_launcher
follow_launcher(os.environ)
worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
print("worker", worker, "is", os.getpid(), flush=True)
"""
SLEEP = "time.sleep(100)\n"


def _worker(script):
    return WORKER + textwrap.dedent(script)


def _launch(script, num_workers=2):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, _worker(script), str(num_workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _pids(process, count):
    """The workers' process ids, from the first lines that they print."""
    return [int(process.stdout.readline().split()[-1]) for _ in range(count)]


def _gone(pid, patience=10.0):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        time.sleep(0.05)
    return False


def test_output_passes_through_with_the_workers_number():
    process = _launch("print('an error', file=sys.stderr)")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    chief, other = sorted(out.splitlines(), key=lambda line: line.startswith("["))
    assert chief.startswith("worker 0 is ")
    assert other.startswith("[worker 1] worker 1 is ")
    assert sorted(err.splitlines()) == ["[worker 1] an error", "an error"]


def test_a_warning_of_all_workers_is_said_once():
    process = _launch("print('warning: left out 1 of 9 images', file=sys.stderr)", 3)
    _, err = process.communicate(timeout=60)
    assert err == "warning: left out 1 of 9 images\n"


def test_when_one_fails_the_others_are_stopped_and_the_reason_is_said_once():
    script = """
        if worker == 1:
            print("error: worker 1 can't go on", file=sys.stderr, flush=True)
            sys.exit(2)
        time.sleep(100)
    """
    process = _launch(script, 3)
    pids = _pids(process, 3)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err == "error: worker 1 can't go on\n"
    assert all(_gone(pid) for pid in pids)


def test_the_cause_is_blamed_and_not_those_who_lost_a_peer():
    script = """
        if worker == 0:
            print("error: worker 0 lost worker 1", file=sys.stderr, flush=True)
            sys.exit(1)
        time.sleep(0.2)
        print("error: the disk is full", file=sys.stderr, flush=True)
        sys.exit(1)
    """
    process = _launch(script)
    _, err = process.communicate(timeout=60)
    assert err == "error: the disk is full\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_a_signal_ends_is_named(number):
    process = _launch(SLEEP)
    pids = _pids(process, 2)
    os.kill(pids[1], number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert number.name in err
    assert len(err.splitlines()) == 1
    assert all(_gone(pid) for pid in pids)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_worker_outlives_its_launcher(number, status):
    process = _launch(SLEEP)
    pids = _pids(process, 2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert all(_gone(pid) for pid in pids)


def test_workers_that_ignore_sigterm_are_killed():
    process = _launch("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP)
    pids = _pids(process, 2)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert all(_gone(pid) for pid in pids)


def test_a_taken_port_is_tried_again(tmp_path):
    script = _worker(f"""
        path = {str(tmp_path)!r} + "/" + str(worker)
        first = not os.path.exists(path)
        open(path, "w").close()
        sys.exit({PORT_TAKEN} if first else 0)
    """)
    assert run_local_workers([sys.executable, "-c", script], 2) == 0


def test_ports_and_threads():
    assert len(set(free_ports(8))) == 8
    cores = len(os.sched_getaffinity(0))
    assert threads_per_worker(1) == cores
    assert threads_per_worker(cores) == 1
