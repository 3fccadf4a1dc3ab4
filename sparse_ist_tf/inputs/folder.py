"""Images in folders, one folder per class, or with a table of labels."""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.errors import RequestError, printable
from sparse_ist_tf.inputs.contents import READ_ANEW, Stamp, content_digests, stamp_of
from sparse_ist_tf.inputs.decoding import EXTENSIONS, decode_file
from sparse_ist_tf.inputs.layouts.parts import find_layout, role_of
from sparse_ist_tf.inputs.layouts.table import find_table, read_table
from sparse_ist_tf.inputs.layouts.tree import Folder, Skipped, read_tree
from sparse_ist_tf.inputs.split import ArraySource, Split, digest


def load_folder(path: str, split_seed: int = 0) -> dict[str, Split]:
    """The two parts of a folder of images.

    With train/ and test/ (or val/, dev/ and the like) inside, each with a folder per class, these
    are the parts; otherwise the folders in it are the classes, and a fifth of each class's images,
    drawn at random, is the test part. Where there are no such folders a labels.csv may say which
    image is of which class. Folders inside a class's folder belong to the class; what is passed
    over is told by the training part's notes. The fingerprint is made of class names and of every
    image's path below the folder and contents, which are read when the folder is first seen and
    then only where files change, as contents.content_digests says. Where the folder lies, and when
    its files were written, doesn't matter.

    Returns:
        {"train": ..., "test": ...}, images in the order of their classes and paths.

    Raises:
        RequestError: if the folder isn't there, holds no folders or no images, or a single class;
            if it can be read in two ways; if test/ has a class that train/ lacks; or if a class is
            too small to be split.
    """
    name, root = f"folder:{path}", Path(path).expanduser()
    if not path or not root.is_dir():
        raise RequestError(f"{name}: there is no such folder")
    skipped = Skipped()
    tree = read_tree(root, skipped)
    found = _by_table(name, root, tree, skipped) or _by_folders(name, tree, skipped)
    classes, parts = list(found.parts["train"]), found.parts
    if not classes:
        raise RequestError(
            f"{name}: {root} must hold a folder of images per class, has none{_but(skipped)}"
        )
    if len(classes) == 1:
        raise RequestError(f"{name}: {root} has a single class, {classes[0]!r}; at least 2 needed")
    if "test" in parts:
        if unknown := sorted(set(parts["test"]) - set(classes)):
            where = Path(found.where["test"]) / unknown[0]
            raise RequestError(f"{where}: a class that {found.where['train']} lacks")
        known = _known(root, *parts.values())
        splits = {part: _split(name, part, classes, some, known) for part, some in parts.items()}
    else:
        files = parts["train"]
        for label in classes:
            if len(files[label]) < 2:
                where = Path(found.where["train"]) / label
                raise RequestError(f"{where}: one image; a split needs at least two")
        rows = stratified_split(_labels(classes, files), split_seed)
        below = Path(found.where["train"])  # as ever, where train/ is alone
        known = _known(below if below.is_dir() else root, files)
        splits = {part: _split(name, part, classes, files, known, r) for part, r in rows.items()}
    notes = (*found.notes, *([f"left out: {skipped}"] if skipped else []))
    return splits | {"train": dataclasses.replace(splits["train"], notes=notes)}


class _Found(NamedTuple):
    """Files by part and class, where the parts lie, and what is worth saying of that."""

    parts: dict[str, dict[str, list[os.DirEntry]]]
    where: dict[str, str]
    notes: tuple[str, ...]


def _by_folders(name: str, tree: Folder, skipped: Skipped) -> _Found:
    layout = find_layout(name, tree, skipped)
    train, test = layout.train, layout.test
    for label in train.unread if len(train.folders) > 1 else (*train.unread, *train.empty):
        raise RequestError(
            f"{os.path.join(train.path, label)}: no images; known are {', '.join(EXTENSIONS)}"
            f"{_but(skipped)}"
        )
    parts, where = {"train": _classes(train)}, {"train": train.path}
    if test:
        parts["test"], where["test"] = _classes(test), test.path
    for folder in (train, test) if test else (train,):
        for label in (*folder.empty, *(folder.unread if folder is test else ())):
            below = os.path.relpath(os.path.join(folder.path, label), tree.path)
            skipped.add("empty folders", f"{below}/")
    shown = {part: os.path.relpath(place, tree.path) for part, place in where.items()}
    if test:
        told = f"parts: {shown['train']}/ to train on, {shown['test']}/ to test"
    elif shown["train"] != ".":
        told = f"classes are the folders in {shown['train']}/; a fifth of each is the test part"
    else:
        told = ""
    return _Found(parts, where, (printable(told),) if told else ())


def _classes(folder: Folder) -> dict[str, list[os.DirEntry]]:
    """Each class's files in the order of their paths, classes in alphabetic order."""
    found = {some.name: sorted(some.pictures(), key=lambda f: f.path) for some in folder.folders}
    return dict(sorted(found.items()))


