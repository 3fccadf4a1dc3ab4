"""A folder of pictures as a tree, and what in it was passed over and why."""

import collections
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

from sparse_ist_tf.errors import printable
from sparse_ist_tf.inputs.pictures import EXTENSIONS, lacking

# What systems leave in folders beside what people put there.
_JUNK = ("__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "lost+found")
_JUNK_FILES = (".ds_store", "thumbs.db", "desktop.ini")


class Skipped:
    """What was passed over: a count and an example for each reason."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._examples: dict[str, str] = {}

    def add(self, reason: str, path: str, count: int = 1) -> None:
        """Counts what was passed over.

        Args:
            reason: what these are, in words that follow a number.
            path: of one of them, for an example.
            count: how many.
        """
        self._counts[reason] += count
        self._examples.setdefault(reason, path)

    def forget(self, reason: str, path: str) -> None:
        """Takes back what turned out not to be passed over."""
        self._counts[reason] -= 1
        self._counts += collections.Counter()  # drops what is 0
        if self._examples.get(reason) == path:
            self._examples[reason] = "..."

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        told = []
        for reason, count in sorted(self._counts.items()):
            example = printable(self._examples[reason]) + (", ..." if count > 1 else "")
            told.append(f"{count:,} {_counted(reason, count)} ({example})")
        return ", ".join(told)


def _counted(reason: str, count: int) -> str:
    return re.sub(r"(file|link|picture|folder)s", r"\1", reason, count=1) if count == 1 else reason


@dataclasses.dataclass
class Folder:
    """A folder that is looked into.

    Args:
        path: of the folder.
        name: its name.
        files: pictures straight in it, by name.
        folders: those in it that hold pictures somewhere below, by name.
        empty: names of those that hold nothing at all.
        unread: names of those that hold files, but no pictures.
        has_files: whether there are files that are no pictures in it or below.
    """

    path: str
    name: str
    files: list[os.DirEntry] = dataclasses.field(default_factory=list)
    folders: list["Folder"] = dataclasses.field(default_factory=list)
    empty: list[str] = dataclasses.field(default_factory=list)
    unread: list[str] = dataclasses.field(default_factory=list)
    has_files: bool = False

    def pictures(self) -> Iterator[os.DirEntry]:
        """All pictures in it and below."""
        yield from self.files
        for folder in self.folders:
            yield from folder.pictures()

    @property
    def holds_folders(self) -> bool:
        """Whether pictures lie in folders in it, and none beside those."""
        return bool(self.folders) and not self.files

    def names(self) -> list[str]:
        """What the folders with pictures in it are called."""
        return [folder.name for folder in self.folders]


def read_tree(root: Path, skipped: Skipped) -> Folder:
    """Looks into a folder and all below.

    Args:
        root: the folder.
        skipped: learns what is passed over: files that aren't read by their extension, hidden ones,
            broken links, and folders that systems make.
    """
    place = os.stat(root)
    above = frozenset({(place.st_dev, place.st_ino)})
    return _read(str(root), root.name, str(root), above, skipped)


def _read(path: str, name: str, root: str, above: frozenset, skipped: Skipped) -> Folder:
    found = Folder(path, name)
    with os.scandir(path) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        below = os.path.relpath(entry.path, root)
        if entry.is_dir():
            place = os.stat(entry.path)
            key = (place.st_dev, place.st_ino)
            if entry.name.startswith(".") or entry.name.lower() in _JUNK:
                if count := _count(entry.path):
                    kind = "hidden" if entry.name.startswith(".") else "systems'"
                    skipped.add(f"pictures in {kind} folders", f"{below}/", count)
            elif key in above:
                skipped.add("links back to a folder above", below)
            else:
                folder = _read(entry.path, entry.name, root, above | {key}, skipped)
                found.has_files |= folder.has_files
                if next(folder.pictures(), None):
                    found.folders.append(folder)
                else:
                    (found.unread if folder.has_files else found.empty).append(entry.name)
        elif entry.name.lower() in _JUNK_FILES:
            pass
        elif reason := _why_not(entry):
            skipped.add(reason, below)
            found.has_files = True
        elif entry.is_file():
            found.files.append(entry)
    return found


def _why_not(entry: os.DirEntry) -> str:
    """Why a file is passed over; empty where it isn't."""
    extension = os.path.splitext(entry.name)[1].lower()
    is_picture = extension in EXTENSIONS
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "broken links"
    if entry.name.startswith("."):
        return f"hidden {extension} files" if is_picture else "hidden files"
    if not is_picture:
        return f"{extension} files" if extension else "files without an extension"
    if needed := lacking(extension):
        return f"{extension} files; {needed}"
    return ""


def _count(path: str) -> int:
    found = (name for _, _, names in os.walk(path) for name in names)
    return sum(os.path.splitext(name)[1].lower() in EXTENSIONS for name in found)
