"""Images and labels as arrays in a NumPy archive, `npz:FILE`; nothing in it is ever unpickled."""

import dataclasses
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError, RunError, printable
from sparse_ist_tf.inputs.folder import stratified_split
from sparse_ist_tf.inputs.split import Element, Split, digest

_WORDS = {"train": ("train",), "test": ("test",), "val": ("val", "valid", "validation")}
_PAIRS = ("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_x", "{}_y"), ("images_{}", "labels_{}")
_WHOLE = ("images", "labels"), ("x", "y"), ("data", "labels"), ("data", "target")
_CLASS_NAMES = ("class_names", "label_names", "classes", "names")
_NEEDED = "must have x_train and y_train, train_images and train_labels, or images and labels"
_LOCAL_HEADER = 30  # bytes of a zip's member in front of its name


@dataclasses.dataclass(frozen=True, eq=False)
class MappedSource:
    """Images of an array that may lie in a file, each read when it is asked for.

    Args:
        images: uint8[n, height, width] or uint8[n, height, width, 1, 3 or 4].
        rows: int64[size], which of them belong to the split.
    """

    images: np.ndarray
    rows: np.ndarray

    def stream(self, start: int, stop: int) -> tf.data.Dataset:
        """Places in the array of images start to stop of the split."""
        return tf.data.Dataset.from_tensor_slices(self.rows[start:stop])

    def decode(self, element: Element) -> tf.Tensor:
        """The image at a place; runs in a graph."""
        image = tf.numpy_function(self._at, [element], tf.uint8)
        return tf.ensure_shape(image, (*self.images.shape[1:3], 3))

    def _at(self, row: int) -> np.ndarray:
        image = self.images[row]
        if image.ndim == 2:
            image = image[..., None]
        return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]

    def take(self, rows: np.ndarray) -> "MappedSource":
        """The source of these images alone."""
        return dataclasses.replace(self, rows=self.rows[rows])


def load_arrays(path: str, split_seed: int = 0) -> dict[str, Split]:
    """The two parts of a NumPy archive.

    With x_train, y_train, x_test and y_test, or train_images, train_labels and so on as MedMNIST
    has them, these are the parts; a part val or valid is the test part where there is no other.
    Of images and labels alone a fifth of each class, drawn at random, is the test part. Names may
    be in any case. Arrays that aren't compressed stay in the file until an image is asked for.

    Args:
        path: of the file.
        split_seed: of the draw.

    Returns:
        {"train": ..., "test": ...}, images in the order of the file.

    Raises:
        RequestError: if the file isn't there or is no such archive, or its arrays don't fit.
        RunError: if it can't be read.
    """
    name, file = f"npz:{path}", Path(path).expanduser()
    if not path or not file.is_file():
        raise RequestError(f"{name}: there is no such file")
    arrays = _Archive(name, file)
    pairs = _pairs(arrays)
    if not pairs:
        raise RequestError(f"{name}: has {', '.join(arrays.shown()) or 'no arrays'}; {_NEEDED}")
    parts = {role: _checked(name, arrays, *pair) for role, pair in pairs.items()}
    names, parts = _classes(name, arrays, parts)
    left = parts.pop("val") if {"val", "test"} <= parts.keys() else None
    notes = [f"left out: {len(left[1]):,} images to validate with"] if left else []
    if "val" in parts:
        parts["test"] = parts.pop("val")
    rows = {part: np.arange(len(labels)) for part, (_, labels) in parts.items()}
    if "test" not in parts:
        images, labels = parts["train"]
        counts = np.bincount(labels, minlength=len(names))
        if few := [names[i] for i in np.flatnonzero(counts == 1)]:
            raise RequestError(f"{name}: class {few[0]!r}: one image; a split needs at least two")
        rows = stratified_split(labels, split_seed)
        parts = dict.fromkeys(rows, (images, labels))
    digests = {id(images): digest(images) for images, _ in parts.values()}
    return {
        part: Split(
            name=f"{name}/{part}",
            source=MappedSource(images, rows[part]),
            labels=labels[rows[part]],
            class_names=names,
            fingerprint=digest(
                "npz", part, names, digests[id(images)], labels[rows[part]], rows[part]
            ),
            notes=tuple(notes) if part == "train" else (),
        )
        for part, (images, labels) in parts.items()
    }


