"""The lines of docs/cluster.md that keep strangers out, run for two hosts that are namespaces."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures.processes import SMALL_RUN

ROOT = Path(__file__).parents[2]
TAG = f"{os.getpid() % 10_000}"
PORT = 2222
pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="makes network namespaces, as root"
    ),
    pytest.mark.skipif(
        not all(map(shutil.which, ("ip", "wg", "wireguard-go"))),
        reason="needs iproute2, wireguard-tools and wireguard-go",
    ),
]


def _do(*command, **more):
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, **more
    ).stdout


@pytest.fixture
def hosts():
    """Namespaces of two hosts and a stranger on one network: 192.0.2.1 to .3."""
    names = [f"h{TAG}{letter}" for letter in "abs"]
    switch, made = f"s{TAG}", []
    try:
        _do("ip", "netns", "add", switch)
        made.append(switch)
        _do("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _do("ip", "-n", switch, "link", "set", "br0", "up")
        for number, name in enumerate(names, 1):
            _do("ip", "netns", "add", name)
            made.append(name)
            pair = ("type", "veth", "peer", "name", f"p{name}", "netns", switch)
            _do("ip", "link", "add", "eth0", "netns", name, *pair)
            _do("ip", "-n", switch, "link", "set", f"p{name}", "master", "br0", "up")
            _do("ip", "-n", name, "addr", "add", f"192.0.2.{number}/24", "dev", "eth0")
            _do("ip", "-n", name, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def joined(hosts, tmp_path):
    """Namespaces of the workers, made by the documented lines."""
    text = (ROOT / "docs/cluster.md").read_text()
    lines = re.search(r"## Keeping strangers out.*?```bash\n(.*?)```", text, re.S)[1]
    first, keys, rest = lines.split("\n", 2)
    assert first == "namespace=ist device=ist0 mine=10.77.0.1"
    names = [f"w{TAG}{letter}" for letter in "ab"]
    scripts = []
    for number, (name, host) in enumerate(zip(names, hosts, strict=False), 1):
        (tmp_path / host).mkdir()
        ours = f"set -e\nnamespace={name} device=g{name} mine=10.77.0.{number}"
        _do("ip", "netns", "exec", host, "sh", "-c", f"{ours}\n{keys}", cwd=tmp_path / host)
        there = rest.replace("10.77.0.2", f"10.77.0.{3 - number}")
        scripts.append(f"{ours}\n{there.replace('192.0.2.2', f'192.0.2.{3 - number}')}")
    for mine, other, name in ((0, 1, names[1]), (1, 0, names[0])):
        public = tmp_path / hosts[other] / f"g{name}.pub"
        (tmp_path / hosts[mine] / "peer.pub").write_text(public.read_text())
    try:
        for host, script in zip(hosts, scripts, strict=False):
            # Only the names of namespaces are the machine's: the rest is done on the host.
            inside = ["nsenter", f"--net=/run/netns/{host}", "bash", "-c", script]
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run(inside, check=True, timeout=60, cwd=tmp_path / host, **silent)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _reached(namespace: str, address: str) -> bool:
    """Whether a connection out of a namespace to a worker's port is accepted."""
    code = f"import socket; socket.create_connection(({address!r}, {PORT}), timeout=2)"
    command = ["ip", "netns", "exec", namespace, sys.executable, "-S", "-c", code]
    return not subprocess.run(command, capture_output=True).returncode


def test_workers_train_where_only_they_are(hosts, joined, tmp_path):
    """Each reaches the other; a stranger on the hosts' network reaches neither."""
    addresses = [f"10.77.0.{number}:{PORT}" for number in (1, 2)]
    arguments = (
        *SMALL_RUN,
        "--config.total_steps=400",
        f"--workdir={tmp_path / 'run'}",
    )
    workers = []
    for index, namespace in enumerate(joined):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        environment = os.environ | {"TF_CONFIG": config, "XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "sparse_ist_tf.train", *arguments]
        started = ["ip", "netns", "exec", namespace, *command]
        workers.append(subprocess.Popen(started, env=environment, stderr=subprocess.PIPE))
    try:
        seen = {"peer": 0, "stranger": 0}
        while any(worker.poll() is None for worker in workers):
            seen["peer"] += _reached(joined[1], "10.77.0.1")
            targets = ("192.0.2.1", "192.0.2.2", "10.77.0.1", "10.77.0.2")
            seen["stranger"] += sum(_reached(hosts[2], address) for address in targets)
            time.sleep(0.3)
        said = [worker.communicate()[1].decode() for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], said
        assert seen["peer"] > 0
        assert seen["stranger"] == 0
        assert (tmp_path / "run/head.keras").exists()
    finally:
        for worker in workers:
            worker.kill()
