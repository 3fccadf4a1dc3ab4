"""Sets of TFDS that have no name of their own here."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs import datasets
from tests.fixtures.tfds_sets import PLAIN, example, prepare

DATA = os.environ.get("SPARSE_IST_DATA")


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    monkeypatch.delenv("SPARSE_IST_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))


def numbers(split):
    return [int(row["image"][0, 0, 0]) for row in split.dataset(4).as_numpy_iterator()]


@pytest.mark.parametrize("other", ["test", "validation", "valid"])
def test_parts_image_and_label_are_found(tmp_path, other):
    folder = prepare(tmp_path, {"train": 8, other: 4, "unlabelled": 3})
    splits = datasets.load("tfds:made", data_dir=folder)
    assert splits["train"].class_names == ("cat", "dog")
    for part, size in (("train", 8), ("test", 4)):
        assert splits[part].size == size
        assert [n % 2 for n in numbers(splits[part])] == splits[part].labels.tolist()
    assert splits["train"].notes == (f"parts: train to train on, {other} to test",)
    again = datasets.load("tfds:made:1.0.0", data_dir=folder)["train"]
    assert again.labels.tolist() == splits["train"].labels.tolist()


def test_of_both_the_test_part_counts_unless_its_labels_are_secret(tmp_path):
    parts = {"train": 8, "validation": 4, "test": 6}
    folder = prepare(tmp_path / "a", parts)
    assert datasets.load("tfds:made", data_dir=folder)["test"].size == 6
    # TFDS has -1 for what only the makers of a benchmark know.
    count = iter(range(1000))

    def secret(i):
        number = next(count)
        return example(i) | {"species": -1 if number >= 12 else i % 2}

    folder = prepare(tmp_path / "b", parts, make=secret)
    splits = datasets.load("tfds:made", data_dir=folder)
    assert min(splits["test"].labels) == 0
    assert splits["test"].size in (4, 6)


@pytest.mark.parametrize("only", ["train", "full"])
def test_a_lone_part_is_split(tmp_path, only):
    folder = prepare(tmp_path, {only: 20})
    splits = datasets.load("tfds:made", data_dir=folder)
    assert (splits["train"].size, splits["test"].size) == (16, 4)
    assert np.bincount(splits["test"].labels).tolist() == [2, 2]
    assert sorted(numbers(splits["train"]) + numbers(splits["test"])) == list(range(20))


def test_grey_images(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(4, 5, 1)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    folder = prepare(
        tmp_path,
        {"train": 6, "test": 4},
        features,
        lambda i: {"image": np.full((4, 5, 1), i, np.uint8), "label": i % 2},
    )
    splits = datasets.load("tfds:made", data_dir=folder)
    assert splits["train"].class_names == ("0", "1")
    assert sorted(numbers(splits["train"])) == list(range(6))


REFUSED = {
    "no label": ({"image": PLAIN["photo"], "label": tfds.features.Text()}, "must have one label"),
    "no image": ({"x": tfds.features.Text(), "label": PLAIN["species"]}, "must have one image"),
    "two images": (
        {"left": PLAIN["photo"], "right": PLAIN["photo"], "label": PLAIN["species"]},
        r"has label \(ClassLabel\), left \(Image\), right \(Image\); must have one image",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_set_of_images_and_labels(tmp_path, case):
    features, says = REFUSED[case]
    picture = np.zeros((4, 4, 3), np.uint8)

    def make(i):
        return {
            key: picture
            if isinstance(kind, tfds.features.Image)
            else i % 2
            if isinstance(kind, tfds.features.ClassLabel)
            else "x"
            for key, kind in features.items()
        }

    folder = prepare(tmp_path, {"train": 4}, features, make)
    with pytest.raises(RequestError, match=says):
        datasets.load("tfds:made", data_dir=folder)


def test_configurations_are_named(tmp_path):
    for config in ("small", "large"):
        folder = prepare(tmp_path / config, {"train": 8, "test": 4})
        target = tmp_path / "all" / "made" / config
        target.parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / "made").rename(target)
    with pytest.raises(RequestError, match="is prepared as large, small; name one"):
        datasets.load("tfds:made", data_dir=str(tmp_path / "all"))
    splits = datasets.load("tfds:made/small", data_dir=str(tmp_path / "all"))
    assert splits["train"].size == 8
    assert datasets.load("tfds:made/large:1.0.0", data_dir=str(tmp_path / "all"))["test"].size == 4


def test_parts_without_train(tmp_path):
    folder = prepare(tmp_path, {"left": 4, "right": 4})
    with pytest.raises(RequestError, match="has the parts left, right; one must be train"):
        datasets.load("tfds:made", data_dir=folder)


@pytest.mark.parametrize("name", ["tfds:", "tfds:a b", "tfds:made:new", "tfds:../made"])
def test_names_that_can_be_none(tmp_path, name):
    with pytest.raises(RequestError, match="must be as tfds:mnist"):
        datasets.load(name, data_dir=str(tmp_path))


def test_a_set_that_nobody_knows(tmp_path):
    with pytest.raises((RequestError, RunError), match="tfds:no_such_set: ") as caught:
        datasets.load("tfds:no_such_set", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="SPARSE_IST_DATA is not set")
def test_cifar10_is_the_same_by_both_names():
    named, found = (datasets.load(name, data_dir=DATA) for name in ("cifar10", "tfds:cifar10"))
    for part in ("train", "test"):
        assert np.array_equal(named[part].labels, found[part].labels)
        assert named[part].class_names == found[part].class_names
