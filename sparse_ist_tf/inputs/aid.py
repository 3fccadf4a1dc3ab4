"""A TFDS builder for the Aerial Image Dataset, whose archive has to be downloaded by hand."""

import io
import random
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from sparse_ist_tf.inputs.layouts.archives import Archive

SPLIT_SEED = 1234
_TEST_SHARE = 0.15  # 1,500 of 10,000, the paper's
_CLASSES = (
    "Airport BareLand BaseballField Beach Bridge Center Church Commercial DenseResidential Desert "
    "Farmland Forest Industrial Meadow MediumResidential Mountain Park Parking Playground Pond "
    "Port RailwayStation Resort River School SparseResidential Square Stadium StorageTanks Viaduct"
)
ARCHIVE = Archive.of_classes("AID", _CLASSES.split())


class Aid(tfds.core.GeneratorBasedBuilder):
    """10,000 aerial images of 600 x 600 pixels in 30 classes, split 8,500 / 1,500 at random.

    Reads AID.zip, or the folder AID/ that comes out of it, in TFDS's folder for manual downloads.
    An archive with fewer images is split in the same proportion.

    Source: "AID: A Benchmark Data Set for Performance Evaluation of Aerial Scene Classification"
    (Xia et al., 2017); the sizes of the split are the paper's.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download AID.zip from https://captain-whu.github.io/AID/ into the manual_dir, "
        "extracted (a folder AID with a folder per class) or not."
    )

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=_CLASSES.split()),
            "filename": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Aerial Image Dataset: scenes from Google Earth.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://captain-whu.github.io/AID/",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        names, read = ARCHIVE.opened(Path(dl_manager.manual_dir))
        random.Random(SPLIT_SEED).shuffle(names)
        train = len(names) - round(_TEST_SHARE * len(names))
        return {
            "train": self._generate_examples(names[:train], read),
            "test": self._generate_examples(names[train:], read),
        }

    def _generate_examples(self, names, read) -> Iterator[tuple[int, dict]]:
        for key, name in enumerate(names):
            path, image = PurePosixPath(name), io.BytesIO(read(name))
            yield key, {"image": image, "label": path.parent.name, "filename": path.name}
