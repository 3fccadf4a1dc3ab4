"""A network of their own for the workers of this machine: a loopback that nobody else can reach.

TensorFlow's server listens at all addresses, and does what whoever reaches it asks. Linux can give
processes a network namespace, which has nothing but a loopback interface; without root's rights it
takes a user namespace around it, in which everybody stays who they are.

Source: the manual pages network_namespaces(7), user_namespaces(7) and netdevice(7).
"""

import ctypes
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1
_READY = b"ready\n"


class Seclusion:
    """A network namespace that lasts as long as this context, and the processes in it.

    Args:
        is_wanted: False for none.

    Example:
        >>> import subprocess
        >>> from sparse_ist_tf.workers.seclusion import Seclusion
        >>> with Seclusion() as seclusion:
        ...     done = subprocess.run(seclusion.within(["true"]))
        >>> done.returncode
        0
    """

    def __init__(self, is_wanted: bool = True):
        self._is_wanted = is_wanted
        self._holder: subprocess.Popen | None = None

    @property
    def holds(self) -> bool:
        """Whether this system allowed it; commands run as they are where it didn't."""
        return self._holder is not None

    @property
    def holder(self) -> int | None:
        """The id of the process that holds it; None where none does."""
        return self._holder.pid if self._holder else None

    def within(self, command: Sequence[str]) -> list[str]:
        """The command that runs a command in there."""
        if self._holder is None:
            return list(command)
        return [sys.executable, "-m", __spec__.name, str(self._holder.pid), *command]

    def __enter__(self) -> "Seclusion":
        if not self._is_wanted or sys.platform != "linux":
            return self
        holder = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if holder.stdout.readline() == _READY:
            self._holder = holder
        else:
            _end(holder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._holder is not None:
            _end(self._holder)
            self._holder = None


def _end(holder: subprocess.Popen) -> None:
    holder.stdin.close()
    holder.stdout.close()
    holder.wait()


def hold() -> None:
    """Moves this process into a network namespace of its own, until its standard input ends.

    Raises:
        OSError: if the system doesn't allow it.
    """
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEW_NETWORK)
    except PermissionError:
        _call("unshare", _NEW_USER | _NEW_NETWORK)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _raise_loopback()
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    sys.stdin.read()


def enter(holder: int) -> None:
    """Moves this process to where a holder is.

    Args:
        holder: id of a process that holds.

    Raises:
        OSError: if the system doesn't allow it, or there is no such process.
    """
    kinds = ["net"]
    if os.readlink(f"/proc/{holder}/ns/user") != os.readlink("/proc/self/ns/user"):
        kinds.insert(0, "user")
    opened = [os.open(f"/proc/{holder}/ns/{kind}", os.O_RDONLY) for kind in kinds]
    for descriptor in opened:
        _call("setns", descriptor, 0)
        os.close(descriptor)


def _call(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _raise_loopback() -> None:
    import fcntl  # not on Windows, where nothing of this is called

    with socket.socket() as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        hold()
    else:
        enter(int(sys.argv[1]))
        os.execvp(sys.argv[2], sys.argv[2:])
