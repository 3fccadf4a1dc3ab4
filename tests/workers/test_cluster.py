"""A process finds its place among the workers, and says which peer is missing."""

import json
import os
import subprocess
import sys
import time

import pytest

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.workers.cluster import (
    Cluster,
    is_public,
    lost_peers,
    read_tf_config,
    slurm_tf_config,
    unreachable,
)
from sparse_ist_tf.workers.launch import free_ports


def _tf_config(cluster, kind, index):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_without_tf_config_there_is_no_cluster():
    assert read_tf_config({}) is None
    assert read_tf_config({"TF_CONFIG": ""}) is None


def test_workers_are_numbered_behind_a_chief():
    jobs = {"chief": ["c:1"], "worker": ["a:1", "b:1"]}
    chief = read_tf_config(_tf_config(jobs, "chief", 0))
    second = read_tf_config(_tf_config(jobs, "worker", 1))
    assert (chief.worker, chief.num_workers) == (0, 3)
    assert second == Cluster(2, ("c:1", "a:1", "b:1"), has_chief=True)
    assert second.peers() == {0: "c:1", 1: "a:1"}


def test_some_of_the_workers_are_a_cluster_too():
    jobs = {"chief": ["c:1"], "worker": ["a:1", "b:1"]}
    for kind, index, expected in (("chief", 0, 0), ("worker", 1, 1)):
        cluster = read_tf_config(_tf_config(jobs, kind, index))
        fewer = read_tf_config({"TF_CONFIG": cluster.tf_config((0, 2))})
        assert fewer == Cluster(expected, ("c:1", "b:1"), has_chief=True)
        assert read_tf_config({"TF_CONFIG": cluster.tf_config((0, 1, 2))}) == cluster
    plain = Cluster(2, ("a:1", "b:1", "c:1"))
    assert read_tf_config({"TF_CONFIG": plain.tf_config((0, 2))}) == Cluster(1, ("a:1", "c:1"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("[" * 100_000, "recursion"),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1e400}}',
            "inf",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0.9}}',
            "0.9",
        ),
        ('{"cluster": {"worker": ["a:99999"]}, "task": {"type": "worker", "index": 0}}', "65535"),
        ("[]", "list indices"),
        ('{"cluster": {"worker": ["a:1"]}}', "lacks 'task'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "below 1"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}', "host:port"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "lacks 'ps'"),
        (
            '{"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
            "no job but chief and worker",
        ),
    ],
)
def test_a_tf_config_that_cannot_be_understood_is_one_line(text, reason):
    with pytest.raises(RequestError, match="TF_CONFIG=") as caught:
        read_tf_config({"TF_CONFIG": text})
    assert reason in str(caught.value)


def test_slurm_makes_a_tf_config_that_is_read_again():
    environment = {
        "SLURM_STEP_NODELIST": "rack[1-2]n[07-08,12],login",
        "SLURM_STEP_TASKS_PER_NODE": "2,1(x6)",
        "SLURM_PROCID": "3",
    }
    cluster = read_tf_config({"TF_CONFIG": slurm_tf_config(environment)})
    hosts = [f"rack{rack}n{node}" for rack in (1, 2) for node in ("07", "08", "12")]
    assert cluster.addresses == (
        "rack1n07:2222",
        "rack1n07:2223",
        *(f"{host}:2222" for host in [*hosts[1:], "login"]),
    )
    assert cluster.worker == 3


def test_slurm_variables_that_do_not_fit_are_named():
    with pytest.raises(RequestError, match="SLURM_STEP_NODELIST is not set"):
        slurm_tf_config({})
    with pytest.raises(RequestError, match="have 2 and 1"):
        slurm_tf_config(
            {
                "SLURM_STEP_NODELIST": "a,b",
                "SLURM_STEP_TASKS_PER_NODE": "1",
                "SLURM_PROCID": "0",
            }
        )


def test_the_command_prints_a_tf_config():
    environment = {
        **os.environ,
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_PROCID": "1",
    }
    command = [sys.executable, "-m", "sparse_ist_tf.workers.cluster"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["task"] == {"type": "worker", "index": 1}
    environment.pop("SLURM_PROCID")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", False),
        ("10.1.2.3:1", False),
        ("192.168.0.4:1", False),
        ("[fd00::1]:1", False),
        ("8.8.8.8:1", True),
        ("[2001:4860:4860::8888]:1", True),
        ("no.such.host.invalid:1", False),
    ],
)
def test_addresses_of_the_open_network_are_told_apart(address, expected):
    assert is_public(address) is expected


def test_two_tasks_of_one_address_are_refused():
    with pytest.raises(RequestError, match="an address of its own for every task"):
        read_tf_config(_tf_config({"worker": ["a:1", "a:1"]}, "worker", 0))


def test_unreachable_peers_are_found_in_time():
    ports = free_ports(2)
    missing = {i: f"127.0.0.1:{port}" for i, port in enumerate(ports)}
    start = time.monotonic()
    assert unreachable(missing, start + 0.5).keys() == {0, 1}
    assert time.monotonic() - start < 5


def test_errors_of_a_single_worker_stay_what_they_are():
    import tensorflow as tf

    error = tf.errors.UnavailableError(None, None, "gone")
    with pytest.raises(tf.errors.UnavailableError), lost_peers(Cluster(0, ())):
        raise error


def test_a_lost_peer_is_named():
    import tensorflow as tf

    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
    error = tf.errors.UnavailableError(None, None, "Collective ops is aborted by: gone")
    with (
        pytest.raises(RunError, match=rf"worker 0 lost worker 1 \({addresses[1]}\)"),
        lost_peers(Cluster(0, addresses)),
    ):
        raise error


def test_a_worker_gives_up_on_a_missing_peer_and_names_it(tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    environment = {**os.environ, **_tf_config({"worker": addresses}, "worker", 0)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sparse_ist_tf.train", f"--workdir={tmp_path / 'run'}"),
            "--config.cluster.peer_timeout_s=2.0",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"error: worker 0 can't reach worker 1 ({addresses[1]}) within cluster.peer_timeout_s=2 s"
    )


def test_a_port_that_another_process_has_is_named(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        mine, other = f"127.0.0.1:{taken.getsockname()[1]}", f"127.0.0.1:{free_ports(1)[0]}"
        environment = {**os.environ, **_tf_config({"worker": [mine, other]}, "worker", 0)}
        done = subprocess.run(
            [sys.executable, "-m", "sparse_ist_tf.train", f"--workdir={tmp_path / 'run'}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: worker 0 can't listen at {mine}: Address already in use")
