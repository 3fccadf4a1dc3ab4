"""What runs secluded reaches its own loopback, and nobody reaches it."""

import os
import socket
import subprocess
import sys
import time

import pytest

from sparse_ist_tf.workers.seclusion import Seclusion

_SERVER = """
import os, socket, sys
server = socket.create_server(("", 0), backlog=4)
port = server.getsockname()[1]
socket.create_connection(("127.0.0.1", port)).close()
open(sys.argv[1], "w").close()  # as who we were
print(port, os.getuid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def seclusion():
    with Seclusion() as found:
        if not found.holds:
            pytest.skip("this system allows no network namespace")
        yield found


def _reached(port):
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_in_there_is_out_of_reach(seclusion, tmp_path):
    command = [sys.executable, "-c", _SERVER, str(tmp_path / "written")]
    for wrapped, expected in ((command, True), (seclusion.within(command), False)):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(wrapped, **pipes) as server:
            port, user = server.stdout.readline().split()
            assert _reached(int(port)) is expected
            assert int(user) == os.getuid()
            assert (tmp_path / "written").stat().st_uid == os.getuid()
            server.stdin.close()
            assert server.wait(10) == 0


def test_processes_in_there_reach_each_other(seclusion, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(
        seclusion.within([sys.executable, "-c", _SERVER, str(tmp_path / "written")]), **pipes
    )
    port = server.stdout.readline().split()[0]
    connect = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    assert subprocess.run(seclusion.within([sys.executable, "-c", connect])).returncode == 0
    server.communicate()


def test_exit_statuses_and_signals_come_through(seclusion):
    sleep = seclusion.within([sys.executable, "-c", "import time; time.sleep(60)"])
    with subprocess.Popen(sleep) as process:
        time.sleep(0.5)
        process.terminate()
        assert process.wait(10) == -15
    assert subprocess.run(seclusion.within([sys.executable, "-c", "exit(7)"])).returncode == 7


def test_where_it_is_not_allowed_commands_run_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with Seclusion() as seclusion:
        assert not seclusion.holds
        assert seclusion.within(["true"]) == ["true"]


def test_local_workers_are_out_of_reach_and_a_cluster_of_tf_config_is_not(seclusion, tmp_path):
    """The ports of a run's workers, connected to from outside of their network."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, socket, sys, time\n"
        "task = json.loads(os.environ['TF_CONFIG'])\n"
        "port = int(task['cluster']['worker'][task['task']['index']].rsplit(':')[1])\n"
        "server = socket.create_server(('', port), backlog=4)\n"
        "print('port', port, flush=True)\n"
        "time.sleep(3)\n"
    )
    launch = (
        "import sys; from sparse_ist_tf.workers.launch import run_local_workers; "
        f"run_local_workers([sys.executable, {str(script)!r}], 2, is_secluded=sys.argv[1] == '1')"
    )
    for is_secluded in (True, False):
        command = [sys.executable, "-c", launch, str(int(is_secluded))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            ports = [int(process.stdout.readline().split()[-1]) for _ in range(2)]
            assert [_reached(port) for port in ports] == [not is_secluded] * 2
            assert process.wait(30) == 0