class _Archive:
    """The arrays of a file by their names in small letters."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, path
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError) as error:
            raise RequestError(f"{name}: is no .npz archive ({error})") from None
        names = (
            (m.filename.removesuffix(".npy"), m) for m in members if m.filename.endswith(".npy")
        )
        self._members = {called.lower(): member for called, member in names}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def shown(self) -> list[str]:
        return [printable(name) for name in self._members]

    def get(self, name: str) -> np.ndarray:
        """An array; mapped from the file where it isn't compressed."""
        member = self._members[name]
        try:
            with open(self.path, "rb") as file:
                if member.compress_type == zipfile.ZIP_STORED:
                    return self._mapped(file, member)
                with zipfile.ZipFile(file) as archive, archive.open(member) as content:
                    return np.lib.format.read_array(content, allow_pickle=False)
        except (ValueError, zipfile.BadZipFile, struct.error, EOFError) as error:
            reason = " ".join(str(error).split())
            raise RequestError(f"{self.name}: {printable(name)} can't be read ({reason})") from None
        except (OSError, MemoryError) as error:
            raise RunError(f"{self.name}: {printable(name)} can't be read ({error})") from None

    def _mapped(self, file, member: zipfile.ZipInfo) -> np.ndarray:
        """Source: PKZIP's APPNOTE, section 4.3.7, for what lies in front of a member's content."""
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
        file.seek(sum(struct.unpack("<HH", header[26:30])), 1)  # its name, and what is extra
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in read:
            raise ValueError(f"it is of NumPy's format {version}")
        shape, fortran, dtype = read[version](file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which would have to be unpickled")
        if not all(shape):
            return np.zeros(shape, dtype)
        return np.memmap(
            self.path,
            dtype=dtype,
            mode="r",
            offset=file.tell(),
            shape=shape,
            order="F" if fortran else "C",
        )


def _pairs(arrays: _Archive) -> dict[str, tuple[str, str]]:
    """Names of images and labels by part."""
    found = {}
    for role, words in _WORDS.items():
        for word in words:
            for pair in _PAIRS:
                images, labels = (name.format(word) for name in pair)
                if images in arrays and labels in arrays:
                    found.setdefault(role, (images, labels))
    if "train" in found:
        return found
    whole = next((pair for pair in _WHOLE if pair[0] in arrays and pair[1] in arrays), None)
    return {"train": whole} if whole and not found else {}


def _checked(name: str, arrays: _Archive, image_name: str, label_name: str):
    """Images, and labels as they are written, of a part."""
    images, labels = arrays.get(image_name), arrays.get(label_name)
    is_picture = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3, 4))
    if images.dtype != np.uint8 or not is_picture or not all(images.shape):
        raise RequestError(
            f"{name}: {image_name} is {images.dtype}{list(images.shape)}; must be uint8[n, height, "
            "width] or uint8[n, height, width, 3]"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iubU" or len(labels) != len(images):
        raise RequestError(
            f"{name}: {label_name} is {labels.dtype}{list(labels.shape)}; must be a whole number "
            f"or a text for each of the {len(images):,} images"
        )
    return images, np.asarray(labels)


def _classes(name: str, arrays: _Archive, parts: Mapping):
    """Class names, and the parts with int32 labels that count them."""
    named = next((key for key in _CLASS_NAMES if key in arrays), "")
    first = parts["train"][1]
    if named and first.dtype.kind != "U":
        found = arrays.get(named)
        if found.ndim != 1 or found.dtype.kind != "U":
            raise RequestError(
                f"{name}: {named} is {found.dtype}{list(found.shape)}; must be texts"
            )
        values = np.arange(len(found))
        names = tuple(str(label) for label in found)
    else:
        values = np.unique(first)
        names = tuple(str(value) for value in values.tolist())
    if len(names) < 2:
        raise RequestError(f"{name}: has a single class, {names[0]!r}; at least 2 needed")
    out = {}
    for role, (images, labels) in parts.items():
        if labels.dtype.kind == "b":
            labels = labels.astype(np.int64)
        known = np.isin(labels, values.astype(labels.dtype) if labels.dtype.kind != "U" else values)
        if not known.all():
            lacks = "class_names" if named else "the training part"
            raise RequestError(f"{name}: label {labels[~known][0]!s} of {role} is none of {lacks}")
        out[role] = images, np.searchsorted(values, labels).astype(np.int32)
    return names, out
