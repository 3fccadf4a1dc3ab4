"""Files that are either whole or not there."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from sparse_ist_tf.errors import RunError


def cache_home() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/sparse_ist_tf, or ~/.cache's.

    Source: XDG Base Directory Specification, version 0.8.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse_ist_tf"


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
    # In containers that share a disk, processes have the same ids.
    name = f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}"
    temporary = path.with_name(name)
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
