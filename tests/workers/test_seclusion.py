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
