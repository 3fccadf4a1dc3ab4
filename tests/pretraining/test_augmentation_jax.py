"""What JAX draws and changes is what NumPy and KerasCV draw and change."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs jax: pip install jax")

from sparse_ist_tf.errors import RequestError  # noqa: E402
from sparse_ist_tf.pretraining import augmentation  # noqa: E402
from sparse_ist_tf.pretraining.augmentation_jax import (  # noqa: E402
    JAX_AUGMENTATIONS,
    augmented,
    draw_positions,
    draw_shares,
)


@pytest.fixture(scope="module")
def pixels():
    """Images of noise."""
    return np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)


def _changed(pixels, *names, least_area=1.0):
    return np.asarray(augmented(jax.random.key(0), pixels, names, least_area))


def test_without_names_images_stay_as_they_are(pixels):
    np.testing.assert_allclose(_changed(pixels), pixels / 255, atol=1e-5)


def test_half_of_the_images_are_flipped(pixels):
    got, plain = _changed(pixels, "flip"), pixels / 255
    kept, turned = (np.abs(got - x).max(axis=(1, 2, 3)) < 1e-5 for x in (plain, plain[:, :, ::-1]))
    assert (kept ^ turned).all()
    assert 16 < turned.sum() < 48


def test_crops_lie_within_the_image_and_have_the_area():
    """On a ramp, a crop's own values say what part of the image it is."""
    ramp = np.broadcast_to(np.arange(64) * 4, (500, 64, 64))
    pixels = np.stack([ramp, ramp.transpose(0, 2, 1), ramp], axis=-1).astype(np.uint8)
    got = _changed(pixels, "crop", least_area=0.25) * 255 / 4
    width = got[:, 0, 32, 0] - got[:, 0, 31, 0]  # pixels a step, all of 64: the share
    height = got[:, 32, 0, 1] - got[:, 31, 0, 1]
    area, whole = width * height, np.maximum(width, height) > 1 - 1e-3
    assert area[~whole].min() > 0.25 - 1e-2
    assert width.max() < 1 + 1e-3
    ratio = (width / height)[~whole]
    assert ratio.min() > 3 / 4 - 0.02
    assert ratio.max() < 4 / 3 + 0.02
    assert 0.5 < area.mean() < 0.75


def test_three_augment_changes_three_quarters(pixels):
    many = np.concatenate([pixels] * 4)
    got, plain = _changed(many, "three_augment"), many / 255
    inverted = np.where(many >= 128, 1 - plain, plain)
    near = lambda x: np.abs(got - x).max(axis=(1, 2, 3)) < 1e-5  # noqa: E731
    same, solarized = near(plain), near(inverted)
    grey = np.ptp(got, axis=-1).max(axis=(1, 2)) < 1e-5
    blurred = ~(same | solarized | grey)
    for share in (solarized, grey, blurred | same):
        assert 0.15 < share.mean() < 0.65
    assert 0.2 < (same | blurred).mean() < 0.7
    assert got[blurred].std() < plain[blurred].std()
    np.testing.assert_allclose(got[blurred].mean(), plain[blurred].mean(), atol=0.01)


def test_colours_keep_the_range(pixels):
    got = _changed(pixels, "color")
    assert got.min() >= 0
    assert got.max() <= 1
    assert np.abs(got - pixels / 255).mean() > 0.02


def test_positions_are_uniform_and_ascending():
    places = np.asarray(draw_positions(jax.random.key(0), 4000, 16, 4))
    assert places.shape == (4000, 4)
    assert (np.diff(places, axis=1) > 0).all()
    assert abs(np.bincount(places.ravel(), minlength=16) - 1000).max() < 150


@pytest.mark.parametrize("names", [("mixup",), ("cutmix",), ("mixup", "cutmix"), ("flip",)])
def test_shares_are_distributed_as_numpy_s(names):
    mine = np.asarray(draw_shares(jax.random.key(0), 4000, 8, names, 0.6))
    theirs = augmentation.draw_shares(np.random.default_rng(0), 4000, 8, names, 0.6)
    assert mine.shape == theirs.shape
    for quantity in (
        lambda x: x.mean(),
        lambda x: (x.max(axis=1) > 0).mean(),
        lambda x: (np.ptp(x, axis=1) > 0).mean(),
        lambda x: (x.mean(axis=1) > 0.5).mean(),
        lambda x: x.mean(axis=0).std(),
    ):
        assert quantity(mine) == pytest.approx(quantity(theirs), abs=0.03)


def test_what_jax_does_not_have_is_named():
    with pytest.raises(RequestError, match="'rand_augment' is none of flip, crop, color"):
        augmentation.check_augment(("flip", "rand_augment"), JAX_AUGMENTATIONS)
