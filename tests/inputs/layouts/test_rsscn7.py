"""RSSCN7 as its repository has it, and as a folder of classes, in made images."""

import io
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets

FOLDERS = ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking")


@pytest.fixture
def manual(tmp_path):
    """Six images of each class, and seven of the last one, beside a clone's other files."""
    folder = tmp_path / "downloads" / "manual"
    for k, label in enumerate(FOLDERS):
        (folder / "RSSCN7" / label).mkdir(parents=True)
        for i in range(6 + (k == 6)):
            file = io.BytesIO()
            Image.new("RGB", (16, 16), (30 * k + i,) * 3).save(file, format="JPEG", quality=95)
            (folder / "RSSCN7" / label / f"{label[0]}{i + 1:03}.jpg").write_bytes(file.getvalue())
    (folder / "RSSCN7" / "README.md").write_text("# RSSCN7")
    return folder


def rows(split):
    return [
        (int(r["label"]), int(r["image"][0, 0, 0])) for r in split.dataset(16).as_numpy_iterator()
    ]


def test_half_of_each_class_is_trained_on(manual):
    home = str(manual.parent.parent)
    splits = datasets.load("rsscn7", data_dir=home)
    assert splits["train"].class_names == tuple(name[1:] for name in FOLDERS)
    assert np.bincount(splits["train"].labels).tolist() == [3] * 6 + [4]
    assert np.bincount(splits["test"].labels).tolist() == [3] * 7
    train, test = rows(splits["train"]), rows(splits["test"])
    assert all(value // 30 == label for label, value in train + test)
    assert len(set(train + test)) == 43
    with zipfile.ZipFile(manual / "RSSCN7.zip", "w") as archive:
        for path in manual.rglob("*.jpg"):
            archive.write(path, path.relative_to(manual))
    shutil.rmtree(manual / "RSSCN7")
    shutil.rmtree(manual.parent.parent / "rsscn7")
    packed = datasets.load("rsscn7", data_dir=home)
    assert [rows(packed[part]) for part in ("train", "test")] == [train, test]


def test_folders_may_have_the_classes_names(manual):
    for name in FOLDERS:
        (manual / "RSSCN7" / name).rename(manual / "RSSCN7" / name[1:])
    splits = datasets.load("rsscn7", data_dir=str(manual.parent.parent))
    assert (splits["train"].size, splits["test"].size) == (22, 21)


def test_what_is_no_rsscn7_is_refused(manual):
    (manual / "RSSCN7" / "aGrass").rename(manual / "RSSCN7" / "aGras")
    with pytest.raises(RequestError, match="RSSCN7: 'aGras' is none of the 7 classes of RSSCN7"):
        datasets.load("rsscn7", data_dir=str(manual.parent.parent))
    shutil.rmtree(manual / "RSSCN7")
    (manual / "RSSCN7.zip").write_bytes(b"cut short")
    with pytest.raises(RequestError, match=r"RSSCN7\.zip: damaged .*download it again"):
        datasets.load("rsscn7", data_dir=str(manual.parent.parent))
