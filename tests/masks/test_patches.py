import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparse_ist_tf.masks import (
    fixed_positions,
    grid_of,
    patchify,
    select_patches,
    unpatchify,
    visible_from_positions,
)


@st.composite
def images(draw):
    rows, columns, size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)))
    shape = (draw(st.integers(1, 3)), rows * size, columns * size, draw(st.sampled_from([1, 3])))
    return draw(hnp.arrays(np.uint8, shape)), size


@settings(max_examples=50, deadline=None)
@given(images())
def test_patchify_cuts_row_by_row(case):
    pixels, size = case
    patches = patchify(pixels, size)
    rows, columns = grid_of(pixels, size)
    assert patches.shape == (len(pixels), rows * columns, size * size * pixels.shape[-1])
    for r in range(rows):
        for c in range(columns):
            square = pixels[0, r * size : (r + 1) * size, c * size : (c + 1) * size]
            np.testing.assert_array_equal(patches[0, r * columns + c], square.ravel())
    np.testing.assert_array_equal(patchify(tf.constant(pixels), size), patches)
    np.testing.assert_array_equal(unpatchify(patches, size, (rows, columns)), pixels)
    np.testing.assert_array_equal(unpatchify(tf.constant(patches), size, (rows, columns)), pixels)


@settings(max_examples=30, deadline=None)
@given(images(), st.integers(0, 100))
def test_select_patches_takes_the_visible_ones(case, seed):
    pixels, size = case
    patches = patchify(pixels, size)
    places = fixed_positions(
        seed, np.arange(len(pixels)), patches.shape[1], 0.4 * (patches.shape[1] > 1)
    )
    chosen = select_patches(pixels, places, size)
    np.testing.assert_array_equal(chosen, np.take_along_axis(patches, places[..., None], axis=1))
    as_tensor = select_patches(tf.constant(pixels), tf.constant(places), size)
    np.testing.assert_array_equal(as_tensor, chosen)
    assert chosen.dtype == as_tensor.dtype == np.uint8


def test_hidden_pixels_do_not_matter():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    places = fixed_positions(0, np.arange(3), 16, 0.5)
    visible = visible_from_positions(places, 16).reshape(3, 4, 4, 1)
    visible = visible.repeat(8, axis=1).repeat(8, axis=2)
    second = np.where(visible, first, rng.integers(0, 256, first.shape, dtype=np.uint8))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(
        select_patches(first, places, 8), select_patches(second, places, 8)
    )


def test_select_patches_works_in_a_graph_with_an_unknown_batch():
    @tf.function(
        input_signature=[tf.TensorSpec((None, 16, 16, 3)), tf.TensorSpec((None, 2), tf.int32)]
    )
    def select(pixels, places):
        return select_patches(pixels, places, 8)

    assert select(np.zeros((5, 16, 16, 3), "float32"), np.tile([0, 3], (5, 1))).shape == (5, 2, 192)


@pytest.mark.parametrize("size", [0, 3, 33])
def test_patches_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match=f"patch_size={size}: must divide .*32 x 16"):
        patchify(np.zeros((1, 32, 16, 3)), size)
    with pytest.raises(ValueError, match="must be 4 patches of"):
        unpatchify(np.zeros((1, 5, 192)), 8, (2, 2))


def test_visible_from_positions_agrees_with_its_graph_form():
    places = fixed_positions(0, np.arange(20), 30, 0.7)
    visible = visible_from_positions(places, 30)
    assert visible.dtype == bool
    assert visible.sum() == places.size
    np.testing.assert_array_equal(np.argwhere(visible)[:, 1].reshape(places.shape), places)
    np.testing.assert_array_equal(visible_from_positions(tf.constant(places), 30), visible)
    with pytest.raises(ValueError, match=r"positions from 0 to 30: must be in \[0, 30\)"):
        visible_from_positions([[0, 30]], 30)
