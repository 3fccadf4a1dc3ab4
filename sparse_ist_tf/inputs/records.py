"""Data sets that TensorFlow Datasets has prepared, or can prepare."""

import contextlib
import dataclasses
import importlib
import os
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs.decoding import decode_image
from sparse_ist_tf.inputs.layouts.tfds_sets import (
    data_places,
    find_any,
    image_and_label,
    opened,
    parts_of_any,
    used_parts,
)
from sparse_ist_tf.inputs.split import Element, Split, digest, keep
from sparse_ist_tf.streams import Stream
from sparse_ist_tf.tracing import as_written

_MANUAL = {  # what brings the sets that TFDS may not download
    "resisc45": (
        "NWPU-RESISC45",
        "download NWPU-RESISC45.rar (https://www.tensorflow.org/datasets/catalog/resisc45 has the "
        "link) and extract it into {manual}",
    ),
    "aid": (
        "AID*",
        "download AID.zip (https://captain-whu.github.io/AID/ has the link) into {manual}",
    ),
    "rsscn7": ("RSSCN7*", "clone https://github.com/palewithout/RSSCN7 into {manual}"),
}
_BUILDERS = {"aid": "aid.Aid", "rsscn7": "layouts.rsscn7.Rsscn7"}  # of this package
_DOWNLOADED = {"cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html"}  # where TFDS finds them
_PATIENCE = 20  # seconds
_RESISC45_TEST = 4_500 / 31_500  # the paper's 27,000 / 4,500; TFDS has all in one part


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource:
    """Images in the TFRecord files of one part of a prepared TFDS data set.

    Args:
        files: paths, in order.
        rows: int64[n], the records that belong to the split, ascending.
        name: what errors call the part.
        key: of the image in a record.
    """

    files: tuple[str, ...]
    rows: np.ndarray
    name: str
    key: str = "image"

    def stream(self, start: int, stop: int) -> tf.data.Dataset:
        """(Record, its number) of images start to stop of the split, in order."""
        rows = self.rows[start:stop]
        first, end = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        data = tf.data.Dataset.zip(
            tf.data.TFRecordDataset(list(self.files)).skip(first).take(end - first),
            tf.data.Dataset.range(first, end),
        )
        if len(rows) == end - first:
            return data
        return keep(data, np.isin(np.arange(first, end), rows, assume_unique=True))

    def decode(self, element: Element) -> tf.Tensor:
        """Decodes a record's image."""
        record, row = element
        wanted = {self.key: tf.io.FixedLenFeature((), tf.string)}
        name = tf.strings.join([self.name, ", record ", tf.strings.as_string(row)])
        return decode_image(tf.io.parse_single_example(record, wanted)[self.key], name)

    def take(self, rows: np.ndarray) -> "RecordSource":
        """The source of these images alone."""
        return dataclasses.replace(self, rows=self.rows[rows])


def load_records(name: str, data_dir: str | None = None, split_seed: int = 0) -> dict[str, Split]:
    """The two parts of a TFDS data set, prepared first where that is needed and possible.

    Looked for as datasets.load says. Images stay on disk, in their encoded form.

    Source: paper section 4 for the sizes of the parts.

    Args:
        name: one of those that have a name of their own, or "tfds:NAME/CONFIG:VERSION", of which
            the last two may be left out: the parts train and test, or validation, or a fifth of
            train or of the only part there is; the image and the label as its features tell.
        data_dir: as datasets.load.
        split_seed: as datasets.load.

    Raises:
        RequestError: if the data isn't there and has to be downloaded by hand, or has no images
            with one label each.
        RunError: if it can't be downloaded, prepared or read.
    """
    is_any = name.startswith("tfds:")
    builder = find_any(name, data_dir) if is_any else _builder(name, data_dir)
    if (found := builder.info.file_format.value) != "tfrecord":
        raise RequestError(f"{name}: {builder.data_path} has {found} files; must be tfrecord")
    image, label = image_and_label(name, builder.info.features) if is_any else ("image", "label")
    wanted = used_parts(name, builder.info.splits) if is_any else builder.info.splits
    labels = {part: _read_labels(name, builder, part, label) for part in wanted}
    if is_any:
        parts = parts_of_any(name, labels, split_seed)
    elif set(labels) == {"train"}:
        rows = Stream.SPLIT.rng(split_seed % 2**64).permutation(len(labels["train"]))
        test = round(len(rows) * _RESISC45_TEST)
        parts = {"train": ("train", np.sort(rows[test:])), "test": ("train", np.sort(rows[:test]))}
    else:
        parts = {part: (part, np.arange(len(labels[part]))) for part in ("train", "test")}
    out = {}
    for part, (stored, rows) in parts.items():
        info = builder.info.splits[stored]
        version = (str(builder.version), part, tuple(info.shard_lengths), info.num_bytes)
        out[part] = Split(
            name=f"{name}/{part}",
            source=RecordSource(_files(builder, stored), rows, f"{name}/{stored}", image),
            labels=labels[stored][rows],
            class_names=tuple(builder.info.features[label].names),
            fingerprint=digest("tfds", name, *version, rows, labels[stored]),
        )
    if is_any:
        stored = f"parts: {parts['train'][0]} to train on, {parts['test'][0]} to test"
        out["train"] = dataclasses.replace(out["train"], notes=(stored,))
    return out


