"""A patch is made of its own cell's pixels, whatever the image's size."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs.decoding import decode_file, image_errors
from sparse_ist_tf.inputs.split import ArraySource, Split
from sparse_ist_tf.masks import Scaling, patchify
from sparse_ist_tf.masks.cells import cell_matrix

SIDES = st.integers(1, 9)  # patches along a side


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=100, deadline=None)
@given(grid=SIDES, length=st.integers(1, 90), size=st.integers(1, 12))
def test_a_cell_is_scaled_as_an_image_of_its_own(grid, length, size):
    if length < grid:
        with pytest.raises(ValueError, match="can't be cut"):
            cell_matrix(length, grid, size)
        return
    matrix = cell_matrix(length, grid, size).reshape(grid, size, length)
    seen = np.zeros(length, int)
    for cell, rows in enumerate(matrix):
        start, stop = cell * length // grid, (cell + 1) * length // grid
        seen[start:stop] += 1
        assert not rows[:, :start].any()
        assert not rows[:, stop:].any()
        alone = tf.image.resize(
            np.eye(stop - start)[..., None], (size, stop - start), antialias=True
        )
        np.testing.assert_allclose(rows[:, start:stop], alone[..., 0], atol=2e-6)
    assert (seen == 1).all(), "every pixel is of one cell"
    if length == grid * size:
        np.testing.assert_array_equal(matrix.reshape(length, length), np.eye(length))


@settings(max_examples=40, deadline=None)
@given(
    side=SIDES,
    patch=st.integers(1, 10),
    height=st.integers(9, 70),
    width=st.integers(9, 70),
    data=st.data(),
)
def test_what_is_hidden_reaches_no_other_patch(side, patch, height, width, data):
    scaling = Scaling(side * patch, patch)
    image, cell = noise(height, width), data.draw(st.integers(0, side**2 - 1))
    row, column = divmod(cell, side)
    changed = image.copy()
    rows = slice(row * height // side, (row + 1) * height // side)
    columns = slice(column * width // side, (column + 1) * width // side)
    changed[rows, columns] = 255 - changed[rows, columns]
    before, after = (patchify(scaling(tf.constant(i))[None], patch)[0] for i in (image, changed))
    others = np.arange(side**2) != cell
    np.testing.assert_array_equal(before.numpy()[others], after.numpy()[others])
    if patch > 1:
        assert not np.array_equal(before[cell], after[cell])


@pytest.mark.parametrize(
    ("height", "width", "patch", "sent"),
    [
        (32, 32, 8, (32, 32)),  # CIFAR-10
        (150, 150, 8, (64, 64)),  # AID, reduced
        (28, 28, 8, (32, 32)),  # cells of 3 and 4 pixels
        (8, 20, 8, (8, 24)),
        (64, 64, 8, (64, 64)),
    ],
)
def test_what_a_sensor_sends(height, width, patch, sent):
    scaling = Scaling(8 * patch, patch)
    image = tf.constant(noise(height, width))
    picture = scaling.sent(image)
    assert picture.shape == (*sent, 3)
    if (height, width) == sent:
        np.testing.assert_array_equal(picture, image)
    assert scaling.seen(picture).shape == (64, 64, 3)
    np.testing.assert_array_equal(scaling(image), scaling.seen(picture))


def test_both_grids_are_the_same_where_nothing_is_scaled():
    image = tf.constant(noise(64, 64))
    for grid in ("sensor", "scaled"):
        np.testing.assert_array_equal(Scaling(64, 8, grid)(image), image)
    other = tf.constant(noise(32, 32))
    assert not np.array_equal(Scaling(64, 8)(other), Scaling(64, 8, "scaled")(other))


def test_enlarging_keeps_what_each_cell_is_on_the_whole():
    image = noise(32, 32)
    cells = image.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    seen = Scaling(64, 8)(tf.constant(image)).numpy().reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(seen, cells, atol=1)


def test_an_image_with_fewer_pixels_than_patches_is_named():
    split = Split("small/test", ArraySource(noise(7, 20)[None]), np.zeros(1), ("a",), "0")
    with pytest.raises(RunError) as caught, image_errors():
        list(split.dataset(Scaling(64, 8)))
    assert str(caught.value) == (
        "small/test, image 0: 7 pixels along a side can't be cut into 8 patches; "
        "masks.grid=scaled enlarges it first"
    )
    assert len(list(split.dataset(Scaling(64, 8, "scaled")))) == 1


def test_a_file_with_fewer_pixels_than_patches_is_named_by_its_path(tmp_path):
    path = str(tmp_path / "small {}.png")
    Image.fromarray(noise(7, 20)).save(path)
    source = ArraySource(np.array([path]), decode_file)
    split = Split("small/test", source, np.zeros(1), ("a",), "0")
    with pytest.raises(RunError) as caught, image_errors():
        list(split.dataset(Scaling(64, 8)))
    assert str(caught.value).startswith(f"{path}: 7 pixels along a side can't be cut")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((64, 8, "camera"), "grid='camera': must be one of"), ((60, 8), "patch_size=8: must divide")],
)
def test_impossible_scalings_are_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        Scaling(*arguments)
