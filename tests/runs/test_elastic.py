"""A training that goes on without workers that are lost, and takes them back; real processes."""

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

from sparse_ist_tf.workers.launch import free_ports
from tests.fixtures.processes import SMALL_RUN, worker_pids

ROUNDS = 160
SMALL = (
    *SMALL_RUN,
    f"--config.total_steps={4 * ROUNDS}",
    "--config.eval_every_rounds=1000",
    "--config.checkpoint_every_rounds=10",
)


class _Runs:
    """Starts processes of one run after another; none outlives the test."""

    def __init__(self, folder: Path, caches: Path):
        self.folder, self.caches = folder, caches
        self.workdir = folder / "run"
        self.processes: list[subprocess.Popen] = []

    def start(self, *arguments, **environment):
        """A process, and the path of what it says on stderr."""
        kept = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        command = [sys.executable, "-m", "sparse_ist_tf.train", *SMALL, *arguments]
        path = self.folder / f"stderr_{len(self.processes)}"
        with open(path, "w") as stderr:
            process = subprocess.Popen(
                [*command, f"--workdir={self.workdir}"],
                env={
                    **kept,
                    "XDG_CACHE_HOME": str(self.caches),
                    "TF_DETERMINISTIC_OPS": "1",
                    **environment,
                },
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        self.processes.append(process)
        return process, path

    def member(self, addresses, worker, *arguments):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
        arguments = ("--elastic_wait_s=6", *arguments)
        return self.start("--elastic", *arguments, TF_CONFIG=json.dumps(task))

    def wait_for_checkpoint(self):
        _wait_for(lambda: list(self.workdir.glob("checkpoints/[!.]*.safetensors")))

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


def _wait_for(condition, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_open(address):
    host, port = address.split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def _lines(path):
    """The lines of a process that aren't progress bars'."""
    lines = path.read_text().replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith(("warning: ", "error: ", "stopped "))]


@pytest.fixture(scope="module")
def undisturbed(feature_cache, tmp_path_factory):
    """The directory of a run of one worker that nothing happened to."""
    runs = _Runs(tmp_path_factory.mktemp("undisturbed"), feature_cache)
    process, path = runs.start("--num_workers=1")
    assert process.wait(400) == 0, path.read_text()
    return runs.workdir


@pytest.fixture
def runs(feature_cache, tmp_path):
    """Of one test."""
    with contextlib.closing(_Runs(tmp_path, feature_cache)) as runs:
        yield runs


def _assert_same(workdir, other, num_workers):
    """The same weights, bit for bit, and the same results but for the number of workers."""
    name = f"checkpoints/round_{ROUNDS:08d}.safetensors"
    states = [load_file(path / name) for path in (workdir, other)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[1].items():
        assert np.array_equal(states[0][key], value), key
    one, two = (json.loads((path / "results.json").read_text()) for path in (workdir, other))
    assert one["accuracy"] == two["accuracy"]
    assert one["num_workers"] == num_workers


@pytest.mark.large
@pytest.mark.parametrize(("num_workers", "victim"), [(3, 2), (2, 0)])
def test_local_workers_go_on_without_one_and_take_it_back(undisturbed, runs, num_workers, victim):
    process, path = runs.start(f"--num_workers={num_workers}", "--elastic")
    runs.wait_for_checkpoint()
    os.kill(worker_pids(process.pid)[victim], signal.SIGKILL)
    assert process.wait(400) == 0, path.read_text()
    assert _lines(path) == [
        f"warning: worker {victim} was ended by SIGKILL; {num_workers - 1} of {num_workers} "
        "workers go on from the last checkpoint (2 restarts left)",
        f"warning: all {num_workers} workers go on from the checkpoint",
    ]
    _assert_same(runs.workdir, undisturbed, num_workers)


def _lose_worker_2(runs):
    """Three workers of TF_CONFIG, of which one is killed behind the first checkpoint."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    chief, other, lost = (runs.member(addresses, worker) for worker in range(3))
    runs.wait_for_checkpoint()
    lost[0].kill()
    words = f"warning: 2 of 3 workers go on, without worker 2 ({addresses[2]})"
    _wait_for(lambda: all(words in _lines(path) for _, path in (chief, other)))
    return addresses, (chief, other)


@pytest.mark.large
def test_workers_of_a_cluster_go_on_without_one(undisturbed, runs):
    addresses, workers = _lose_worker_2(runs)
    for index, (process, path) in enumerate(workers):
        assert process.wait(400) == 0, path.read_text()
        first, *_, second = _lines(path)
        assert re.fullmatch(
            rf"warning: worker {index} lost worker .*; who is left goes on from the last "
            r"checkpoint \(2 restarts left\)",
            first,
        )
        assert f"without worker 2 ({addresses[2]})" in second
    _assert_same(runs.workdir, undisturbed, 2)


@pytest.mark.large
def test_a_lost_worker_of_a_cluster_is_taken_back(undisturbed, runs):
    addresses, workers = _lose_worker_2(runs)
    late = runs.member(addresses, 2)
    for process, path in (*workers, late):
        assert process.wait(400) == 0, path.read_text()
    for _, path in workers:
        said = [line for line in _lines(path) if "waits until" not in line]  # where it takes long
        assert said[2:] == ["warning: all 3 workers go on from the checkpoint"]
    # Said where that takes a while.
    assert _lines(late[1]) in ([], ["warning: worker 2 waits until the run takes it in"])
    _assert_same(runs.workdir, undisturbed, 3)


def test_a_signal_ends_the_one_that_it_is_sent_to(runs):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    few = "--config.ist.num_subnets=2"
    (chief, path), (other, said) = (runs.member(addresses, worker, few) for worker in range(2))
    runs.wait_for_checkpoint()
    other.terminate()
    assert other.wait(400) == 143, said.read_text()
    assert re.fullmatch(r"stopped by SIGTERM after round \d+; .*", _lines(said)[-1])
    words = f"warning: 1 of 2 workers go on, without worker 1 ({addresses[1]})"
    _wait_for(lambda: _lines(path)[-1:] == [words])
    chief.terminate()
    assert chief.wait(400) == 143, path.read_text()
    late, said = runs.member(addresses, 1, few)
    _wait_for(lambda: _is_open(addresses[1]))
    late.terminate()
    assert late.wait(60) == 143
    assert _lines(said) == ["stopped by SIGTERM; the same command goes on"]
