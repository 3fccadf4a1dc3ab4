"""What is drawn for a step of pre-training."""

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.pretraining.augmentation import (
    draw_boxes,
    draw_positions,
    draw_shares,
    make_augmentation,
)


@pytest.fixture(scope="module")
def pixels():
    """Images of noise."""
    return np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)


def test_masks_are_uniform_and_ascending():
    places = draw_positions(np.random.default_rng(0), 4000, 16, 0.75)
    assert (np.diff(places, axis=1) > 0).all()
    counts = np.bincount(places.ravel(), minlength=16)
    assert abs(counts - 1000).max() < 150


def test_boxes_have_the_areas_and_ratios_that_are_asked_for():
    boxes = draw_boxes(np.random.default_rng(0), 4000, ("flip", "crop"), 0.2)
    flipped = boxes[:, 1] > boxes[:, 3]
    height, width = boxes[:, 2] - boxes[:, 0], np.abs(boxes[:, 3] - boxes[:, 1])
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-6
    assert abs(flipped.mean() - 0.5) < 0.05
    assert height.dtype == np.float32
    area, whole = height * width, np.maximum(height, width) > 1 - 1e-6
    assert area[~whole].min() >= 0.2 - 1e-6
    ratios = (width / height)[~whole]
    assert ratios.min() >= 3 / 4 - 1e-3
    assert ratios.max() <= 4 / 3 + 1e-3


def test_whole_boxes_leave_images_as_they_are_and_flips_turn_them(pixels):
    augment = make_augmentation(("flip",), 64)
    boxes = draw_boxes(np.random.default_rng(0), 8, ("flip",), 1.0)
    turned = boxes[:, 1] == 1
    assert 0 < turned.sum() < 8
    got = np.asarray(augment(pixels, boxes))
    np.testing.assert_allclose(got[~turned], pixels[~turned], atol=1e-3)
    np.testing.assert_allclose(got[turned], pixels[turned][:, :, ::-1], atol=1e-3)


@pytest.mark.parametrize("names", [("flip", "crop"), ("color", "rand_augment"), ("three_augment",)])
def test_augmentation_keeps_range_and_shape(names, pixels):
    boxes = draw_boxes(np.random.default_rng(0), 8, names, 0.35)
    changed = np.asarray(make_augmentation(names, 64)(pixels, boxes))
    assert changed.shape == pixels.shape
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert np.abs(changed - pixels).mean() > 1


def test_three_augment_makes_grey_solarizes_and_blurs_a_quarter_each(pixels):
    many = np.concatenate([pixels] * 50)
    boxes = np.tile(np.float32([0, 0, 1, 1]), (len(many), 1))
    got = np.asarray(make_augmentation(("three_augment",), 64, seed=1)(many, boxes))
    inverted = np.where(many >= 128, 255 - many, many)
    same, solarized = (np.abs(got - x).max(axis=(1, 2, 3)) < 1e-2 for x in (many, inverted))
    grey = np.ptp(got, axis=-1).max(axis=(1, 2)) < 1e-2
    blurred = ~(same | solarized | grey)  # a narrow blur changes nothing
    assert 0.15 < solarized.mean() < 0.35
    assert 0.15 < grey.mean() < 0.35
    assert 0.1 < blurred.mean() < 0.35
    assert 0.15 < same.mean() < 0.45
    assert got[blurred].std() < many[blurred].std()


def test_cutmix_takes_rectangles_of_uniform_area():
    shares = draw_shares(np.random.default_rng(0), 4000, 16, ("flip", "cutmix"), 1.0)
    assert shares.dtype == np.float32
    assert set(np.unique(shares)) == {0.0, 1.0}
    cut = shares.reshape(-1, 16, 16) > 0
    rows, columns = cut.any(axis=2), cut.any(axis=1)
    np.testing.assert_array_equal(cut, rows[:, :, None] & columns[:, None, :])
    assert (np.abs(np.diff(rows.astype(int), axis=1)).sum(axis=1) <= 2).all()
    areas = shares.mean(axis=1)
    assert abs(areas.mean() - 0.5) < 0.02
    assert abs((areas < 0.25).mean() - (7.5 / 16) ** 2) < 0.03  # sides are whole patches


def test_mixup_is_even_and_shares_the_images_with_cutmix():
    shares = draw_shares(np.random.default_rng(0), 4000, 8, ("mixup", "cutmix"), 0.6)
    mixed = shares.max(axis=1) > 0
    assert abs(mixed.mean() - 0.6) < 0.03  # a small rectangle may hold no patch
    even = np.ptp(shares, axis=1) == 0
    assert abs((mixed & even & (shares[:, 0] < 1)).mean() - 0.3) < 0.03
    assert not draw_shares(np.random.default_rng(0), 16, 8, ("flip", "crop"), 1.0).any()


def test_unknown_names_are_refused():
    with pytest.raises(RequestError, match="swirl"):
        make_augmentation(("swirl",), 64)
