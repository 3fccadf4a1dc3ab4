"""Hosts behind shaped links: delay, loss and rate are what was asked for, and nothing is left."""

import os
import signal
import statistics
import subprocess
import sys
import time

import pytest

from sparse_ist_tf.benchmarks.cluster.hosts.network import Hosts
from sparse_ist_tf.benchmarks.cluster.hosts.relay import TUN
from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.benchmarks.faults.processes import is_alive, wait_until
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.runs.rounds_log import interface_bytes
from tests.benchmarks.cluster.possible import needs_hosts

pytestmark = needs_hosts
needs_tun = pytest.mark.skipif(not os.path.exists(TUN), reason=f"needs {TUN}")
_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5000))
print(flush=True)
while True:
    s.sendto(*s.recvfrom(100))
"""
# One in flight at a time; the first one finds the way.
_ASK = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("10.77.0.1", 5000))
s.settimeout(1)
for n in range({count} + 1):
    start = time.monotonic()
    s.send(b"%d" % n)
    s.recv(100)
    if n:
        print(time.monotonic() - start)
"""
# All at once, as fast as the rate allows; what comes back is counted by number.
_FLOOD = """
import select, socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("10.77.0.1", 5000))
seen = set()
for n in range({count}):
    s.send(b"%d" % n)
    time.sleep(0.0004)
    while select.select([s], [], [], 0)[0]:
        seen.add(s.recv(100))
while select.select([s], [], [], 1)[0]:
    seen.add(s.recv(100))
print(len(seen))
"""
_SINK = """
import socket, time
with socket.create_server(("", 5000)) as s:
    print(flush=True)
    c, _ = s.accept()
count, begun, first = 0, time.monotonic(), None
while data := c.recv(1 << 16):
    count += len(data)
    if first is None and time.monotonic() > begun + 1:  # behind the slow start
        first = time.monotonic(), count
print(8 * (count - first[1]) / (time.monotonic() - first[0]))
"""
_SEND = """
import socket
with socket.create_connection(("10.77.0.1", 5000)) as s:
    s.sendall(bytes({count}))
"""


def _python(hosts, host, code):
    return hosts.within(host, [sys.executable, "-S", "-c", code])


def _serve(hosts, code):
    server = subprocess.Popen(_python(hosts, 0, code), stdout=subprocess.PIPE, text=True)
    server.stdout.readline()
    return server


def _ask(hosts, code):
    server = _serve(hosts, _ECHO)
    try:
        asked = subprocess.run(
            _python(hosts, 1, code), stdout=subprocess.PIPE, text=True, check=True, timeout=60
        )
    finally:
        server.kill()
        server.communicate()
    return [float(line) for line in asked.stdout.split()]


@needs_tun
def test_the_relay_delays_each_way():
    with Hosts(2, LinkShape(delay_s=0.02), may_use_netem=False) as hosts:
        seconds = _ask(hosts, _ASK.format(count=40))
    assert min(seconds) >= 0.04
    assert statistics.median(seconds) == pytest.approx(0.04, abs=0.006)


@needs_tun
def test_the_relay_loses_its_share():
    with Hosts(2, LinkShape(loss=0.02), may_use_netem=False) as hosts:
        (came,) = _ask(hosts, _FLOOD.format(count=4000))
    # There and back: 4,000 * 0.98**2 with a standard deviation of 12.
    assert came == pytest.approx(4000 * 0.98**2, abs=60)


@pytest.mark.parametrize(
    ("text", "relayed"),
    [
        ("20mbit", False),
        pytest.param("10mbit/10ms", True, marks=needs_tun),
        pytest.param("100mbit/2ms", True, marks=[needs_tun, pytest.mark.large]),
    ],
)
def test_a_transfer_has_the_rate_of_the_link(text, relayed):
    shape = LinkShape.parse(text)
    with Hosts(3, shape, may_use_netem=not relayed) as hosts:
        server = _serve(hosts, _SINK)
        before = interface_bytes(hosts.holder(2))["sent"]
        count = round(shape.rate / 8 * 3)
        subprocess.run(_python(hosts, 2, _SEND.format(count=count)), check=True, timeout=60)
        rate = float(server.communicate(timeout=60)[0])
        sent = interface_bytes(hosts.holder(2))["sent"] - before
    assert rate == pytest.approx(shape.rate, rel=0.1)
    assert count < sent < 1.1 * count


def test_what_the_kernel_has_is_used_if_it_does_the_same():
    """Netem where it is there, the relay elsewhere."""
    with Hosts(2, LinkShape(delay_s=0.03)) as hosts:
        seconds = _ask(hosts, _ASK.format(count=10))
    assert statistics.median(seconds) == pytest.approx(0.06, abs=0.01)


def _interfaces():
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout.count("\n")


@needs_tun
def test_nothing_is_left():
    before = _interfaces()
    with Hosts(2, LinkShape(delay_s=0.001)) as hosts:
        holders = [hosts.holder(host) for host in range(3)]
        assert len({os.readlink(f"/proc/{pid}/ns/net") for pid in (*holders, "self")}) == 4
    assert wait_until(lambda: not any(map(is_alive, holders)), 5)
    assert _interfaces() == before


def test_a_way_that_the_kernel_lacks_is_one_line():
    with (
        pytest.raises(RequestError, match=r"--congestion=teleport: must be one of .*reno"),
        Hosts(2, LinkShape(), congestion="teleport"),
    ):
        pass


@needs_tun
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_hosts_go_with_who_made_them(end):
    code = (
        "import time\n"
        "from sparse_ist_tf.benchmarks.cluster.hosts.network import Hosts\n"
        "from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape\n"
        "with Hosts(2, LinkShape(1e7, 0.01)) as hosts:\n"
        "    print(*(hosts.holder(host) for host in range(3)), flush=True)\n"
        "    time.sleep(60)\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    holders = [int(word) for word in maker.stdout.readline().split()]
    spaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in holders}
    assert _inhabitants(spaces) >= set(holders)
    maker.send_signal(end)
    maker.communicate()
    deadline = time.monotonic() + 10
    while _inhabitants(spaces) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _inhabitants(spaces)


def _inhabitants(spaces):
    """Processes in some network namespaces."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/ns/net") in spaces:
                found.add(int(name))
        except OSError:
            continue
    return found
