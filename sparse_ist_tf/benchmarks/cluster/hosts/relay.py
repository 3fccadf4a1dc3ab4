"""Delays and loses what hosts send, where the kernel has no netem.

A process of its own, which lasts until its standard input ends. It holds a pair of TAP devices for
each host: the host's eth0 in the host's network namespace, and the bridge's port of that host in
the switch's. What a host sends waits in a queue, or is dropped; what comes for it passes at once.
The devices go with the process.

Source: https://docs.kernel.org/networking/tuntap.html.
"""

import collections
import contextlib
import dataclasses
import fcntl
import gc
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.workers.seclusion import enter

TUN = "/dev/net/tun"
_SET_INTERFACE, _TAP, _NO_INFORMATION = 0x400454CA, 0x0002, 0x1000
_READY = b"ready\n"
_AT_A_TIME = 64  # frames of one device, before another's turn


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is relayed, and how.

    Args:
        switch: id of a process in the network namespace of the bridge.
        hosts: of each host a process in its namespace.
        delay_s: from a host to the bridge, in seconds.
        loss: share of the frames from a host that are dropped.
        frame: bytes of the largest frame.
        seed: of which frames are dropped.
    """

    switch: int
    hosts: Sequence[int]
    delay_s: float
    loss: float
    frame: int
    seed: int = 0


@contextlib.contextmanager
def relaying(plan: Plan) -> Iterator[None]:
    """Relays as long as this context lasts; eth0 and port0, port1, ... are there, and down.

    Raises:
        RunError: if the devices can't be made.
    """
    text = json.dumps(dataclasses.asdict(plan))
    with subprocess.Popen(
        [sys.executable, "-m", __spec__.name, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        if process.stdout.readline() != _READY:
            lines = process.communicate()[1].decode(errors="replace").splitlines()
            raise RunError(f"can't relay between hosts: {(lines or ['no reason is given'])[-1]}")
        try:
            yield
        finally:
            process.stdin.close()


def relay(plan: Plan) -> None:
    """Makes the devices, says so, and relays until standard input ends."""
    ports: dict[int, int] = {}  # from a host's device to its port
    for number, host in enumerate(plan.hosts):
        enter(host)
        device = _tap("eth0")
        enter(plan.switch)
        ports[device] = _tap(f"port{number}")
    _come_first()
    gc.disable()  # nothing here has cycles
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    _pass_on(plan, ports, {port: device for device, port in ports.items()})


def _pass_on(plan: Plan, outward: dict[int, int], inward: dict[int, int]) -> None:
    waiting: collections.deque[tuple[float, int, bytes]] = collections.deque()
    draw = random.Random(plan.seed).random
    devices = [0, *outward, *inward]
    while True:
        rest = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable = select.select(devices, (), (), rest)[0]
        if 0 in readable:
            return
        due = time.monotonic() + plan.delay_s
        for device in readable:
            for frame in _frames(device, plan.frame):
                if device in inward:
                    _write(inward[device], frame)
                elif draw() >= plan.loss:
                    waiting.append((due, outward[device], frame))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _write(*waiting.popleft()[1:])


def _frames(device: int, size: int) -> Iterator[bytes]:
    for _ in range(_AT_A_TIME):
        try:
            yield os.read(device, size)
        except OSError:  # nothing more, or the device is down
            return


def _write(device: int, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # a device that is down loses what comes
        os.write(device, frame)


def _tap(name: str) -> int:
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _TAP | _NO_INFORMATION)
    fcntl.ioctl(device, _SET_INTERFACE, request)
    return device


def _come_first() -> None:
    """Before whatever computes: a link is no slower because its hosts are busy."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


if __name__ == "__main__":
    relay(Plan(**json.loads(sys.argv[1])))
