import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.aid import ARCHIVE

DATA = os.environ.get("SPARSE_IST_DATA")
CLASSES = ("Airport", "Beach", "Viaduct")


def jpeg(number):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (number, number, number)).save(file, format="JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def manual(tmp_path):
    """A small archive of AID, unpacked in the folder where TFDS looks."""
    folder = tmp_path / "downloads" / "manual"
    for label in CLASSES:
        (folder / "AID" / label).mkdir(parents=True)
        for i in range(20):
            path = folder / "AID" / label / f"{label.lower()}_{i + 1}.jpg"
            path.write_bytes(jpeg(10 * CLASSES.index(label) + i))
    return folder


def pack(manual):
    with zipfile.ZipFile(manual / "AID.zip", "w") as archive:
        for path in manual.rglob("*.jpg"):
            archive.write(path, path.relative_to(manual))
        archive.writestr("__MACOSX/AID/Beach/._beach_1.jpg", b"x")
    shutil.rmtree(manual / "AID")


def rows(split):
    return [
        (int(r["label"]), int(r["image"][0, 0, 0])) for r in split.dataset(16).as_numpy_iterator()
    ]


def test_an_archive_is_prepared_once_packed_or_not(manual):
    splits = datasets.load("aid", data_dir=str(manual.parent.parent))
    assert (splits["train"].size, splits["test"].size) == (51, 9)
    assert splits["train"].num_classes == 30
    train, test = rows(splits["train"]), rows(splits["test"])
    numbers = sorted((int(np.round(v)), label) for label, v in train + test)
    expected = sorted((10 * k + i, {0: 0, 1: 3, 2: 29}[k]) for k in range(3) for i in range(20))
    assert numbers == expected
    pack(manual)
    again = datasets.load("aid", data_dir=str(manual.parent.parent))
    assert again["train"].fingerprint == splits["train"].fingerprint
    shutil.rmtree(manual.parent.parent / "aid")
    packed = datasets.load("aid", data_dir=str(manual.parent.parent))
    assert rows(packed["train"]) == train
    assert rows(packed["test"]) == test


def test_the_order_of_the_archive_does_not_matter(tmp_path):
    """Also where two classes have a file of the same name."""
    found = []
    for order in (1, -1):
        with zipfile.ZipFile(tmp_path / "AID.zip", "w") as archive:
            for name in ("Beach/1.jpg", "Port/1.jpg", "Port/2.jpg")[::order]:
                archive.writestr(f"AID/{name}", b"")
        found.append(ARCHIVE.opened(tmp_path)[0])
    assert found[0] == found[1]


def test_archives_that_can_not_be_used(manual):
    (manual / "AID" / "Zoo").mkdir()
    (manual / "AID" / "Zoo" / "zoo_1.jpg").write_bytes(jpeg(0))
    with pytest.raises(RequestError, match="AID: 'Zoo' is none of the 30 classes"):
        datasets.load("aid", data_dir=str(manual.parent.parent))
    shutil.rmtree(manual / "AID")
    (manual / "AID.zip").write_bytes(b"cut short")
    with pytest.raises(RequestError, match=r"AID\.zip: damaged .*download it again"):
        datasets.load("aid", data_dir=str(manual.parent.parent))
    (manual / "AID.zip").unlink()
    (manual / "AID").mkdir()
    with pytest.raises(RequestError, match="AID: holds no JPEG images"):
        datasets.load("aid", data_dir=str(manual.parent.parent))
    (manual / "AID").rmdir()
    with pytest.raises(RequestError, match=r"neither AID\.zip nor AID/"):
        ARCHIVE.opened(manual)


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="SPARSE_IST_DATA is not set")
def test_the_builder_splits_like_the_prepared_set():
    """The split is that of every set prepared with seed 1234, image by image."""
    import random

    names = []
    for part in ("train", "test"):
        [file] = Path(DATA).glob(f"aid/1.0.0/aid-{part}*")
        wanted = {"filename": tf.io.FixedLenFeature((), tf.string)}
        data = tf.data.TFRecordDataset(str(file))
        data = data.map(lambda r, w=wanted: tf.io.parse_single_example(r, w))
        names += [row["filename"].decode() for row in data.as_numpy_iterator()]
    expected = sorted(names)
    random.Random(1234).shuffle(expected)
    assert names == expected
