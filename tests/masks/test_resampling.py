"""NumPy's scaling gives TensorFlow's pixels."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.masks import RESIZES, MaskOptions, Scaling, patchify, select_patches
from sparse_ist_tf.masks.resampling import scaled

LENGTHS = st.integers(1, 300)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(height=LENGTHS, width=LENGTHS, size=st.integers(1, 130))
def test_a_whole_image_is_the_same_bit_for_bit(height, width, size):
    image = noise(height, width)
    found = tf.image.resize(image, (size, size), antialias=True)
    expected = tf.cast(tf.clip_by_value(tf.round(found), 0, 255), tf.uint8)
    np.testing.assert_array_equal(scaled(image, size), expected)


@settings(max_examples=25, deadline=None)
@given(height=LENGTHS, width=LENGTHS, side=st.integers(1, 12), patch=st.integers(1, 12))
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("grid", ["sensor", "scaled"])
def test_an_array_is_scaled_as_a_tensor_is(height, width, side, patch, grid, resize):
    scaling, image = Scaling(side * patch, patch, grid, resize), noise(height, width)
    if grid == "sensor" and min(height, width) < side:
        with pytest.raises(RunError, match=r"cat\.png: .* can't be cut into"):
            scaling(image, "cat.png")
        return
    for function in (scaling.sent, scaling):
        array, tensor = function(image), function(tf.constant(image)).numpy()
        assert isinstance(array, np.ndarray)
        assert (array.dtype, array.shape) == (np.uint8, tensor.shape)
        if (grid, resize) == ("scaled", "antialias"):
            np.testing.assert_array_equal(array, tensor)
            continue
        # Sums that lie between two pixels' values may fall to either side.
        difference = np.abs(array.astype(int) - tensor)
        assert difference.max(initial=0) <= 1
        assert (difference > 0).sum() <= 1 + 1e-3 * difference.size


def test_photos_are_scaled_as_a_tensor_is_but_for_a_pixel_in_a_hundred_thousand():
    different = total = 0
    for seed, shape in enumerate(((600, 600), (150, 150), (431, 640), (1080, 1440))):
        image, scaling = noise(*shape, seed), Scaling(64, 8)
        found = scaling(image) != scaling(tf.constant(image)).numpy()
        different, total = different + found.sum(), total + found.size
    assert different <= 1e-5 * total


def test_masks_and_patches_of_arrays_need_no_tensorflow():
    script = (
        "import sys, numpy as np; from sparse_ist_tf import masks;"
        "image = np.arange(3072, dtype=np.uint8).reshape(32, 32, 3);"
        "image = masks.Scaling(16, 4)(image);"
        "places = masks.MaskOptions(sys.argv[1], 0.5, seed=3).positions([5], 16);"
        "print(places.tolist(), masks.select_patches(image[None], places, 4).sum());"
        "print(masks.patchify(image[None], 4).shape);"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    for kind in ("fixed", "random", "shared"):
        done = subprocess.run(
            [sys.executable, "-c", script, kind], capture_output=True, text=True, check=True
        )
        image = Scaling(16, 4)(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3))
        places = MaskOptions(kind, 0.5, seed=3).positions(tf.constant([5]), 16).numpy()
        total = select_patches(image[None], places, 4).sum()
        shape = tuple(patchify(image[None], 4).shape)
        assert done.stdout == f"{places.tolist()} {total}\n{shape}\n"


@settings(max_examples=60, deadline=None)
@given(grid=st.integers(1, 9), length=st.integers(1, 200), size=st.integers(1, 12))
@pytest.mark.parametrize("resize", ["bilinear", "area"])
def test_cells_are_reduced_by_themselves(grid, length, size, resize):
    scaling = Scaling(grid * size, size, "sensor", resize)
    if length < grid:
        with pytest.raises(ValueError, match="can't be cut"):
            scaling.matrix(length, size)
        return
    matrix = scaling.matrix(length, size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
    assert (matrix >= 0).all()
    for cell, rows in enumerate(matrix.reshape(grid, size, length)):
        start, stop = cell * length // grid, (cell + 1) * length // grid
        assert not rows[:, :start].any()
        assert not rows[:, stop:].any()
    if length == grid * size:
        np.testing.assert_array_equal(matrix, np.eye(length))


def test_area_is_the_mean_and_bilinear_a_blend_of_two():
    row = np.array([0, 10, 20, 30, 100, 110, 120, 130], float)
    assert (Scaling(4, 2, resize="area").matrix(8, 2) @ row).tolist() == [5, 25, 105, 125]
    assert (Scaling(4, 2, resize="bilinear").matrix(8, 2) @ row).tolist() == [0, 20, 100, 120]
    blended = Scaling(4, 2, "scaled", "bilinear").whole_matrix(10)
    np.testing.assert_allclose(np.nonzero(blended)[1], [0, 2, 3, 5, 7, 8])
    with pytest.raises(ValueError, match="resize='cubic': must be one of antialias, bilinear"):
        Scaling(4, 2, resize="cubic")
