"""Images in folders, one folder per class."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs.contents import READ_ANEW, Stamp, content_digests, stamp_of
from sparse_ist_tf.inputs.decoding import EXTENSIONS, decode_file
from sparse_ist_tf.inputs.split import ArraySource, Split, digest

_TEST_NAMES = ("test", "val", "validation")  # the first that is there counts


def load_folder(path: str, split_seed: int = 0) -> dict[str, Split]:
    """The two parts of a folder of images.

    With train/ and test/ (or val/, validation/) inside, each with a folder per class, these are
    the parts; otherwise the folders in it are the classes, and a fifth of each class's images,
    drawn at random, is the test part. Folders inside a class's folder belong to the class; hidden
    files and files that are no images by their extension are passed over. The fingerprint is made
    of class names and of every image's path below the folder and contents, which are read when the
    folder is first seen and then only where files change, as contents.content_digests says. Where
    the folder lies, and when its files were written, doesn't matter.

    Returns:
        {"train": ..., "test": ...}, images in the order of their paths.

    Raises:
        RequestError: if the folder isn't there, holds no folders or no images, or a single class;
            if test/ has a class that train/ lacks; or if a class is too small to be split.
    """
    name, root = f"folder:{path}", Path(path).expanduser()
    if not path or not root.is_dir():
        raise RequestError(f"{name}: there is no such folder")
    inside = _folders(root)
    test = next((t for t in _TEST_NAMES if t in inside), None)
    if "train" in inside and test:
        classes, train_files = _scan(name, root / "train")
        test_classes, test_files = _scan(name, root / test)
        if unknown := sorted(set(test_classes) - set(classes)):
            raise RequestError(f"{root / test / unknown[0]}: a class that {root / 'train'} lacks")
        parts = {"train": train_files, "test": test_files}
        known = _known(root, *parts.values())
        return {part: _split(name, part, classes, some, known) for part, some in parts.items()}
    if inside == ["train"]:
        root = root / "train"
    classes, files = _scan(name, root)
    for label in classes:
        if len(files[label]) < 2:
            raise RequestError(f"{root / label}: one image; a split needs at least two")
    parts = stratified_split(_labels(classes, files), split_seed)
    known = _known(root, files)
    return {part: _split(name, part, classes, files, known, r) for part, r in parts.items()}


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


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__"))]
    return sorted(names)


def _scan(name: str, root: Path) -> tuple[list[str], dict[str, list[os.DirEntry]]]:
    """Classes in alphabetic order, and each one's files in the order of their paths."""
    classes = _folders(root)
    if not classes:
        raise RequestError(f"{name}: {root} must hold a folder of images per class, has none")
    files = {label: sorted(_images(str(root / label)), key=lambda f: f.path) for label in classes}
    for label in classes:
        if not files[label]:
            raise RequestError(f"{root / label}: no images; known are {', '.join(EXTENSIONS)}")
    if len(classes) == 1:
        raise RequestError(f"{name}: {root} has a single class, {classes[0]!r}; at least 2 needed")
    return classes, files


def _images(folder: str) -> Iterator[os.DirEntry]:
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in shown:
        if entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
            yield entry
        elif entry.is_dir():
            yield from _images(entry.path)


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
