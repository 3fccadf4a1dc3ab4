import os
import shutil

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import contents, datasets
from sparse_ist_tf.inputs.folder import load_folder
from sparse_ist_tf.inputs.split import digest


def fill(root, files):
    """Writes an image of one colour, the number of the file, under each name."""
    for number, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (number, 7, 7)).save(path)


def colours(split):
    return [int(r["image"][0, 0, 0]) for r in split.dataset(4).as_numpy_iterator()]


def test_folders_are_classes_and_are_split(tmp_path):
    fill(tmp_path, [f"{label}/{i:02}.png" for label in "abc" for i in range(10)])
    splits = datasets.load(f"folder:{tmp_path}")
    assert (splits["train"].size, splits["test"].size) == (24, 6)
    assert np.bincount(splits["test"].labels).tolist() == [2, 2, 2]
    assert splits["train"].class_names == ("a", "b", "c")
    assert splits["train"].name == f"folder:{tmp_path}/train"
    train, test = colours(splits["train"]), colours(splits["test"])
    assert sorted(train + test) == list(range(30))
    assert train == sorted(train)
    for split, numbers in ((splits["train"], train), (splits["test"], test)):
        assert [n // 10 for n in numbers] == split.labels.tolist()
    assert colours(load_folder(str(tmp_path), split_seed=1)["test"]) != test
    assert colours(load_folder(str(tmp_path))["test"]) == test


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_parts_that_are_there_are_kept(tmp_path, name):
    fill(tmp_path, ["train/a/0.png", "train/b/1.png", f"{name}/a/2.png", f"{name}/b/3.png"])
    splits = load_folder(str(tmp_path))
    assert colours(splits["train"]) == [0, 1]
    assert colours(splits["test"]) == [2, 3]
    assert splits["test"].labels.tolist() == [0, 1]


def test_test_goes_before_val_and_may_lack_classes(tmp_path):
    names = ["train/a/0.png", "train/b/1.png", "train/c/2.png", "val/a/3.png", "val/b/4.png"]
    fill(tmp_path, [*names, "test/b/5.png", "test/c/6.png"])
    splits = load_folder(str(tmp_path))
    assert colours(splits["test"]) == [5, 6]
    assert splits["test"].labels.tolist() == [1, 2]
    assert splits["test"].num_classes == 3


def test_train_alone_is_split(tmp_path):
    fill(tmp_path, [f"train/{label}/{i}.png" for label in "ab" for i in range(5)])
    splits = load_folder(str(tmp_path))
    assert splits["train"].class_names == ("a", "b")
    assert (splits["train"].size, splits["test"].size) == (8, 2)


def test_nested_hidden_and_foreign_files(tmp_path):
    fill(tmp_path, ["a/images/0.JPEG", "a/1.png", "b/2.PNG", "b/3.bmp", ".c/4.png", "b/.5.png"])
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "readme.md").write_text("x")
    (tmp_path / "__MACOSX").mkdir()
    splits = load_folder(str(tmp_path))
    assert splits["train"].class_names == ("a", "b")
    assert splits["train"].size + splits["test"].size == 4


def test_names_may_be_in_any_script(tmp_path):
    fill(tmp_path, [f"{label}/bild {i}.png" for label in ("Äpfel", "梨") for i in range(2)])
    splits = load_folder(str(tmp_path))
    assert set(splits["train"].class_names) == {"Äpfel", "梨"}
    assert sorted(colours(splits["train"]) + colours(splits["test"])) == [0, 1, 2, 3]


def fingerprints(folder):
    return [split.fingerprint for split in load_folder(str(folder)).values()]


LETTERS = [f"{label}/{i}.png" for label in "ab" for i in range(5)]


def test_the_fingerprint_is_of_contents_and_not_of_places_or_times(tmp_path):
    fill(tmp_path / "x", LETTERS)
    before = fingerprints(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "y")
    assert fingerprints(tmp_path / "y") == before
    os.utime(tmp_path / "y" / "a" / "0.png", (1, 1))
    assert fingerprints(tmp_path / "y") == before
    for name in reversed(LETTERS):  # files of another order in their folders
        (tmp_path / "z" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tmp_path / "y" / name, tmp_path / "z" / name)
    assert fingerprints(tmp_path / "z") == before


