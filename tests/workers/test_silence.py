"""A peer that is silent for less than cluster.peer_timeout_s is waited for; then it is named."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sparse_ist_tf.workers.launch import free_ports

_TIMEOUT_S = 14.0  # more than the 10 s of TensorFlow's own


def _wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing moved"
        time.sleep(0.1)


@pytest.fixture
def workers(tmp_path):
    """Two workers in mid-run, at more rounds than they will see."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for worker in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
        command = [
            *(sys.executable, "-m", "sparse_ist_tf.train", "--config=configs/digits.py"),
            *(f"--workdir={tmp_path / 'run'}", f"--config.features.cache_dir={tmp_path}"),
            *("--config.total_epochs=100000", "--config.head.hidden=(32,)"),
            *("--config.eval_every_epochs=0", "--config.eval_every_rounds=1"),
            *("--config.checkpoint_every_epochs=0", "--config.checkpoint_every_rounds=1"),
            f"--config.cluster.peer_timeout_s={_TIMEOUT_S}",
        ]
        processes.append(
            subprocess.Popen(
                command,
                env={**os.environ, "TF_CONFIG": json.dumps(task)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    metrics = tmp_path / "run" / "metrics.jsonl"
    _wait_for(metrics.exists, 200)
    yield processes, addresses, metrics
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.large
def test_a_pause_is_survived_and_silence_is_not(workers):
    processes, addresses, metrics = workers
    processes[1].send_signal(signal.SIGSTOP)
    time.sleep(11)
    seen = metrics.stat().st_size
    processes[1].send_signal(signal.SIGCONT)
    _wait_for(lambda: metrics.stat().st_size > seen or processes[0].poll() is not None, 100)
    assert [process.poll() for process in processes] == [None, None]
    started = time.monotonic()
    processes[1].send_signal(signal.SIGSTOP)
    _, err = processes[0].communicate(timeout=200)
    assert time.monotonic() - started > _TIMEOUT_S / 2
    assert processes[0].returncode == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"error: worker 0 lost worker 1 ({addresses[1]})"), last
