"""Two sides of a link in namespaces, of which nothing is left."""

import subprocess
import sys

import pytest

from sparse_ist_tf.benchmarks.faults.drill import NotPossible
from sparse_ist_tf.benchmarks.faults.network import Network

_SERVE = "import socket; s = socket.create_server(('', 2222)); print(1, flush=True); s.accept()"
_REACH = "import socket; socket.create_connection(('10.77.0.2', 2222), timeout=2).close()"


def _interfaces():
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout.count("\n")


def test_a_link_goes_down_and_up_and_goes():
    try:
        with Network() as network:
            before = _interfaces()
            assert network.addresses == ["10.77.0.1:2222", "10.77.0.2:2222"]
            reach = network.within(0, [sys.executable, "-c", _REACH])
            serve = network.within(1, [sys.executable, "-c", _SERVE])
            with subprocess.Popen(serve, stdout=subprocess.PIPE) as server:
                server.stdout.readline()
                network.set_link(1, False)
                assert subprocess.run(reach, stderr=subprocess.DEVNULL).returncode != 0
                network.set_link(1, True)
                assert subprocess.run(reach).returncode == 0
                assert server.wait(10) == 0
    except NotPossible as error:
        pytest.skip(str(error))
    assert _interfaces() == before
