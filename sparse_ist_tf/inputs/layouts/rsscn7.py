"""A TFDS builder for RSSCN7, whose images have to be downloaded by hand."""

import io
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from sparse_ist_tf.inputs.layouts.archives import Archive

SPLIT_SEED = 1234
_CLASSES = ("Grass", "Field", "Industry", "RiverLake", "Forest", "Resident", "Parking")
# The authors' folders have a letter in front: aGrass, bField, ...
_FOLDERS = {f"{letter}{name}": name for letter, name in zip("abcdefg", _CLASSES, strict=True)}
ARCHIVE = Archive("RSSCN7", _FOLDERS | {name: name for name in _CLASSES})


class Rsscn7(tfds.core.GeneratorBasedBuilder):
    """2,800 aerial images of 400 x 400 pixels in 7 classes, half of each class to train on.

    Reads RSSCN7.zip, or the folder RSSCN7/, in TFDS's folder for manual downloads. An archive with
    fewer images is split likewise.

    Source: "Deep Learning Based Feature Selection for Remote Sensing Scene Classification" (Zou et
    al., 2015), which trains on half of the images.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Clone https://github.com/palewithout/RSSCN7 into the manual_dir: a folder RSSCN7 with a "
        "folder per class, or pack it as RSSCN7.zip."
    )

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=_CLASSES),
            "filename": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="RSSCN7: scenes from Google Earth at four scales.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://github.com/palewithout/RSSCN7",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        names, read = ARCHIVE.opened(Path(dl_manager.manual_dir))
        random.Random(SPLIT_SEED).shuffle(names)
        by_class = defaultdict(list)
        for name in names:
            by_class[_label(name)].append(name)
        trained = {name for some in by_class.values() for name in some[: (len(some) + 1) // 2]}
        return {
            "train": self._generate_examples([n for n in names if n in trained], read),
            "test": self._generate_examples([n for n in names if n not in trained], read),
        }

    def _generate_examples(self, names, read) -> Iterator[tuple[int, dict]]:
        for key, name in enumerate(names):
            image = io.BytesIO(read(name))
            yield (
                key,
                {
                    "image": image,
                    "label": _label(name),
                    "filename": PurePosixPath(name).name,
                },
            )


def _label(name):
    return ARCHIVE.label_of[PurePosixPath(name).parent.name]