def change(folder, what):
    file, other = folder / "a" / "0.png", folder / "b" / "0.png"
    kept = file.stat()
    if what == "a byte":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    if what == "missing":
        file.unlink()
    if what == "renamed":
        file.rename(file.with_name("00.png"))
    if what == "exchanged":
        a, b = file.read_bytes(), other.read_bytes()
        file.write_bytes(b)
        other.write_bytes(a)
    if what == "class renamed":
        (folder / "a").rename(folder / "c")
    if what == "classes exchanged":
        (folder / "a").rename(folder / "c")
        (folder / "b").rename(folder / "a")
        (folder / "c").rename(folder / "b")


CHANGES = ["a byte", "missing", "renamed", "exchanged", "class renamed", "classes exchanged"]


@pytest.mark.parametrize("what", CHANGES)
def test_the_fingerprint_knows_what_has_changed(tmp_path, what):
    fill(tmp_path, LETTERS)
    before = fingerprints(tmp_path)
    change(tmp_path, what)
    assert fingerprints(tmp_path) != before


def test_an_untouched_folder_has_the_fingerprint_of_earlier_versions_too(tmp_path):
    """Which was of paths, sizes and times of modification."""
    fill(tmp_path, LETTERS)
    for name in LETTERS:
        os.utime(tmp_path / name, ns=(0, 10**18))
    split = load_folder(str(tmp_path))["test"]
    files = [os.path.relpath(os.fsdecode(path), tmp_path) for path in split.source.images]
    stats = [(name, (tmp_path / name).stat().st_size, 10**18) for name in files]
    earlier = digest("folder", "test", ("a", "b"), stats, split.labels)
    assert split.as_before().fingerprint == earlier != split.fingerprint


def test_a_file_that_can_not_be_read_is_named_when_its_image_is_wanted(tmp_path, monkeypatch):
    fill(tmp_path, LETTERS)
    before = fingerprints(tmp_path)

    def gone(*_, **__):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(contents, "open", gone, raising=False)
    assert fingerprints(tmp_path) != before


def make(root, case):
    if case == "file":
        root.write_text("x")
    elif case != "missing":
        root.mkdir()
    if case == "loose":
        fill(root, ["0.png"])
    if case == "empty class":
        fill(root, ["a/0.png"])
        (root / "b").mkdir()
    if case == "single class":
        fill(root, ["a/0.png", "a/1.png"])
    if case == "single image":
        fill(root, ["a/0.png", "a/1.png", "b/2.png"])
    if case == "new class":
        fill(root, ["train/a/0.png", "train/b/1.png", "test/a/2.png", "test/c/3.png"])


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("missing", "there is no such folder"),
        ("file", "there is no such folder"),
        ("empty", "must hold a folder of images per class"),
        ("loose", "must hold a folder of images per class"),
        ("empty class", "photos/b: no images"),
        ("single class", "single class, 'a'"),
        ("single image", "photos/b: one image"),
        ("new class", "test/c: a class that .*train lacks"),
    ],
)
def test_folders_that_can_not_be_used(tmp_path, case, says):
    make(tmp_path / "photos", case)
    with pytest.raises(RequestError, match=says) as caught:
        datasets.load(f"folder:{tmp_path / 'photos'}")
    assert str(tmp_path / "photos") in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="no such folder"):
        datasets.load("folder:")


def test_unequal_classes_can_be_split(tmp_path):
    names = [f"{label}/{i}.png" for label in "abcd" for i in range(2)]
    fill(tmp_path, [*names, *(f"e/{i}.png" for i in range(30))])
    splits = load_folder(str(tmp_path))
    assert splits["train"].size + splits["test"].size == 38
    assert splits["test"].size == 8


def test_workers_whose_images_lie_elsewhere_have_them_alike(tmp_path):
    names = [f"{label}/{i}.png" for label in "ab" for i in range(10)]
    fill(tmp_path / "one", names)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    fill(tmp_path / "third", names[1:])
    one, other, third = (
        datasets.facts(load_folder(str(tmp_path / name))) for name in ("one", "other", "third")
    )
    assert one == other
    assert one.keys() == third.keys()
    assert one["contents of train"] != third["contents of train"]
