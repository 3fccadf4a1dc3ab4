"""Hosts that are network namespaces, joined by a bridge, every link shaped.

The namespaces have no names: the system removes them with the processes that hold them, however
these end, and all devices and queues with them.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sparse_ist_tf.benchmarks.cluster.hosts.relay import TUN, Plan, relaying
from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.workers.seclusion import Seclusion

CONGESTION = "cubic"  # Linux' default, whatever this machine has
_WAYS = "/proc/sys/net/ipv4/tcp_available_congestion_control"
_PORT = 2222
_FRAME = 18  # bytes of Ethernet's header, with a VLAN's tag
_NO_IPV6 = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"


def check_machine(congestion: str = CONGESTION) -> None:
    """Makes sure that this machine can have such hosts.

    Args:
        congestion: TCP's way to meet a full link.

    Raises:
        RequestError: naming what is missing.
    """
    missing = [] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["root"]
    missing += [f"iproute2's {name}" for name in ("ip", "tc") if not shutil.which(name)]
    if missing:
        raise RequestError(f"cluster: needs {' and '.join(missing)}, to make and shape hosts")
    ways = Path(_WAYS).read_text().split()
    if congestion not in ways:
        raise RequestError(f"--congestion={congestion}: must be one of {', '.join(ways)} here")


class Hosts:
    """Some machines, as their processes see it, each with an address of its own.

    Args:
        count: of them.
        shape: of each one's link.
        congestion: TCP's way to meet a full link, one of those that the kernel has.
        may_use_netem: False for the relay even where the kernel has netem.
    """

    def __init__(
        self,
        count: int,
        shape: LinkShape,
        congestion: str = CONGESTION,
        may_use_netem: bool = True,
    ):
        self.count, self.shape, self.congestion = count, shape, congestion
        self._may_use_netem = may_use_netem
        self._sides: list[Seclusion] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Hosts":
        check_machine(self.congestion)
        with contextlib.ExitStack() as stack:
            self._sides = [stack.enter_context(Seclusion()) for _ in range(self.count + 1)]
            if not all(side.holds for side in self._sides):
                raise RequestError("cluster: needs network namespaces")
            self._join(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def addresses(self) -> list[str]:
        """host:port of a worker on each."""
        return [f"10.77.0.{host + 1}:{_PORT}" for host in range(self.count)]

    def within(self, host: int, command: Sequence[str]) -> list[str]:
        """The command that runs a command on a host."""
        return self._sides[host].within(command)

    def holder(self, host: int) -> int:
        """The id of a process on a host."""
        return self._sides[host].holder

    def _join(self, stack: contextlib.ExitStack) -> None:
        switch, shape, hosts = self.count, self.shape, range(self.count)
        self._do(
            switch,
            _NO_IPV6,
            "ip link add br0 type bridge forward_delay 0",
            f"ip link set br0 mtu {shape.mtu} up",
        )
        netem = shape.needs_emulation and self._may_use_netem and self._has_netem()
        if shape.needs_emulation and not netem:
            if not os.path.exists(TUN):
                raise RequestError(f"--links={shape}: needs tc's netem or {TUN}")
            plan = Plan(
                self.holder(switch),
                [self.holder(host) for host in hosts],
                shape.delay_s,
                shape.loss,
                shape.mtu + _FRAME,
            )
            stack.enter_context(relaying(plan))
        else:
            far = self.holder(switch)
            for host in hosts:
                peer = f"type veth peer name port{host} netns {far}"
                self._do(host, f"ip link add eth0 {peer}")
        for host in hosts:
            self._do(
                host,
                _NO_IPV6,
                *self._shaping("eth0", netem),
                f"ip link set eth0 mtu {shape.mtu} up",
                f"ip address add 10.77.0.{host + 1}/24 noprefixroute dev eth0",
                # A namespace can't choose a way that this machine restricts; a route of it can.
                f"ip route add 10.77.0.0/24 dev eth0 congctl {self.congestion}",
            )
        lines = [
            line
            for host in hosts
            for line in (
                *self._shaping(f"port{host}", False),
                f"ip link set port{host} mtu {shape.mtu} master br0 up",
            )
        ]
        self._do(switch, *lines)

    def _has_netem(self) -> bool:
        probe = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        return not subprocess.run(self.within(self.count, probe), capture_output=True).returncode

    def _shaping(self, device: str, netem: bool) -> list[str]:
        """Commands that shape what a device sends.

        Args:
            device: its name.
            netem: whether it delays and loses, too.
        """
        above, lines, shape = "root handle 1:", [], self.shape
        if netem:
            # Room for what is under way and a burst of as much.
            packets = 1000 + round(2 * (shape.rate or 1e10) / 8 * shape.delay_s / shape.mtu)
            wanted = f"delay {shape.delay_s * 1e3:g}ms loss {shape.loss * 100:g}% limit {packets}"
            lines.append(f"tc qdisc add dev {device} root handle 1: netem {wanted}")
            above = "parent 1:1 handle 2:"
        if shape.rate:
            lines.append(f"tc qdisc add dev {device} {above} {shape.token_bucket()}")
        return lines

    def _do(self, side: int, *lines: str) -> None:
        """Runs lines of a shell on a host, or on the switch, which is behind the last."""
        script = "\n".join(lines)
        command = self.within(side, ["sh", "-ec", script])
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"status {done.returncode}"
            raise RunError(f"a host can't be set up: {said}")
