"""What a run says of its data, and of data that is no longer the same."""

import json

import numpy as np
import pytest

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs.split import ArraySource, Split
from sparse_ist_tf.reports.data_record import DataRecord
from sparse_ist_tf.reports.run_directory import RunDirectory

TRAIN = {"cat/0.png": "a" * 64, "cat/1.png": "b" * 64, "dog/0.png": "c" * 64}
TEST = {"cat/2.png": "d" * 64, "dog/1.png": "e" * 64}


def split(part, files, classes, fingerprint):
    return Split(
        name=f"folder:photos/{part}",
        source=ArraySource(np.zeros(5)),
        labels=np.zeros(max(len(files), 1), np.int32),
        class_names=classes,
        fingerprint=fingerprint,
        files=tuple(files.items()),
    )


def record(train=TRAIN, test=TEST, classes=("cat", "dog"), fingerprint="f"):
    splits = {
        part: split(part, files, classes, fingerprint)
        for part, files in (("train", train), ("test", test))
    }
    return DataRecord.of("folder:photos", splits)


CASES = {
    "nothing": ({}, ""),
    "other labels, as of a table": ({"fingerprint": "g"}, "labels of train are others"),
    "a class renamed": ({"classes": ("dog", "zebra")}, "class 'zebra' is new, 'cat' is gone"),
    "a class more": ({"classes": ("cat", "dog", "owl")}, "class 'owl' is new"),
    "a class less": ({"classes": ("cat",)}, "class 'dog' is gone"),
    "many more": (
        {"classes": ("cat", "dog", *"uvxyz")},
        "classes 'u', 'v', 'x' and 2 more are new",
    ),
    "another order": ({"classes": ("dog", "cat")}, "classes are in another order, 'dog', 'cat'"),
    "other bytes": (
        {"train": TRAIN | {"cat/1.png": "x" * 64}},
        "1 image changed (such as cat/1.png)",
    ),
    "more, less and others": (
        {"train": {"cat/0.png": "x" * 64, "dog/0.png": "c" * 64, "dog/7\n.png": "7" * 64}},
        r"1 image changed (such as cat/0.png), 1 image new (such as dog/7\n.png), "
        "1 image gone (such as cat/1.png)",
    ),
    "moved": (
        {"train": TRAIN | {"dog/1.png": "e" * 64}, "test": {"cat/2.png": "d" * 64}},
        "1 image moved to train",
    ),
    "other sizes": ({"train": {}, "test": {}}, "train has 1 image, had 3"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_is_told_in_words(case):
    changes, says = CASES[case]
    told = record().change(record(**changes))
    assert told.startswith(says)
    assert bool(told) == bool(says)
    assert "\n" not in told


def test_images_that_are_no_files_are_known_by_their_fingerprint():
    before, after = (record(train={}, test={}, fingerprint=some) for some in "fg")
    assert before.change(after) == "images or labels of train are others"
    assert record().without_files().change(record(fingerprint="g")).startswith("images or labels")


def test_a_run_directory_keeps_it(tmp_path):
    directory = RunDirectory(tmp_path)
    assert directory.data() is None
    kept = record(classes=("c\udce9t", "d\u2028og"))
    directory.save_data(kept)
    assert directory.data() == kept
    assert directory.data().place.endswith("/photos")
    assert directory.data().place.startswith("/")
    for text in ("{", "[]", json.dumps({"place": ""}), json.dumps(kept.as_dict() | {"parts": 1})):
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(RunError, match=r"data\.json is damaged"):
            directory.data()
