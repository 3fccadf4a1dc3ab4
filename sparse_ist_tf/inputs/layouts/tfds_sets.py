"""Any image classification set of TensorFlow Datasets, `tfds:NAME/CONFIG:VERSION`."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs.folder import stratified_split
from sparse_ist_tf.inputs.layouts.parts import role_of

_NAME = re.compile(r"tfds:(?P<name>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?")


def data_places(data_dir: str | None) -> tuple[Path, list[Path]]:
    """Where TFDS prepares data sets, and where they are looked for, the first place first.

    Raises:
        RequestError: if a data_dir is given and isn't there.
    """
    default = os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    home = Path(data_dir or default).expanduser()
    places = [home]
    if not data_dir and os.environ.get("SPARSE_IST_DATA"):
        places.insert(0, Path(os.environ["SPARSE_IST_DATA"]).expanduser())
    if data_dir and not home.is_dir():
        raise RequestError(f"data_dir={data_dir}: there is no such folder")
    return home, places


def opened(name: str, prepared: Path) -> tfds.core.DatasetBuilder:
    """A data set that has been prepared.

    Raises:
        RunError: if it can't be read.
    """
    try:
        return tfds.builder_from_directory(prepared)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{name}: can't read {prepared}: {reason}") from error


def find_any(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """A data set as it is prepared, or has been prepared now.

    Args:
        name: "tfds:NAME", with /CONFIG and :VERSION where wanted; otherwise the only configuration
            that is prepared, and the newest version.
        data_dir: as datasets.load.

    Raises:
        RequestError: if TFDS knows no such set, or several configurations are prepared.
        RunError: if it can't be downloaded, prepared or read.
    """
    asked = _NAME.fullmatch(name)
    if not asked:
        raise RequestError(
            f"dataset.name={name!r}: must be as tfds:mnist or tfds:NAME/CONFIG:1.0.0"
        )
    home, places = data_places(data_dir)
    for place in places:
        folders = _versions(place / asked["name"], asked["config"], asked["version"])
        if len(configs := sorted({folder.parent.name for folder in folders})) > 1:
            raise RequestError(
                f"{name}: is prepared as {', '.join(configs)}; name one, as {name}/{configs[0]}"
            )
        if folders:
            return opened(name, max(folders, key=lambda f: tfds.core.Version(f.name)))
    known = name.removeprefix("tfds:")
    try:
        builder = tfds.builder(known, data_dir=home)
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError:
        where = " or ".join(map(str, places))
        raise RequestError(f"{name}: TFDS knows no such data set, and none is in {where}") from None
    except Exception as error:  # from TFDS's network, archives and files
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{name}: could not be prepared in {home} ({type(error).__name__}: {reason}); where "
            f"there is a network, `tfds build {known} --data_dir=DIR` makes it, to be copied there"
        ) from error
    return builder


def _versions(folder: Path, config: str | None, version: str | None) -> list[Path]:
    """Folders of prepared versions: below a configuration's, or straight below the data set's."""
    wanted = version or "*"
    found = [] if config else list(folder.glob(f"{wanted}/dataset_info.json"))
    found = found or list(folder.glob(f"{config or '*'}/{wanted}/dataset_info.json"))
    folders = [info.parent for info in found]
    return [folder for folder in folders if tfds.core.Version.is_valid(folder.name)]


def image_and_label(name: str, features: tfds.features.FeatureConnector) -> tuple[str, str]:
    """The names of a set's image and of its label.

    Raises:
        RequestError: if it has none, or several, or images that are no bytes of colours.
    """
    if not isinstance(features, tfds.features.FeaturesDict):
        kind = type(features).__name__
        raise RequestError(f"{name}: its records are {kind}; must have an image and a label")
    found = []
    for kind, what in ((tfds.features.Image, "image"), (tfds.features.ClassLabel, "label")):
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        keys = [what] if what in keys else keys
        if len(keys) != 1:
            has = ", ".join(
                f"{key} ({type(value).__name__})" for key, value in sorted(features.items())
            )
            raise RequestError(
                f"{name}: has {has}; must have one {what} ({kind.__name__}), has {len(keys)}"
            )
        found += keys
    image = features[found[0]]
    if image.np_dtype != np.uint8:
        raise RequestError(f"{name}: its images are {np.dtype(image.np_dtype)}; must be uint8")
    return found[0], found[1]


def used_parts(name: str, parts: Iterable[str]) -> list[str]:
    """The parts that matter: train with test or validation, or the only one.

    Raises:
        RequestError: if it isn't clear which.
    """
    names = list(parts)
    roles = {part: found.role for part in names if (found := role_of(part)) and not found.rest}
    if "train" not in roles.values():
        if len(names) == 1:
            return names
        raise RequestError(f"{name}: has the parts {', '.join(names)}; one must be train")
    order = {"train": 0, "test": 1, "val": 2}
    return sorted(roles, key=lambda part: order[roles[part]])


def parts_of_any(
    name: str, labels: Mapping[str, np.ndarray], seed: int
) -> dict[str, tuple[str, np.ndarray]]:
    """Which records are trained on and tested with.

    Args:
        name: for errors.
        labels: int32[n] by part, the training part first; -1 where a test's labels are secret.
        seed: of the split where there is one part.

    Returns:
        {"train": (part, int64 rows), "test": likewise}.

    Raises:
        RequestError: if labels are missing, or a class can't be split.
    """
    train, *others = labels
    if (labels[train] < 0).any():
        raise RequestError(f"{name}: records of {train} have no label")
    test = next((part for part in others if len(labels[part]) and (labels[part] >= 0).all()), "")
    if test:
        return {
            role: (part, np.arange(len(labels[part])))
            for role, part in (("train", train), ("test", test))
        }
    if not len(labels[train]) or (np.bincount(labels[train]) == 1).any():
        raise RequestError(f"{name}: {train} can't be split, a class has less than two images")
    return {role: (train, rows) for role, rows in stratified_split(labels[train], seed).items()}
