import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.masks import (
    PATTERNS,
    MaskOptions,
    fixed_positions,
    num_visible,
    random_positions,
    shared_positions,
    visible_from_positions,
)
from sparse_ist_tf.masks.drawing import _GAMMA, _mix

SEEDS = st.integers(-(2**63), 2**64)
RATIOS = st.floats(0, 0.9)


def picture(pattern, side, ratio):
    row = shared_positions(0, side * side, ratio, pattern)
    return visible_from_positions(row[None], side * side)[0].reshape(side, side)


@pytest.mark.parametrize("kind", [float, np.float32, np.float64])
def test_num_visible_is_exact_at_every_share_of_patches(kind):
    for patches in range(1, 400):
        for hidden in range(patches):
            assert num_visible(patches, kind(hidden / patches)) == patches - hidden


def test_num_visible_survives_one_minus_a_decimal():
    assert int(10 * (1 - 0.9)) == 0
    assert num_visible(10, 0.9) == 1
    assert num_visible(196, 0.75) == 49
    assert num_visible(64, 0.5) == 32
    assert num_visible(9, 0.5) == 4


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.0, 1.5, math.nan, math.inf, -math.inf, "0.5", None])
def test_a_ratio_outside_its_range_is_named(ratio):
    with pytest.raises(ValueError, match=r"mask_ratio=.*\[0, 1\)") as caught:
        num_visible(64, ratio)
    assert str(ratio) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ratio_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match=r"mask_ratio=0.95: .*none of 16.*0\.9375"):
        num_visible(16, 0.95)
    with pytest.raises(ValueError, match="num_patches=0"):
        num_visible(0, 0.5)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["fixed", "random", "shared"]),
    seed=SEEDS,
    patches=st.integers(10, 300),
    ratio=RATIOS,
    count=st.integers(0, 5),
)
def test_positions_are_ascending_and_in_range(kind, seed, patches, ratio, count):
    places = MaskOptions(kind, ratio, seed=seed).positions(np.arange(count), patches, epoch=2)
    assert places.dtype == np.int32
    assert places.shape == (count, num_visible(patches, ratio))
    assert np.all(np.diff(places, axis=1) > 0)
    assert np.all((places >= 0) & (places < patches))


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    patches=st.integers(10, 300),
    ratio=RATIOS,
    epoch=st.integers(0, 2**40),
    start=st.integers(0, 2**40),
)
def test_graph_and_numpy_draw_the_same(seed, patches, ratio, epoch, start):
    indices = start + np.arange(5)
    steps = tf.constant(indices)
    for kind, pattern in (("fixed", "uniform"), ("random", "uniform"), ("shared", "uniform")):
        masks = MaskOptions(kind, ratio, pattern, seed)
        expected = masks.positions(indices, patches, epoch)
        drawn = masks.positions(steps, patches, tf.constant(epoch))
        np.testing.assert_array_equal(drawn, expected)
        assert drawn.dtype == tf.int32


def test_drawing_works_inside_a_pipeline():
    @tf.function
    def draw(index, epoch):
        return random_positions(5, index, epoch, 64, 0.5)

    data = tf.data.Dataset.range(300).batch(100).map(lambda index: draw(index, 3))
    drawn = np.concatenate(list(data.as_numpy_iterator()))
    np.testing.assert_array_equal(drawn, random_positions(5, np.arange(300), 3, 64, 0.5))


def test_a_fixed_mask_knows_neither_batch_nor_order():
    whole = fixed_positions(1, np.arange(5000), 64, 0.5)
    shuffled = np.random.default_rng(0).permutation(5000)
    np.testing.assert_array_equal(fixed_positions(1, shuffled, 64, 0.5), whole[shuffled])
    for size in (1, 7, 2049):
        parts = [fixed_positions(1, np.arange(i, min(5000, i + size)), 64, 0.5) for i in (0, 2040)]
        np.testing.assert_array_equal(parts[0], whole[:size])
        np.testing.assert_array_equal(parts[1], whole[2040 : 2040 + size])


def test_fixed_masks_are_the_same_in_every_version():
    assert fixed_positions(0, [0, 1], 16, 0.75).tolist() == [[0, 1, 8, 9], [1, 5, 9, 10]]
    assert random_positions(0, [0], 0, 16, 0.75).tolist() == [[1, 3, 5, 6]]
    assert shared_positions(0, 16, 0.75).tolist() == [4, 6, 13, 15]


def test_the_first_view_is_the_fixed_mask_and_others_are_random_ones():
    indices = np.arange(50)
    first = fixed_positions(3, indices, 64, 0.5)
    np.testing.assert_array_equal(fixed_positions(3, indices, 64, 0.5, view=0), first)
    for view in (1, 2, 7):
        found = fixed_positions(3, indices, 64, 0.5, view)
        np.testing.assert_array_equal(found, random_positions(3, indices, view - 1, 64, 0.5))
        assert not np.array_equal(found, first)
        options = MaskOptions("fixed", 0.5, seed=3, view=view)
        np.testing.assert_array_equal(options.positions(tf.constant(indices), 64), found)
    with pytest.raises(ValueError, match="view=-1: must be at least 0"):
        fixed_positions(3, indices, 64, 0.5, view=-1)


def test_the_hash_is_splitmix64():
    state = np.array([1234567], np.uint64)  # and its published first outputs
    assert _mix(state).tolist() == [6457827717110365317]
    assert _mix(state + _GAMMA).tolist() == [3203168211198807973]