def _files(builder, part: str) -> tuple[str, ...]:
    return tuple(os.fspath(path) for path in builder.info.splits[part].filepaths)


def _read_labels(name: str, builder, part: str, key: str) -> np.ndarray:
    """int32, one per record; reads all of them (about 0.4 s for CIFAR-10's 50,000)."""
    wanted = {key: tf.io.FixedLenFeature((), tf.int64)}
    data = tf.data.TFRecordDataset(list(_files(builder, part))).batch(4096)
    data = data.map(as_written(lambda records: tf.io.parse_example(records, wanted)[key]))
    try:
        labels = np.concatenate([np.zeros(0, np.int32), *(batch.numpy() for batch in data)])
    except (tf.errors.OpError, OSError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{name}: can't read {builder.data_path}: {reason}") from error
    count = builder.info.splits[part].num_examples
    if len(labels) != count:
        raise RunError(f"{name}: {builder.data_path} has {len(labels)} records of {count}")
    return labels.astype(np.int32)


def _builder(name: str, data_dir: str | None):
    home, places = data_places(data_dir)
    for place in places:
        if prepared := _prepared(place / name):
            return opened(name, prepared)
    manual = home / "downloads" / "manual"
    if name in _MANUAL:
        pattern, remedy = _MANUAL[name]
        if not any(manual.glob(pattern)):
            raise RequestError(
                f"{name}: not in {' or '.join(map(str, places))}; "
                f"{remedy.format(manual=manual)} and run the same command again"
            )
    return _prepare(name, home)


def _prepared(folder: Path) -> Path | None:
    """The newest version of a data set that has been prepared in its folder, if there is one."""
    found = [info.parent for info in folder.glob("*/dataset_info.json")]
    found = [version for version in found if tfds.core.Version.is_valid(version.name)]
    return max(found, key=lambda version: tfds.core.Version(version.name), default=None)


def _prepare(name: str, home: Path):
    try:
        if name in _DOWNLOADED:  # TFDS would try for many minutes
            with contextlib.suppress(urllib.error.HTTPError):  # is an answer
                urllib.request.urlopen(_DOWNLOADED[name], timeout=_PATIENCE).close()
        if name in _BUILDERS:
            module, _, builder_name = _BUILDERS[name].rpartition(".")
            found = importlib.import_module(f"sparse_ist_tf.inputs.{module}")
            builder = getattr(found, builder_name)(data_dir=home)
        else:
            builder = tfds.builder(name, data_dir=home)
        builder.download_and_prepare()
    except RequestError:
        raise
    except Exception as error:  # from TFDS's network, archives and files
        reason = " ".join(str(error).split())
        raise RunError(
            f"{name}: could not be prepared in {home} ({type(error).__name__}: {reason}); "
            f"where there is a network, `tfds build {name} --data_dir=DIR` makes DIR/{name}, "
            f"which can be copied to {home}"
        ) from error
    return builder
