"""A folder for files that aren't proven yet, of which nothing is left however a process ends."""

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".export."
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A folder beside another, on its disk, until the block ends.

    What processes left there that were killed is removed; folders above it that were made for it go
    again if nothing was put there.

    Args:
        output: where files go in the end.

    Yields:
        The folder's path.

    Raises:
        OSError: if it can't be made.
    """
    made = [folder for folder in output.parents if not folder.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(output.parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=output.parent))
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until this process ends
        yield folder
    finally:
        with _uninterrupted():
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)
            for each in made:
                with contextlib.suppress(OSError):  # of what isn't empty
                    each.rmdir()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the block as an exception, so that what it opened is closed.

    Raises:
        SystemExit: with the status that shells give a process which a signal ended.
    """

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    asked = (signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in asked if signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _remove_left(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # of another user, or of an export at work
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Lets a second Ctrl-C wait; signals are for the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
