"""What picture files hold, as digests: read once, and known until something writes to them."""

import concurrent.futures
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sparse_ist_tf.errors import warn
from sparse_ist_tf.files import cache_home, write_atomically
from sparse_ist_tf.inputs.pictures import may_tell, read_anew

UNREADABLE = "unreadable"  # in place of a digest
READ_ANEW = "+"  # behind that of a file of which versions before read other pixels
_WORTH_FILES, _WORTH_BYTES = 1000, 1 << 24  # less is read again as soon as it is looked up
_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system, FAT's
_CHUNK, _BLOCK = 64, 1 << 20  # files of a thread's turn, bytes of a read
_HEAD, _TAIL = 1 << 18, 1 << 16  # bytes in which a picture tells how it lies


class Stamp(NamedTuple):
    """What a file system notes of a file whenever something writes to it.

    Args:
        size: in bytes.
        modified_ns: when its contents were written, which copies and archives may set back.
        changed_ns: when anything of it was, which nobody can set.
    """

    size: int
    modified_ns: int
    changed_ns: int


def stamp_of(file: os.DirEntry) -> Stamp:
    """The stamp of a file; zeros where it can't be looked at."""
    try:
        found = file.stat()
    except OSError:
        return Stamp(0, 0, 0)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def content_digests(root: str | os.PathLike, stamps: Mapping[str, Stamp]) -> dict[str, str]:
    """What picture files below a folder are known by.

    Digests are kept in the user's cache, a file for each folder, and a file of the folder is read
    again where its stamp is another. So a change is noticed unless it leaves size and both times as
    they are, which takes a clock that is set back, or a file system that notes no times; what was
    written less than two seconds ago is never kept. Processes that do the same at once each write
    all of it.

    Args:
        root: the folder.
        stamps: by path below it.

    Returns:
        As digest_of, by path, in the order of stamps.
    """
    place = Path(root).resolve()
    name = hashlib.sha256(os.fsencode(place)).hexdigest()
    path = cache_home() / "contents" / f"{name[:32]}-2.json"  # before, turned ones weren't known
    worth = len(stamps) >= _WORTH_FILES or sum(s.size for s in stamps.values()) >= _WORTH_BYTES
    kept = _kept(path) if worth else {}
    known = {n: kept[n][3] for n, s in stamps.items() if n in kept and kept[n][:3] == [*s]}
    missing = [name for name in stamps if name not in known]
    settled = time.time_ns() - _SETTLED_NS
    known |= _read_all(place, missing)
    fresh = [n for n in missing if stamps[n].changed_ns < settled and known[n] != UNREADABLE]
    if worth and fresh:
        lasting = known.keys() - set(missing) | set(fresh)
        _keep(path, {n: [*s, known[n]] for n, s in stamps.items() if n in lasting})
    return {name: known[name] for name in stamps}


def _read_all(root: Path, names: list[str]) -> dict[str, str]:
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    found: dict[str, str] = {}
    pool = concurrent.futures.ThreadPoolExecutor()  # hashing and reading leave Python's lock
    try:
        bar = tqdm(total=len(names), desc=f"reading {root}", unit=" files", delay=5)
        with bar:
            for digests in pool.map(lambda some: _digests(root, some), chunks):
                found |= digests
                bar.update(len(digests))
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _digests(root: Path, names: list[str]) -> dict[str, str]:
    return {name: digest_of(root / name) for name in names}


def digest_of(path: str | os.PathLike) -> str:
    """What a picture's file is known by: SHA-256 in hex, or UNREADABLE where it can't be read.

    Of its contents and, where versions before read other pixels from it, of how it is read, with
    READ_ANEW behind it.
    """
    total, first, last, how = hashlib.sha256(), b"", b"", ""
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                total.update(block)
                first, last = first or block[:_HEAD], block[-_TAIL:]
            if may_tell(first + last):
                file.seek(0)
                how = read_anew(file.read())
    except OSError:
        return UNREADABLE
    if not how:
        return total.hexdigest()
    total.update(f", {how}".encode())
    return total.hexdigest() + READ_ANEW


def _kept(path: Path) -> dict[str, list]:
    """[*stamp, digest] by path, of a file that says what it is the digest of."""
    try:
        check, body = path.read_bytes().split(b"\n", 1)
        if check.decode() == hashlib.sha256(body).hexdigest():
            return json.loads(body)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError):
        pass
    warn(f"{path} is damaged and not used")
    return {}


def _keep(path: Path, entries: Mapping[str, list]) -> None:
    body = json.dumps(entries).encode()
    try:
        write_atomically(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    except OSError as error:
        warn(f"{path.parent}: digests of files are not cached: {error.strerror or error}")
