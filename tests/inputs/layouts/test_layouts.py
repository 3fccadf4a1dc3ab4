"""Folders as people have them: parts and classes told apart, nothing dropped unsaid."""

import os

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.folder import load_folder
from sparse_ist_tf.inputs.layouts.parts import role_of
from sparse_ist_tf.inputs.layouts.summary import summary


def fill(root, files):
    """Writes a picture, or for other extensions some text, under each name."""
    for number, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".png", ".jpg")):
            Image.new("RGB", (6, 5), (number, 7, 7)).save(path)
        else:
            path.write_text("x")


def grid(parts, classes="ab", count=3):
    return [f"{p}/{c}/{i}.png" for p in parts for c in classes for i in range(count)]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "valid"),
        ("Train", "Val"),
        ("TRAINING", "TESTING"),
        ("train", "dev"),
        ("Training", "validation"),
        ("seg_train", "seg_test"),
        ("train_images", "test_images"),
        ("my-train", "my-val"),
        ("trainset", "testset"),
        ("photos/train", "photos/test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)
def test_parts_are_known_by_their_names(tmp_path, train, test):
    fill(tmp_path, grid((train, test), ("cat", "dog", "owl")))
    splits = load_folder(str(tmp_path))
    assert splits["train"].class_names == ("cat", "dog", "owl")
    assert (splits["train"].size, splits["test"].size) == (9, 9)
    assert splits["train"].notes == (f"parts: {train}/ to train on, {test}/ to test",)


def test_of_three_parts_the_one_to_validate_with_is_left_out_and_said(tmp_path):
    fill(tmp_path, grid(("train", "val", "test")))
    splits = load_folder(str(tmp_path))
    assert (splits["train"].size, splits["test"].size) == (6, 6)
    assert "left out: 6 pictures in val/, as there is a test part" in splits["train"].notes[1]


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (grid((".",), ("bus", "car", "train")), ("bus", "car", "train")),
        (grid((".",), ("test_tube", "train_station")), ("test_tube", "train_station")),
        (grid((".",), ("__other__", "_x")), ("__other__", "_x")),
        (grid(("train",)), ("a", "b")),
        (grid(("archive/photos",)), ("a", "b")),
        (["a/x/0.png", "a/y/0.png", "b/x/0.png", "b/1.png"], ("a", "b")),
    ],
)
def test_classes_are_not_taken_for_parts(tmp_path, files, classes):
    fill(tmp_path, files)
    assert load_folder(str(tmp_path))["train"].class_names == classes


