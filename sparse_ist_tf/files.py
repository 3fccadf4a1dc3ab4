"""Files that are either whole or not there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sparse_ist_tf.errors import RunError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary neighbour that takes a file's place once it is written and on the disk.

    Args:
        path: of the file; folders above it are made.

    Yields:
        The neighbour's path, with the same suffix.

    Raises:
        OSError: if it can't be written; what stood at path stays, and the neighbour goes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file, as replacing() does.

    Raises:
        OSError: if it can't be written; what stood there stays.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns an OSError into one line that names the file.

    Raises:
        RunError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror or error}") from None


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Removes what killed processes left anywhere below a folder that nobody is writing to."""
    for path in Path(folder).rglob(".*.tmp*"):
        if path.suffix == ".tmp" or path.with_suffix("").suffix == ".tmp":
            with contextlib.suppress(OSError):
                path.unlink()


def write_file(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file, as write_atomically() does.

    Raises:
        RunError: if it can't be written; what stood there stays.
    """
    with writing(path):
        write_atomically(path, data)
