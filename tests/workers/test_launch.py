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
import os, sys
from sparse_ist_tf.workers.launch import run_local_workers
from sparse_ist_tf.workers.groups.restarts import Restarts
command = [sys.executable, "-c", sys.argv[1]]
restarts = Restarts(int(sys.argv[3]), lambda: os.listdir(sys.argv[5]) if sys.argv[5] else None)
options = {"is_elastic": "elastic" in sys.argv}
sys.exit(run_local_workers(command, int(sys.argv[2]), restarts, float(sys.argv[4]), **options))
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


def _launch(script, num_workers=2, restarts=0, grace_s=2.0, folder="", more=()):
    options = map(str, (num_workers, restarts, grace_s, folder, *more))
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, _worker(script), *options],
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


def test_workers_that_ignore_a_signal_are_killed():
    process = _launch("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + SLEEP)
    pids = _pids(process, 2)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "SIGINT: ended at once; the same command goes on from the last checkpoint" in err
    assert all(_gone(pid) for pid in pids)


ROUNDS = """
from sparse_ist_tf.workers.stopping import Stop
stop, asked = Stop(), []
stop.listen()
with stop.at_round_ends(asked.append):
    print("ready", flush=True)
    while not asked:
        time.sleep(0.5)
print("kept", flush=True)
stop.end(asked[0], " after round 3")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_workers_end_behind_their_round_and_say_it_once(name):
    process, number = _launch(ROUNDS), getattr(signal, name)
    lines = [process.stdout.readline() for _ in range(4)]
    assert sum("ready" in line for line in lines) == 2
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert sorted(out.splitlines()) == ["[worker 1] kept", "kept"]
    assert err == f"stopped by {name} after round 3; the same command goes on\n"


def test_a_signal_to_one_worker_ends_all_without_a_restart(tmp_path):
    """Here by a file, in a training by what a round exchanges."""
    told = tmp_path / "told"
    script = ROUNDS.replace(
        "not asked:", f"not (asked if worker else os.path.exists({str(told)!r})):"
    )
    script = script.replace("asked[0]", f"open({str(told)!r}, 'w').close() or 15")
    process = _launch(script, restarts=3)
    lines = [process.stdout.readline() for _ in range(4)]
    [pid] = [int(line.split()[-1]) for line in lines if "worker 1 is" in line]
    os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err == "stopped by SIGTERM after round 3; the same command goes on\n"


DIES = """
    folder = {folder!r}
    starts = len([name for name in os.listdir(folder) if name.startswith(str(worker))])
    open(f"{{folder}}/{{worker}}_{{starts}}", "w").close()
    if worker == 1 and starts < {deaths}:
        {death}
    time.sleep(3 if worker == 1 else 100 * (starts < {deaths}))
"""
KILL = "os.kill(os.getpid(), 9)"
LOSE = "sys.exit(print('error: worker 1 lost worker 0', file=sys.stderr) or 1)"


@pytest.mark.parametrize("death", [KILL, LOSE])
def test_a_worker_that_died_starts_again_with_the_others(tmp_path, death):
    script = DIES.format(folder=str(tmp_path), deaths=2, death=death)
    process = _launch(script, restarts=3, folder=tmp_path)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert out.count("worker 1 is") == 3
    cause = "was ended by SIGKILL" if death == KILL else "lost worker 0"
    assert err.splitlines() == [
        f"warning: worker 1 {cause}; all workers start again from the last checkpoint "
        f"({left} restarts left)"
        for left in (2, 1)
    ]


def test_restarts_come_to_an_end(tmp_path):
    script = DIES.format(folder=str(tmp_path), deaths=9, death=KILL)
    process = _launch(script, restarts=1, folder=tmp_path)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: worker 1 was ended by SIGKILL")
    assert len(err.splitlines()) == 2


ELASTIC = """
from sparse_ist_tf.workers.stopping import Stop
count = len(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"])
stop, asked = Stop(regroups=True), []
stop.listen()
folder = {folder!r}
begun = time.monotonic()
with stop.at_round_ends(asked.append):
    while not asked and time.monotonic() < begun + 100:
        time.sleep(0.1)
        if worker == 0 and count < 3 and time.monotonic() > begun + 1:
            open(f"{{folder}}/{{os.getpid()}}", "w").close()
        if count == 3 and len(os.listdir(folder)) >= {enough}:
            sys.exit(0)
        if worker == 2 and count == 3:
            os.kill(os.getpid(), 9)
        if os.path.exists(f"{{folder}}/told"):
            asked.append(10)
if worker == 0:
    open(f"{{folder}}/told", "w").close()
stop.end(asked[0], " after round 3")
"""


def test_those_that_are_left_go_on_until_all_start_again(tmp_path):
    script = ELASTIC.format(folder=str(tmp_path), enough=2)
    process = _launch(script, 3, restarts=3, folder=tmp_path, more=["elastic"])
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert err.splitlines() == [
        "warning: worker 2 was ended by SIGKILL; 2 of 3 workers go on from the last checkpoint "
        "(2 restarts left)",
        "warning: all 3 workers go on from the checkpoint",
    ]
    assert [out.count(f"worker {i} is") for i in range(3)] == [3, 3, 2]


@pytest.mark.parametrize("status", [1, 2])
def test_what_another_start_would_not_mend_is_not_tried_again(status):
    script = f"""
        if worker == 1:
            print("error: the disk is full", file=sys.stderr, flush=True)
            sys.exit({status})
        time.sleep(100)
    """
    process = _launch(script, restarts=3)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, "error: the disk is full\n")


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