REFUSED = {
    "flat parts": (
        [f"{part}/{i}.jpg" for part in ("train", "test") for i in range(4)],
        "'test', 'train' may be classes, or parts, which need a folder per class",
    ),
    "one is flat": (
        [*grid(("train",)), "test/0.jpg"],
        r"may be classes, or parts, which .* \(test has pictures of its own\)",
    ),
    "something beside": (
        [*grid(("train", "val")), "unlabeled/0.png"],
        "may be classes, or 'train', 'val' parts with 'unlabeled' beside them",
    ),
    "an unknown part": (
        grid(("train", "holdout"), ("cat", "dog")),
        "'holdout', 'train' may be classes, or parts with the classes 'cat', 'dog'",
    ),
    "twice": (grid(("train", "val", "valid")), "parts of which one is there twice"),
    "no train": (grid(("val", "test")), "parts, of which train is missing"),
    "types that aren't read": (
        [*grid((".",)), "c/0.webm"],
        r"c: no images; .*; passed over are 1 \.webm file \(c/0\.webm\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_with_both(tmp_path, case):
    files, says = REFUSED[case]
    fill(tmp_path, files)
    with pytest.raises(RequestError, match=says) as caught:
        load_folder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_is_passed_over_is_said(tmp_path):
    names = ["a/@eaDir/0.png", "a/._0.png", "b/x.txt", "b/y.txt", ".old/0.png", "loose.png"]
    fill(tmp_path, [*grid((".",)), *names, "Thumbs.db", ".DS_Store", "c/.DS_Store"])
    os.symlink("nowhere.png", tmp_path / "a" / "link.png")
    os.symlink("..", tmp_path / "a" / "loop")
    splits = load_folder(str(tmp_path))
    assert splits["train"].size + splits["test"].size == 6
    [note] = splits["train"].notes
    for words in (
        "2 .txt files (b/x.txt, ...)",
        "1 broken link (a/link.png)",
        "1 hidden .png file (a/._0.png)",
        "1 link back to a folder above (a/loop)",
        "1 picture in hidden folders (.old/)",
        "1 picture in systems' folders (a/@eaDir/)",
        "1 picture beside the classes' folders (loose.png)",
        "1 empty folder (c/)",
    ):
        assert words in note
    assert "Thumbs" not in note
    assert "DS_Store" not in note


def test_heic_without_its_package_is_named(tmp_path, monkeypatch):
    from sparse_ist_tf.inputs.layouts import tree

    monkeypatch.setattr(tree, "lacking", lambda e: "HEIC needs more" if e == ".heic" else "")
    fill(tmp_path, [*grid((".",)), "a/x.heic", "a/y.HEIC", "b/z.jfif"])
    splits = load_folder(str(tmp_path))
    assert splits["train"].size + splits["test"].size == 7  # .jfif is read
    assert splits["train"].notes == ("left out: 2 .heic files; HEIC needs more (a/x.heic, ...)",)


def test_the_summary_counts_classes_one_by_one_or_all_at_once(tmp_path):
    fill(tmp_path / "few", grid(("train", "test")))
    told = summary("folder:few", load_folder(str(tmp_path / "few")))
    assert told.splitlines() == [
        "data: folder:few, 2 classes, 6 images to train on and 6 to test",
        "  a 3 + 3, b 3 + 3",
        "  parts: train/ to train on, test/ to test",
    ]
    fill(tmp_path / "many", [*grid((".",), "abcdefghijkl", 5), "a/more.png"])
    told = summary("folder:many", load_folder(str(tmp_path / "many"))).splitlines()
    assert told[0].startswith("data: folder:many, 12 classes, 48 images to train on and 13 to test")
    assert "of a class" in told[1]


def table(root, files, text, name="labels.csv"):
    fill(root, files)
    (root / name).write_text(text)
    return load_folder(str(root))


IMAGES = [f"images/{i}.png" for i in range(8)]


@pytest.mark.parametrize(
    "text",
    [
        "file,label\n" + "".join(f"images/{i}.png,{'ab'[i % 2]}\n" for i in range(8)),
        "label;File Name\n" + "".join(f"{'ab'[i % 2]};{i}.png\n" for i in range(8)),
        "\ufeffid\tClass\r\n" + "".join(f"{i}\t{'ab'[i % 2]}\r\n" for i in range(8)),
        'image,category\n"images\\0.png",a\n'
        + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(1, 8)),
    ],
)
def test_a_table_says_which_image_is_of_which_class(tmp_path, text):
    splits = table(tmp_path, IMAGES, text)
    assert splits["train"].class_names == ("a", "b")
    for split in splits.values():
        numbers = [int(row["image"][0, 0, 0]) for row in split.dataset(4).as_numpy_iterator()]
        assert [n % 2 for n in numbers] == split.labels.tolist()
    assert splits["train"].notes == ("classes are those of labels.csv",)


def test_a_table_may_have_a_column_for_parts(tmp_path):
    rows = [f"{i},{i % 2 + 9},{('Training', 'valid', 'test')[i // 4]}\n" for i in range(12)]
    files = [f"{i}.png" for i in range(12)]
    splits = table(tmp_path, files, "file,label,split\n" + "".join(rows), "Metadata.CSV")
    assert splits["train"].class_names == ("9", "10")  # numbers by their value
    assert np.bincount(splits["test"].labels).tolist() == [2, 2]
    assert "4 pictures to validate with" in splits["train"].notes[1]


def test_a_table_s_folders_may_be_parts(tmp_path):
    files = [f"{part}/{i}.png" for part in ("train", "test") for i in range(4)]
    rows = [f"{file},{'ab'[i % 2]}\n" for i, file in enumerate(files)]
    splits = table(tmp_path, files, "file,label\n" + "".join(rows))
    assert (splits["train"].size, splits["test"].size) == (4, 4)


BAD_TABLES = {
    "images/77.png,a": "line 2: images/77.png: no such picture",
    "images/0.png,a\n0.png,b": "line 3: images/0.png has another label or part above",
    "images/0.png,": "line 2: label is empty",
    "../0.png,a": "line 2: ../0.png: no such picture",
    "": "names no pictures",
}


@pytest.mark.parametrize("rows", BAD_TABLES)
def test_tables_that_can_not_be_used(tmp_path, rows):
    with pytest.raises(RequestError, match=BAD_TABLES[rows]):
        table(tmp_path, IMAGES, f"file,label\n{rows}")


def test_a_table_beside_class_folders(tmp_path):
    files = grid((".",))
    rows = "".join(f"{name},{name.split('/')[1]}\n" for name in files)
    splits = table(tmp_path / "same", files, f"file,label\n{rows}")
    assert splits["train"].class_names == ("a", "b")
    with pytest.raises(RequestError, match=r"'a', 'b' may be the classes, or what labels.csv says"):
        table(tmp_path / "other", files, "file,label\na/0.png,x\nb/0.png,y\n")


def test_roles_of_names():
    for name in ("train", "Train", "seg_train", "train-2", "x.train"):
        assert role_of(name).role == "train"
    for name in ("trainer", "restrain", "tests", "valley", "developer", "contest", "values"):
        assert role_of(name) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((f"a{separator}b", "in its name") for separator in "\n\r\v\f\x1c\x85\u2028\u2029\x01"),
        ("\ufeffa", "in its name"),
        ("caf\udce9", "is no UTF-8"),
        (" ", "its name is empty"),
    ],
)
def test_names_that_no_line_can_hold_are_refused_before_anything_starts(tmp_path, name, says):
    fill(tmp_path, grid((".",), ("a", name)))
    with pytest.raises(RequestError, match=says) as caught:
        datasets.load(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_names_that_are_the_same_to_the_eye_are_refused(tmp_path):
    fill(tmp_path, grid((".",), ("caf\u00e9", "cafe\u0301")))
    with pytest.raises(RequestError, match=r"'caf\\xe9': has the name of class 'cafe\\u0301'"):
        datasets.load(f"folder:{tmp_path}")


def test_names_that_a_line_holds_are_kept_as_they_are(tmp_path):
    names = (
        "dog, puppy",
        'say "cat"',
        "tab\there",
        "space ",
        " before",
        "a;b",
        "\U0001f600",
        "cafe\u0301",
    )
    fill(tmp_path, grid((".",), names))
    assert set(datasets.load(f"folder:{tmp_path}")["train"].class_names) == set(names)


def test_paths_of_a_lone_train_folder_are_below_it_as_ever(tmp_path):
    fill(tmp_path / "x", grid(("train",)))
    fill(tmp_path / "y", grid((".",)))
    one, other = (load_folder(str(tmp_path / name)) for name in "xy")
    assert [s.fingerprint for s in one.values()] == [s.fingerprint for s in other.values()]
