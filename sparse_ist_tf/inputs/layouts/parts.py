"""Which folders are classes, and which are parts such as train/ and test/ with classes in them."""

import collections
import dataclasses
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs.layouts.tree import Folder, Skipped

_WORDS = {
    "train": ("training", "train"),
    "test": ("testing", "test"),
    "val": ("validation", "valid", "val", "dev"),
}
_ROLES = {word: role for role, words in _WORDS.items() for word in words}
_PART = re.compile(
    rf"(?P<before>(?:.*[_\-. ])?)(?P<word>{'|'.join(_ROLES)})"
    r"(?P<after>(?:[_\-. ].*|set|data|images|imgs)?)",
    re.IGNORECASE | re.DOTALL,
)
PARTS_SHOWN = "train, training, val, valid, validation, dev, test, testing"


class Role(NamedTuple):
    """What a folder's name says of it.

    Args:
        role: "train", "test" or "val".
        rest: the name without that word, which parts of the same data have alike.
    """

    role: str
    rest: str


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the classes are.

    Args:
        train: the folder with a folder per class, of which a part may have to be cut off.
        test: the test part's; None where there is none.
        left_out: parts that aren't used, by name.
    """

    train: Folder
    test: Folder | None = None
    left_out: tuple[Folder, ...] = ()


def role_of(name: str) -> Role | None:
    """Which part a name stands for, in any case, with what may stand before and behind it.

    Example:
        >>> from sparse_ist_tf.inputs.layouts.parts import role_of
        >>> [role_of(name) for name in ("Training", "seg_test", "train_station", "trainer")][1]
        Role(role='test', rest='seg_')
    """
    found = _PART.fullmatch(name)
    if not found:
        return None
    return Role(_ROLES[found["word"].lower()], f"{found['before']}{found['after']}".lower())


def find_layout(name: str, root: Folder, skipped: Skipped) -> Layout:
    """Tells parts from classes.

    Args:
        name: what errors call the data set.
        root: all of it.
        skipped: learns of pictures that are in neither.

    Raises:
        RequestError: where two readings are possible, naming both, or none.
    """
    root = _unwrapped(root)
    parts = _parts(name, root)
    if parts is None:
        _check_that_classes_are_none(name, root)
        _skip(skipped, "pictures beside the classes' folders", root.path, root)
        return Layout(root)
    if others := [folder for folder in root.folders if folder not in parts.values()]:
        _refuse(name, root, [folder.name for folder in parts.values()], others)
    for folder in root.unread:
        skipped.add("folders without pictures", f"{folder}/")
    _skip(skipped, "pictures beside the parts' folders", root.path, root)
    parts = {role: _unwrapped(folder) for role, folder in parts.items()}
    for folder in parts.values():
        _skip(skipped, "pictures beside the classes' folders", root.path, folder)
    test = parts.get("test", parts.get("val"))
    left = (parts["val"],) if test and "val" in parts and test is not parts["val"] else ()
    for folder in left:
        path = os.path.relpath(folder.path, root.path)
        skipped.add(f"pictures in {path}/, as there is a test part", f"{path}/", _size(folder))
    return Layout(parts["train"], test, left)


def _unwrapped(folder: Folder) -> Folder:
    """What is in a folder that holds nothing but one folder of folders."""
    while folder.holds_folders and len(folder.folders) == 1 and folder.folders[0].holds_folders:
        folder = folder.folders[0]
    return folder


def _parts(name: str, root: Folder) -> dict[str, Folder] | None:
    """Folders by their role; None where they are classes."""
    groups = collections.defaultdict(list)
    for folder in root.folders:
        if found := role_of(folder.name):
            groups[found.rest].append((found.role, folder))
    some = max(groups.values(), key=len, default=[])
    roles = [role for role, _ in some]
    if len(some) < 2:
        return None
    names = [folder.name for _, folder in some]
    if len(set(roles)) < len(roles):
        raise RequestError(
            f"{name}: {_listed(names)} may be classes, or parts of which one is there twice; "
            "rename or move what is too much"
        )
    if flat := [folder.name for _, folder in some if not folder.holds_folders]:
        raise RequestError(
            f"{name}: {_listed(names)} may be classes, or parts, which need a folder per class "
            f"each ({flat[0]} has pictures of its own); rename the classes, or give the folder "
            "that has a folder per class, or a labels.csv"
        )
    if "train" not in roles:
        raise RequestError(
            f"{name}: {_listed(names)} may be classes, or parts, of which train is missing; rename "
            "the classes, or the part to be trained on to train"
        )
    return dict(some)


def _check_that_classes_are_none(name: str, root: Folder) -> None:
    """Refuses classes that look like parts under another name."""
    inside = {tuple(folder.names()) for folder in root.folders if folder.holds_folders}
    is_alike = len(inside) == 1 and len(next(iter(inside))) > 1
    if is_alike and len(root.folders) > 1 and all(f.holds_folders for f in root.folders):
        [classes] = inside
        raise RequestError(
            f"{name}: {_listed(root.names())} may be classes, or parts with the classes "
            f"{_listed(classes)}; rename parts to one of {PARTS_SHOWN}, or put the pictures of a "
            "class into one folder"
        )


def _refuse(name: str, root: Folder, parts: Sequence[str], others: Sequence[Folder]) -> None:
    beside = [folder.name for folder in others]
    raise RequestError(
        f"{name}: {_listed(root.names())} may be classes, or {_listed(parts)} parts with "
        f"{_listed(beside)} beside them; move {beside[0]} away for parts, or rename {parts[0]}"
    )


def _skip(skipped: Skipped, reason: str, root: str, folder: Folder) -> None:
    if folder.files:
        path = os.path.relpath(folder.files[0].path, root)
        skipped.add(reason, path, len(folder.files))


def _size(folder: Folder) -> int:
    return sum(1 for _ in folder.pictures())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
