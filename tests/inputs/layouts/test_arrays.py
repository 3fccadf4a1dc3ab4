"""NumPy archives as data sets, mapped where they can be, and never unpickled."""

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets


def images(count, *shape, first=0):
    """Images of one grey each, the number of the image."""
    numbers = np.arange(first, first + count, dtype=np.uint8)
    return np.broadcast_to(numbers.reshape(-1, *[1] * len(shape)), (count, *shape)).copy()


def labels(count):
    return np.arange(count) % 2


def save(path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return f"npz:{path}"


def numbers(split):
    return [int(row["image"][0, 0, 1]) for row in split.dataset(4).as_numpy_iterator()]


NAMES = [
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "Y_train", "X_val", "Y_val"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images_train", "labels_train", "images_test", "labels_test"),
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (6, 5, 4)])
def test_parts_that_are_there_are_kept(tmp_path, names, compressed, shape):
    arrays = (images(8, *shape), labels(8)[:, None], images(4, *shape, first=50), labels(4))
    name = save(tmp_path / "a.npz", compressed, **dict(zip(names, arrays, strict=True)))
    splits = datasets.load(name)
    assert numbers(splits["train"]) == list(range(8))
    assert numbers(splits["test"]) == list(range(50, 54))
    assert splits["train"].class_names == ("0", "1")
    assert splits["test"].labels.tolist() == [0, 1, 0, 1]
    assert isinstance(splits["train"].source.images, np.memmap) == (not compressed)


def test_one_part_is_split_and_strings_are_names(tmp_path):
    words = np.array(["cat", "dog"])[labels(20)]
    name = save(tmp_path / "a.npz", images=images(20, 4, 4), labels=words)
    splits = datasets.load(name)
    assert (splits["train"].size, splits["test"].size) == (16, 4)
    assert splits["train"].class_names == ("cat", "dog")
    for split in splits.values():
        assert [n % 2 for n in numbers(split)] == split.labels.tolist()
    again = datasets.load(name)["test"]
    assert again.fingerprint == splits["test"].fingerprint
    assert datasets.load(name, split_seed=1)["test"].fingerprint != again.fingerprint


def test_class_names_and_a_part_to_validate_with(tmp_path):
    arrays = {
        f"{part}_{what}": make
        for part in ("train", "val", "test")
        for what, make in (("images", images(6, 4, 4)), ("labels", labels(6).astype(np.uint8)))
    }
    name = save(tmp_path / "a.npz", **arrays, class_names=np.array(["no", "yes", "maybe"]))
    splits = datasets.load(name)
    assert splits["train"].class_names == ("no", "yes", "maybe")
    assert splits["train"].notes == ("left out: 6 images to validate with",)


def test_the_fingerprint_is_of_arrays_and_not_of_files(tmp_path):
    def fingerprint(file, compressed=False, **changes):
        arrays = {"images": images(8, 4, 4), "labels": labels(8)} | changes
        return datasets.load(save(tmp_path / file, compressed, **arrays))["train"].fingerprint

    first = fingerprint("a.npz")
    assert fingerprint("b.npz", compressed=True) == first
    assert fingerprint("c.npz", images=images(8, 4, 4, first=1)) != first
    assert fingerprint("d.npz", labels=1 - labels(8)) != first


REFUSED = {
    "floats": (
        {"images": np.zeros((4, 5, 5), "f4")},
        r"images is float32\[4, 5, 5\]; must be uint8",
    ),
    "channels first": ({"images": np.zeros((4, 3, 5, 5), "u1")}, r"uint8\[4, 3, 5, 5\]; must be"),
    "flat": ({"images": np.zeros((4, 25), "u1")}, "must be uint8"),
    "other counts": ({"labels": labels(3)}, r"labels is int64\[3\]; must be .* 4 images"),
    "many labels": ({"labels": np.zeros((4, 14), int)}, r"labels is int64\[4, 14\]; must be"),
    "shares": ({"labels": np.zeros(4)}, "labels is float64"),
    "one class": ({"labels": np.zeros(4, int)}, "a single class, '0'"),
    "objects": ({"labels": np.array([0, 1, None, 1], object)}, "labels can't be read .*[Oo]bject"),
    "out of names": ({"labels": labels(4) + 1, "class_names": np.array(["a", "b"])}, "label 2 of"),
    "objects as names": ({"class_names": np.array(["a", None], object)}, "class_names can't be"),
    "nothing": ({"images": np.zeros((0, 5, 5), "u1"), "labels": labels(0)}, "images is uint8"),
    "a lone image": ({"labels": np.array([0, 0, 0, 1])}, "class '1': one image"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_that_do_not_fit(tmp_path, case):
    changes, says = REFUSED[case]
    arrays = {"images": images(4, 5, 5), "labels": labels(4)} | changes
    with pytest.raises(RequestError, match=says) as caught:
        datasets.load(save(tmp_path / "a.npz", **arrays))
    assert "\n" not in str(caught.value)


def test_files_that_can_not_be_used(tmp_path):
    with pytest.raises(RequestError, match=r"npz:nowhere\.npz: there is no such file"):
        datasets.load("npz:nowhere.npz")
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(RequestError, match=r"is no \.npz archive"):
        datasets.load(f"npz:{tmp_path / 'a.npz'}")
    name = save(tmp_path / "b.npz", pictures=images(4, 5, 5))
    with pytest.raises(RequestError, match="has pictures; must have x_train and y_train"):
        datasets.load(name)
    path = tmp_path / "c.npz"
    save(path, compressed=True, images=images(40, 50, 50), labels=labels(40))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(RequestError):
        datasets.load(f"npz:{path}")


def test_a_test_label_that_training_lacks(tmp_path):
    name = save(
        tmp_path / "a.npz",
        x_train=images(4, 5, 5),
        y_train=labels(4),
        x_test=images(2, 5, 5),
        y_test=np.array([0, 7]),
    )
    with pytest.raises(RequestError, match="label 7 of test is none of the training part"):
        datasets.load(name)
