"""The command: real workers on hosts of their own, of which nothing is left, however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparse_ist_tf.benchmarks.cluster.comparison import Request
from sparse_ist_tf.benchmarks.cluster.workplace import environment
from sparse_ist_tf.benchmarks.faults.processes import is_alive
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.workers.launch import LIFELINE
from tests.benchmarks.cluster.possible import needs_hosts

pytestmark = needs_hosts
_COMMAND = (
    *(sys.executable, "-m", "sparse_ist_tf.benchmark", "cluster", "--dataset=digits"),
    *("--num_workers=2", "--noaccuracy", "--settings=fast"),
    "--override=encoder.weights=random:vit_pico",
    "--override=head.hidden=(48,32)",
    "--override=ist.local_steps=4",
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Where the features are, and a cell has been measured."""
    folder = tmp_path_factory.mktemp("cluster")
    done = _run(folder, "--links=10mbit/5ms", "--rounds=3")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _run(folder, *arguments):
    command = (*_COMMAND, f"--workdir={folder}", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def _cells(folder):
    return [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]


def test_the_kernel_sees_what_the_ledger_claims(workdir):
    (cell,) = _cells(workdir)
    found = cell["measured"]
    assert cell["link"] == "10mbit/5ms"
    assert found["rounds"] >= 3
    assert found["steps"] == 4
    assert found["seconds"] > 0.01
    for ledger, kernel in zip(found["ledger"], found["kernel"], strict=True):
        assert ledger > 10_000
        assert ledger <= kernel <= 1.3 * ledger + 5_000
    assert [path.name for path in workdir.glob("running*")] == []


def test_a_second_call_measures_nothing_again(workdir):
    start = time.monotonic()
    done = _run(workdir, "--links=10mbit/5ms", "--rounds=3")
    assert time.monotonic() - start < 20
    assert done.returncode == 0
    seconds = _cells(workdir)[0]["measured"]["seconds"]
    assert f"2 workers, 10mbit/5ms, fast: {seconds:.2f} s a round" in done.stdout
    assert re.search(r"^ +link +setting .* seconds to", done.stdout, re.M)
    assert "multiplied" in done.stdout
    assert len(_cells(workdir)) == 1


@pytest.mark.parametrize(
    "end", [pytest.param(signal.SIGINT, marks=pytest.mark.large), signal.SIGKILL]
)
def test_nothing_is_left_in_mid_run(workdir, end):
    command = (*_COMMAND, f"--workdir={workdir}", "--links=1mbit/10ms/1%", "--seconds=600")
    bench = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        logs = workdir / f"running_{bench.pid}" / "rounds"
        deadline = time.monotonic() + 120
        while not list(logs.glob("worker_*.jsonl")) and bench.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        made = _descendants(bench.pid)
        spaces = {_space(pid) for pid in made} - {_space("self"), None}
        assert len(spaces) == 3  # the hosts and the switch
        assert sum(b"sparse_ist_tf.train" in _words(pid) for pid in made) == 2
        bench.send_signal(end)
        bench.communicate(timeout=60)
    finally:
        bench.kill()
        bench.communicate()
    status = {signal.SIGINT: 130, signal.SIGKILL: -9}[end]
    assert bench.returncode == status
    deadline = time.monotonic() + 20
    while any(map(is_alive, made)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, made))
    everyone = [name for name in os.listdir("/proc") if name.isdigit()]
    assert not spaces & {_space(name) for name in everyone}
    assert end == signal.SIGKILL or not list(workdir.glob("running*"))


def _descendants(pid):
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(c) for c in children] + [d for c in children for d in _descendants(int(c))]


def _space(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def _words(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_training_that_fails_is_told(workdir):
    done = _run(workdir, "--links=unshaped", "--rounds=2", "--override=batch_size=0")
    assert done.returncode == 1
    assert re.search(r"^failed: .*unshaped, fast: .*batch_size=0", done.stdout, re.M)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--links=fast", "--links=fast: must be unshaped, or"),
        ("--settings=thinner", "--settings=thinner: must be some of fast, "),
        ("--dataset=digit", "did you mean 'digits'?"),
        ("--num_workers=1", "--num_workers=1: must be whole numbers in [2, 16]"),
        ("--rounds=1", "--rounds=1: must be 0, or at least 2"),
        ("--override=seed", "--override=seed: must be KEY=VALUE"),
        ("--congestion=pigeon", "--congestion=pigeon: must be one of "),
    ],
)
def test_a_bad_request_is_one_line(tmp_path, argument, words):
    done = _run(tmp_path, argument)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_who_isnt_root_is_told(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RequestError, match=r"^cluster: needs root, to make and shape hosts$"):
        Request(["digits"]).check()


def test_workers_of_a_cell_have_no_launcher(monkeypatch):
    monkeypatch.setenv(LIFELINE, "1")
    monkeypatch.setenv("TF_CONFIG", "{}")
    found = environment(2, {"TF_CONFIG": "ours"})
    assert LIFELINE not in found
    assert found["TF_CONFIG"] == "ours"
    assert "TF_CONFIG" not in environment(1)