def _by_table(name: str, root: Path, tree: Folder, skipped: Skipped) -> _Found | None:
    """What a labels.csv says, if there is one that names files."""
    table = find_table(root)
    files = {os.path.relpath(file.path, root): file for file in tree.pictures()} if table else {}
    rows = read_table(table, files) if table else None
    if not rows:
        return None
    beside = tree.names()
    if len(beside) > 1 and not any(map(role_of, beside)):
        if all(row.path.split("/")[0] == row.label for row in rows):
            return None
        raise RequestError(
            f"{name}: the folders {', '.join(map(repr, beside[:3]))} may be the classes, or what "
            f"{table.name} says; move that file away, or the pictures into one folder"
        )
    roles = {row.role for row in rows}
    if "" in roles or roles <= {"test", "val"}:
        if roles & {"test", "val"} and "train" not in roles:
            raise RequestError(f"{table}: has no pictures to train on")
        roles = {"train"}
        rows = [row._replace(role="train") for row in rows]
    test = next((role for role in ("test", "val") if role in roles), "")
    labels = sorted({row.label for row in rows if row.role == "train"}, key=_in_order)
    parts = {"train": {label: [] for label in labels}}
    if test:
        parts["test"] = {}
    left_out = 0
    for row in rows:
        if row.role in ("train", test):
            part = parts["train" if row.role == "train" else "test"]
            part.setdefault(row.label, []).append(files.pop(row.path))
        else:
            left_out += 1
            skipped.add("pictures to validate with, as there is a test part", row.path)
            del files[row.path]
    if files:
        skipped.add(f"pictures that {table.name} doesn't name", next(iter(files)), len(files))
    skipped.forget(".csv files", table.name)
    where = dict.fromkeys(parts, str(table))
    return _Found(parts, where, (f"classes are those of {table.name}",))


def _in_order(label: str) -> tuple[bool, int, str]:
    """Numbers by their value, then words."""
    is_number = label.isascii() and label.isdecimal()
    return not is_number, int(label) if is_number else 0, label


def _but(skipped: Skipped) -> str:
    return f"; passed over are {skipped}" if skipped else ""


def stratified_split(labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Splits images 80/20 at random, every class in the same proportion.

    Args:
        labels: int[n], every class at least twice.
        seed: of the draw.

    Returns:
        {"train": int64[n - m], "test": int64[m]}, ascending; m is a fifth of n, rounded up, and
        at least the number of classes.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels), dtype=np.int64)
    count = max(-(-len(rows) // 5), len(np.unique(labels)))
    train, test = train_test_split(rows, test_size=count, stratify=labels, random_state=seed)
    return {"train": np.sort(train), "test": np.sort(test)}


def _labels(classes: list[str], files: dict[str, list[os.DirEntry]]) -> np.ndarray:
    counts = [len(files.get(label, ())) for label in classes]
    return np.repeat(np.arange(len(classes), dtype=np.int32), counts)


class _Known(NamedTuple):
    """What a fingerprint says of a file."""

    name: str  # its path below the folder
    stamp: Stamp
    digest: str


def _known(root: Path, *parts: dict[str, list[os.DirEntry]]) -> dict[str, _Known]:
    """What is known of files, by their paths."""
    files = [file for part in parts for of_a_class in part.values() for file in of_a_class]
    names = {file.path: os.path.relpath(file.path, root) for file in files}
    stamps = {names[file.path]: stamp_of(file) for file in files}
    digests = content_digests(root, stamps)
    return {path: _Known(name, stamps[name], digests[name]) for path, name in names.items()}


def _split(
    name: str,
    part: str,
    classes: list[str],
    files: dict[str, list[os.DirEntry]],
    known: dict[str, _Known],
    rows: np.ndarray | None = None,
) -> Split:
    labels = _labels(classes, files)
    chosen = [file for label in classes for file in files.get(label, ())]
    if rows is not None:
        labels, chosen = labels[rows], [chosen[i] for i in rows]
    found = [known[file.path] for file in chosen]
    contents = [(file.name.replace(os.sep, "/"), file.digest) for file in found]
    stats = [(file.name, file.stamp.size, file.stamp.modified_ns) for file in found]
    earlier = digest("folder", part, tuple(classes), stats, labels)
    is_anew = any(file.digest.endswith(READ_ANEW) for file in found)
    paths = np.array([os.fsencode(f.path) for f in chosen])
    return Split(
        name=f"{name}/{part}",
        source=ArraySource(paths, decode_file),
        labels=labels,
        class_names=tuple(classes),
        fingerprint=digest("folder's contents", part, tuple(classes), contents, labels),
        earlier_fingerprint="" if is_anew else earlier,
        files=tuple(contents),
    )
