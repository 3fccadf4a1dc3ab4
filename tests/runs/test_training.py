"""A training that is stopped, killed and finished alone, with real processes."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from sparse_ist_tf.runs.rounds_log import read_rounds
from sparse_ist_tf.workers.launch import free_ports
from tests.fixtures.processes import SMALL_RUN, worker_pids

ROUNDS = 120
SMALL = (
    *SMALL_RUN,
    f"--config.total_steps={4 * ROUNDS}",
    "--config.eval_every_rounds=40",
    "--config.checkpoint_every_rounds=1000",
)
# Kills its process when, or right after, a file of a certain name is put in place.
KILLER = """
import os, pathlib, signal
replace = pathlib.Path.replace
def killing(self, target):
    before, name, after = os.environ["KILL_AT"].partition(pathlib.Path(target).name)
    if name and before == "before ":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(self, target)
    if name and before == "after ":
        os.kill(os.getpid(), signal.SIGKILL)
if "KILL_AT" in os.environ:
    pathlib.Path.replace = killing
"""


@pytest.fixture(scope="module")
def caches(feature_cache):
    """One cache of features for all runs of this file, and of others."""
    return feature_cache


@pytest.fixture(scope="module")
def undisturbed(caches, tmp_path_factory):
    """The directory of a run of one worker that nothing happened to."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = _start(caches, workdir, "--num_workers=1")
    _end(done, 0)
    return workdir


def _start(caches, workdir, *arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    places = f"--workdir={workdir}", f"--rounds_log={_log(workdir).parent}"
    return subprocess.Popen(
        [sys.executable, "-m", "sparse_ist_tf.train", *SMALL, *places, *arguments],
        env=kept | {"XDG_CACHE_HOME": str(caches), "TF_DETERMINISTIC_OPS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(process, status, timeout=200):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == status, err
    return out, err.replace("\r", "\n")


def _member(addresses, worker):
    task = {"type": "worker", "index": worker}
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}


def _pair(caches, workdir, **chief):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return [
        _start(caches, workdir, **_member(addresses, worker), **({} if worker else chief))
        for worker in range(2)
    ]


def _log(workdir):
    """Where a chief notes its rounds."""
    return workdir.with_name(f"{workdir.name}_rounds") / "worker_0.jsonl"


def _wait_for_rounds(process, workdir):
    """Until a chief is past the first rounds of this start."""
    before = len(read_rounds(_log(workdir)))
    while len(read_rounds(_log(workdir))) < before + 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def _round(workdir):
    names = [path.stem for path in workdir.glob("checkpoints/[!.]*.safetensors")]
    return max(int(name.removeprefix("round_")) for name in names)


def _assert_same(workdir, other):
    states = [
        load_file(path / f"checkpoints/round_{ROUNDS:08d}.safetensors") for path in (workdir, other)
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        assert np.array_equal(states[0][name], value), name
    one, two = (json.loads((path / "results.json").read_text()) for path in (workdir, other))
    assert one["accuracy"] == two["accuracy"]


@pytest.mark.large
def test_stopped_by_every_signal_and_killed_it_ends_with_the_same_weights(
    undisturbed, caches, tmp_path
):
    workdir = tmp_path / "run"
    chief, other = _pair(caches, workdir)
    _wait_for_rounds(chief, workdir)
    other.send_signal(signal.SIGTERM)
    for process in (chief, other):  # which is told by its peer
        _, err = _end(process, 143)
        last = err.splitlines()[-1]
        stopped = int(re.fullmatch(r"stopped by SIGTERM after round (\d+); the .*", last)[1])
        assert stopped == _round(workdir) < ROUNDS
    for number, num_workers in ((signal.SIGHUP, 2), (signal.SIGINT, 1)):
        process = _start(caches, workdir, f"--num_workers={num_workers}")
        _wait_for_rounds(process, workdir)
        process.send_signal(number)
        out, err = _end(process, 128 + number)
        assert f"goes on from step {4 * stopped} of {4 * ROUNDS}" in out
        lines = [line for line in err.splitlines() if "stopped by" in line]
        assert len(lines) == 1, err
        words = rf"stopped by {number.name} after round (\d+); the same command goes on$"
        assert stopped < int(re.search(words, lines[0])[1]) == _round(workdir) < ROUNDS
        stopped = _round(workdir)
    process = _start(caches, workdir, "--num_workers=2")
    _wait_for_rounds(process, workdir)
    os.kill(worker_pids(process.pid)[1], signal.SIGKILL)
    _, err = _end(process, 0)
    assert "worker 1 was ended by SIGKILL; all workers start again from the last" in err
    assert "(2 restarts left)" in err
    _assert_same(workdir, undisturbed)


@pytest.mark.large
def test_a_chief_that_is_killed_while_it_finishes_goes_on_alone(undisturbed, caches, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(KILLER)
    workdir = tmp_path / "run"
    killer = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    last = f"round_{ROUNDS:08d}.safetensors"
    chief, other = _pair(caches, workdir, KILL_AT=f"after {last}", **killer)
    _end(chief, -signal.SIGKILL)
    _end(other, 0)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    for name in ("head.keras", "results.json"):
        kill = {"KILL_AT": f"before {name}"}
        process = _start(caches, workdir, **_member(addresses, 0), **killer, **kill)
        _end(process, -signal.SIGKILL)
        assert not (workdir / "results.json").exists()
    out, _ = _end(_start(caches, workdir, **_member(addresses, 1)), 0)
    assert out == f"{workdir} is trained: nothing is left for worker 1.\n"
    out, _ = _end(_start(caches, workdir, **_member(addresses, 0)), 0)
    assert "merged head" in out
    _assert_same(workdir, undisturbed)
    assert json.loads((workdir / "results.json").read_text())["num_workers"] == 2
    shown, _ = _end(_start(caches, workdir, **_member(addresses, 0)), 0)
    assert shown.splitlines()[-2:] == out.splitlines()[-2:]


def test_killed_while_it_finishes_it_goes_on_behind_its_last_round(caches, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(KILLER)
    workdir = tmp_path / "run"
    killer = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    few = ("--num_workers=1", "--config.total_steps=16", "--config.eval_every_rounds=2")
    few += ("--config.ist.num_subnets=2",)
    killed = _start(caches, workdir, *few, **killer, KILL_AT="before results.json")
    _end(killed, -signal.SIGKILL)
    assert not (workdir / "results.json").exists()
    last = workdir / "checkpoints/round_00000004.safetensors"
    state, rounds = last.read_bytes(), read_rounds(_log(workdir))
    out, _ = _end(_start(caches, workdir, *few), 0)
    assert "merged head" in out
    assert last.read_bytes() == state
    assert read_rounds(_log(workdir)) == rounds, "no round was trained again"
    assert json.loads((workdir / "results.json").read_text())["num_workers"] == 1


def test_while_it_meets_its_peers_it_ends_at_once(caches, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    process = _start(
        caches, tmp_path / "run", "--config.cluster.peer_timeout_s=600", **_member(addresses, 0)
    )
    while True:  # until it listens
        assert process.poll() is None
        host, port = addresses[0].split(":")
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            break
        time.sleep(0.1)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = _end(process, 143)
    assert time.monotonic() - start < 10
    assert err.splitlines()[-1] == "stopped by SIGTERM; the same command goes on"
