"""What is given as data, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.face.images import Classes, held_out, read
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.layouts import held

IMAGES = np.arange(4 * 6 * 5 * 3).reshape(4, 6, 5, 3).astype(np.uint8)
LABELS = np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES, LABELS),
        (IMAGES.astype("float32"), LABELS[:, None]),
        (list(IMAGES), LABELS.tolist()),
        (tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)),),
        (tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(3),),
        (tf.data.Dataset.from_tensor_slices({"image": IMAGES, "label": LABELS, "id": LABELS}),),
    ],
)
def test_the_same_examples_in_every_form(given):
    found = read(*given)
    np.testing.assert_array_equal(found.inputs, IMAGES)
    assert found.inputs.dtype == np.uint8
    np.testing.assert_array_equal(found.labels, LABELS)
    assert not found.are_features


def test_grey_images_become_rgb_and_features_stay():
    grey = read(IMAGES[..., 0]).inputs
    np.testing.assert_array_equal(grey, np.repeat(IMAGES[..., :1], 3, axis=-1))
    features = read(np.ones((3, 7)))
    assert features.are_features
    assert features.inputs.dtype == np.float32
    assert features.labels is None


def test_images_of_any_size_are_read_again_as_they_are():
    images = [IMAGES[0], IMAGES[1, :4], IMAGES[2, :, :3]]
    given = read(images, ["b", "a", "b"])
    classes = Classes.of(given.labels)
    assert classes.names == ("a", "b")
    split = held.array_split("x", given.inputs, classes.indices(given.labels), classes.names)
    name = held.hold({"train": split, "test": split})
    found = datasets.load(name)["test"]
    for image, element in zip(images, found.source.stream(0, 3), strict=True):
        np.testing.assert_array_equal(found.source.decode(element), image)
    assert found.labels.tolist() == [1, 0, 1]
    held.release(name)
    with pytest.raises(RequestError, match="of a Python program that has ended"):
        datasets.load(name)


def test_other_pixels_have_another_fingerprint():
    changed = IMAGES.copy()
    changed[3, 2, 2, 0] ^= 1
    splits = [held.array_split("x", x, LABELS, ("a", "b")) for x in (IMAGES, changed)]
    assert splits[0].fingerprint != splits[1].fingerprint


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (IMAGES / 255.0, LABELS, "from 0 to 255"),
        (IMAGES.astype("float32") - 9, LABELS, "from -9 to 246"),
        (np.ones((2, 3), int), None, "must be images"),
        (np.ones((2, 3, 3, 4), "uint8"), None, "must be images"),
        (np.array([[np.nan, 1.0]]), None, "must be finite"),
        ([], None, "has none"),
        (IMAGES, LABELS[:3], "one label for each of 4"),
        (IMAGES, np.eye(4), "one label for each of 4"),
        (IMAGES, LABELS / 2, "whole numbers or texts"),
        (tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)), LABELS, "must not be given"),
        (tf.data.Dataset.from_tensor_slices({"pixels": IMAGES}), None, "must have 'image'"),
        (tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, LABELS)), None, "must be "),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(x, y, said):
    with pytest.raises(RequestError, match=said) as refused:
        read(x, y)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        (np.array([0, -1]), None, "must be at least 0"),
        (np.array([0, 0]), None, "2 or more"),
        (np.array([0, 1]), ["a", "a"], "all different"),
    ],
)
def test_classes_that_are_none(labels, names, said):
    with pytest.raises(RequestError, match=said):
        Classes.of(labels, names)


def test_labels_of_no_class_are_named():
    with pytest.raises(RequestError, match="'c', must be of a, b"):
        Classes(("a", "b")).indices(np.array(["a", "c"]))
    with pytest.raises(RequestError, match=r"label 2, must be in \[0, 2\)"):
        Classes(("a", "b")).indices(np.array([0, 2]))


def test_a_fifth_of_every_class_is_held_out():
    labels = np.repeat([0, 1], [40, 10]).astype(np.int32)
    parts = held_out(np.arange(50), labels, ("a", "b"), 0)
    assert np.bincount(parts["test"][1]).tolist() == [8, 2]
    assert sorted([*parts["train"][0], *parts["test"][0]]) == list(range(50))
    with pytest.raises(RequestError, match="class b has one example"):
        held_out(np.arange(3), np.array([0, 0, 1]), ("a", "b"), 0)
