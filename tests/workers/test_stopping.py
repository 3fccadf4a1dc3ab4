"""What a process does when it is asked to end, with real signals."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

PROLOGUE = """
import hashlib, os, signal, sys, time
from sparse_ist_tf.workers.stopping import Stop
stop = Stop(grace_s=float(sys.argv[1]), prompt_s=1.0, regroups=True)
stop.listen()
def deaf():  # one instruction of Python's, within which no handler runs
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
ROUNDS = """
asked = []
with stop.at_round_ends(asked.append):
    print("works", flush=True)
    for round_index in range(1000):
        time.sleep(0.3)
        if asked:
            break
print("kept a checkpoint", flush=True)
stop.end(asked[0], " after round 12")
"""
DEAF_ROUND = """
with stop.at_round_ends(lambda number: None):
    print("works", flush=True)
    deaf()
"""
IDLE = """
try:
    print("works", flush=True)
    time.sleep(100)
finally:
    print("tidied up", flush=True)
"""


def _start(script, grace_s=60.0, **options):
    process = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(script), str(grace_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "works\n"
    return process


def _deaf(script, **options):
    """A process within its one instruction."""
    process = _start(script, **options)
    time.sleep(1)
    return process


def _end(process, timeout=60):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_round_is_finished_and_the_line_says_which_and_why(name):
    process, number = _start(ROUNDS), getattr(signal, name)
    process.send_signal(number)
    status, out, err = _end(process)
    assert status == 128 + number
    assert out == "kept a checkpoint\n"
    assert err == f"stopped by {name} after round 12; the same command goes on\n"


def test_where_no_round_is_trained_it_ends_at_once_and_tidies_up():
    process = _start(IDLE)
    process.send_signal(signal.SIGTERM)
    status, out, err = _end(process, 20)
    assert (status, out) == (143, "tidied up\n")
    assert err == "stopped by SIGTERM; the same command goes on\n"


def test_a_round_that_outlasts_the_grace_is_ended_even_where_python_is_deaf():
    process = _deaf(DEAF_ROUND, grace_s=3.0)
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    status, _, err = _end(process, 20)
    assert status == 143
    assert time.monotonic() - start > 2.5
    waits, ended = err.splitlines()
    assert waits.startswith("SIGTERM: ends with a checkpoint after this round, or without one in")
    assert ended == (
        "ended 3 s after SIGTERM, within its work; the same command goes on from the last "
        "checkpoint"
    )


def test_deaf_work_beside_rounds_is_ended_soon():
    process = _deaf("print('works', flush=True)\ndeaf()")
    process.send_signal(signal.SIGTERM)
    status, _, err = _end(process, 20)
    assert status == 143
    assert "ended 1 s after SIGTERM" in err


def test_a_second_signal_ends_it_at_once_but_not_one_that_came_twice():
    process = _start(ROUNDS.replace("0.3", "30"))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    status, out, err = _end(process, 20)
    assert (status, out) == (143, "")
    assert err.splitlines()[-1].startswith("ended at once by a second signal (SIGTERM); the same")


def test_what_is_ignored_when_it_starts_stays_ignored():
    """As under nohup, and as Ctrl-C is by a shell's background jobs."""
    process = _start(
        IDLE.replace("100", "1"),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    os.kill(process.pid, signal.SIGHUP)
    status, out, err = _end(process)
    assert (status, out, err) == (0, "tidied up\n", "")


def test_it_takes_back_what_a_library_took():
    process = _start("signal.signal(signal.SIGTERM, print)\nstop.take_back()" + IDLE)
    process.send_signal(signal.SIGTERM)
    assert _end(process, 20)[0] == 143


def test_who_started_it_may_ask_it_to_end_behind_a_round_but_not_beside_rounds():
    process = _start(ROUNDS)
    process.send_signal(signal.SIGUSR1)
    status, out, _ = _end(process)
    assert (status, out) == (128 + signal.SIGUSR1, "kept a checkpoint\n")
    process = _start(IDLE.replace("100", "1"))
    process.send_signal(signal.SIGUSR1)
    assert _end(process) == (0, "tidied up\n", "")


def test_a_signal_that_comes_behind_it_counts_as_the_first():
    process = _start(ROUNDS.replace("0.3", "3").replace("asked[0]", "max(asked)"))
    process.send_signal(signal.SIGUSR1)
    time.sleep(1.2)
    process.send_signal(signal.SIGTERM)
    assert _end(process)[:2] == (143, "kept a checkpoint\n")
