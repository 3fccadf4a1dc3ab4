"""Two network namespaces and a link between them that can be taken down."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence

from sparse_ist_tf.benchmarks.faults.drill import NotPossible
from sparse_ist_tf.workers.seclusion import Seclusion

_PORT = 2222


class Network:
    """Two machines, as their processes see it, each with an address of its own.

    The namespaces have no names: the system removes them with the processes that hold them,
    however these end, and the link with them.
    """

    def __init__(self):
        self._sides: list[Seclusion] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Network":
        if not hasattr(os, "geteuid") or os.geteuid() or not shutil.which("ip"):
            raise NotPossible("needs root and ip")
        with contextlib.ExitStack() as stack:
            self._sides = [stack.enter_context(Seclusion()) for _ in range(2)]
            if not all(side.holds for side in self._sides):
                raise NotPossible("needs network namespaces")
            other = self._sides[1].holder
            self._ip(0, f"link add eth0 type veth peer name eth0 netns {other}")
            for side in range(2):
                self._ip(side, f"address add {self._host(side)}/24 dev eth0")
                self.set_link(side, True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def addresses(self) -> list[str]:
        """host:port of a worker on each side."""
        return [f"{self._host(side)}:{_PORT}" for side in range(2)]

    def within(self, side: int, command: Sequence[str]) -> list[str]:
        """The command that runs a command on a side."""
        return self._sides[side].within(command)

    def set_link(self, side: int, up: bool) -> None:
        """Takes a side's end of the link up or down."""
        self._ip(side, f"link set eth0 {'up' if up else 'down'}")

    def _host(self, side: int) -> str:
        return f"10.77.0.{side + 1}"

    def _ip(self, side: int, arguments: str) -> None:
        command = self.within(side, ["ip", *arguments.split()])
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NotPossible(f"ip {arguments}: {done.stderr.strip()}")