def test_masks_are_nested():
    few = visible_from_positions(fixed_positions(3, np.arange(50), 64, 0.8), 64)
    many = visible_from_positions(fixed_positions(3, np.arange(50), 64, 0.3), 64)
    assert np.all(many[few])


def test_seeds_indices_and_epochs_all_matter():
    base = random_positions(0, [4], 0, 196, 0.5).tolist()
    assert random_positions(1, [4], 0, 196, 0.5).tolist() != base
    assert random_positions(0, [5], 0, 196, 0.5).tolist() != base
    assert random_positions(0, [4], 1, 196, 0.5).tolist() != base
    assert fixed_positions(0, [4], 196, 0.5).tolist() != base
    assert random_positions(0, [4], [0], 196, 0.5).tolist() == base


def chi_square(counts):
    expected = counts.mean()
    return ((counts - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("kind", ["indices", "seeds", "epochs"])
def test_every_patch_is_equally_likely(kind):
    draws, patches, ratio = 20_000, 64, 0.75
    if kind == "indices":
        drawn = fixed_positions(0, np.arange(draws), patches, ratio)
    elif kind == "epochs":
        drawn = random_positions(0, np.zeros(draws), np.arange(draws), patches, ratio)
    else:
        drawn = np.concatenate([fixed_positions(s, [0], patches, ratio) for s in range(4000)])
    counts = np.bincount(drawn.ravel(), minlength=patches)
    # 63 degrees of freedom, less spread because nothing is drawn twice: mean 63 * 0.76 = 48
    assert 20 < chi_square(counts) < 100


def test_every_pair_of_patches_is_equally_likely():
    drawn = fixed_positions(0, np.arange(60_000), 8, 0.75)
    counts = np.zeros((8, 8))
    np.add.at(counts, (drawn[:, 0], drawn[:, 1]), 1)
    pairs = np.array([counts[i, j] for i, j in itertools.combinations(range(8), 2)])
    assert chi_square(pairs) < 60  # 27 degrees of freedom


def test_neighbouring_images_are_independent():
    visible = visible_from_positions(fixed_positions(0, np.arange(20_000), 64, 0.5), 64)
    for step in (1, 2, 64):
        agreement = np.mean(visible[step:] == visible[:-step])
        assert abs(agreement - 0.5) < 0.003


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("side", [1, 2, 5, 8, 14])
def test_patterns_keep_num_visible_patches(pattern, side):
    for ratio in (0, 0.1, 0.5, 0.6, 0.75, 0.9):
        if side * side * (1 - ratio) >= 1:
            assert picture(pattern, side, ratio).sum() == num_visible(side * side, ratio)


@pytest.mark.parametrize("side", [8, 14])
def test_grid_is_a_lattice_or_a_checkerboard_where_it_can_be(side):
    rows, columns = np.indices((side, side))
    half = picture("grid", side, 0.5)
    assert np.array_equal(half, half[0, 0] == ((rows + columns) % 2 == 0))
    quarter = np.argwhere(picture("grid", side, 0.75))
    assert len({(r % 2, c % 2) for r, c in quarter}) == 1


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9])
def test_grid_spreads_more_evenly_than_chance(ratio):
    def unevenness(visible):  # of the counts in all squares of 4 x 4 patches
        squares = np.lib.stride_tricks.sliding_window_view(visible, (4, 4))
        return squares.sum(axis=(2, 3)).std()

    def drawn(seed):
        row = shared_positions(seed, 196, ratio)[None]
        return visible_from_positions(row, 196)[0].reshape(14, 14)

    chance = min(unevenness(drawn(seed)) for seed in range(10))
    assert unevenness(picture("grid", 14, ratio)) < 0.6 * chance
    quadrants = [
        picture("grid", 16, ratio)[r : r + 8, c : c + 8].sum() for r in (0, 8) for c in (0, 8)
    ]
    assert max(quadrants) - min(quadrants) <= 1


def test_center_and_border_lie_where_their_names_say():
    assert picture("center", 8, 0.75)[2:6, 2:6].all()
    assert picture("border", 5, 1 - 16 / 25)[[0, -1]].all()
    assert not picture("border", 5, 1 - 16 / 25)[1:4, 1:4].any()
    rows, columns = np.indices((14, 14)) - 6.5
    for ratio in (0.2, 0.5, 0.8):
        inside = picture("center", 14, ratio)
        far = np.hypot(rows, columns)
        assert far[inside].max() <= far[~inside].min()
        outside = picture("border", 14, ratio)
        ring = np.maximum(abs(rows), abs(columns))
        assert ring[outside].min() >= ring[~outside].max()


def test_patterns_take_a_grid_that_is_no_square():
    places = shared_positions(0, 8, 0.5, "center", grid=(2, 4))
    assert places.tolist() == [1, 2, 5, 6]
    with pytest.raises(ValueError, match="num_patches=8: pattern 'grid'"):
        shared_positions(0, 8, 0.5, "grid")
    with pytest.raises(ValueError, match="num_patches=9"):
        shared_positions(0, 9, 0.5, "center", grid=(2, 4))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="pattern='spiral': must be one of uniform"):
        shared_positions(0, 16, 0.5, "spiral")
    with pytest.raises(ValueError, match="kind='often': must be one of fixed"):
        MaskOptions("often", 0.5).positions([0], 16)


def test_callers_may_change_what_they_get():
    first = shared_positions(0, 16, 0.75, "center")
    first[:] = 0
    assert shared_positions(0, 16, 0.75, "center").tolist() == [5, 6, 9, 10]
