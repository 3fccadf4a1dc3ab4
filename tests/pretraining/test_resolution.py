"""From stored images to the encoder's: by sensors of fewer pixels, cell by cell or as a whole."""

import itertools
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.masks.cells import Scaling
from sparse_ist_tf.pretrain_config import get_config
from sparse_ist_tf.pretraining.data import draw_resolution, grid_shares
from sparse_ist_tf.pretraining.resolution import Resolution, resampled, resolutions


def _images(side):
    return np.random.default_rng(side).integers(0, 256, (2, side, side, 3)).astype(np.float32)


def _seen(images, size, sensor, grid, patch=8):
    resolution = Resolution(Scaling(size, patch, grid), sensor, images.shape[1])
    return np.asarray(resampled(images, resolution.matrix))


@pytest.mark.parametrize("grid", ["sensor", "scaled"])
def test_images_of_the_right_size_stay_as_they_are(grid):
    np.testing.assert_array_equal(_seen(_images(64), 64, 64, grid), _images(64))


@pytest.mark.parametrize("size", [96, 48, 128])
def test_scaled_as_a_whole_is_tensorflow_s_way(size):
    images = _images(64)
    expected = tf.image.resize(images, (size, size), antialias=True)
    np.testing.assert_allclose(_seen(images, size, 64, "scaled"), expected, atol=1e-2)


@pytest.mark.parametrize("grid", ["sensor", "scaled"])
@pytest.mark.parametrize("sensor", [32, 20, 16])
def test_a_sensor_s_image_is_scaled_as_training_does_it(grid, sensor):
    """Apart from rounding, since training takes whole pixels."""
    small = tf.image.resize(_images(64), (sensor, sensor), antialias=True)
    recorded = tf.cast(tf.round(small[0]), tf.uint8)
    expected = Scaling(64, 8, grid)(recorded).numpy().astype(np.float32)
    np.testing.assert_allclose(_seen(_images(64), 64, sensor, grid)[0], expected, atol=2.01)


def test_a_patch_depends_on_its_own_cell_alone():
    images = _images(32)
    changed = images.copy()
    changed[:, 4:8, 8:12] = 255 - changed[:, 4:8, 8:12]  # cell 1 from the top, 2 from the left
    before, after = (_seen(x, 128, 32, "sensor", patch=16) for x in (images, changed))
    differs = (before != after).any(axis=(0, 3))
    assert differs[16:32, 32:48].any()
    differs[16:32, 32:48] = False
    assert not differs.any()


def test_every_size_has_every_sensor():
    found = resolutions((64, 128), (64, 32), 64, 8, ("sensor",))
    assert [(r.size, r.sensor) for r in found] == [(64, 64), (64, 32), (128, 64), (128, 32)]
    assert [r.suffix for r in found] == ["", "_sensor32px", "_128px", "_128px_sensor32px"]
    assert [(r.size, r.sensor) for r in resolutions((), (), 64, 8, ("scaled",))] == [(64, 64)]


def test_steps_on_both_grids_are_drawn_by_their_share():
    found = resolutions((64, 128), (64, 32), 64, 8, ("sensor", "scaled"))
    config = get_config()
    config.image_sizes, config.size_probabilities = (64, 128), (0.5, 0.5)
    config.sensor_sizes, config.sensor_probabilities = (64, 32), (0.5, 0.5)
    config.masks.scaled_share = 0.25
    assert grid_shares(config) == {"sensor": 0.75, "scaled": 0.25}
    drawn = [found[draw_resolution(config, step)] for step in range(2000)]
    counts = Counter((r.size, r.sensor, r.scaling.grid) for r in drawn)
    for size, sensor in itertools.product((64, 128), (64, 32)):
        assert counts[size, sensor, "scaled"] == pytest.approx(125, abs=45)
        assert counts[size, sensor, "sensor"] == pytest.approx(375, abs=75)
    config.masks.scaled_share = 0.0  # draws sizes and sensors as without the key
    plain = resolutions((64, 128), (64, 32), 64, 8, tuple(grid_shares(config)))
    again = [plain[draw_resolution(config, step)] for step in range(2000)]
    assert [(r.size, r.sensor) for r in again] == [(r.size, r.sensor) for r in drawn]


def test_more_patches_than_pixels_are_refused():
    with pytest.raises(ValueError, match="8 pixels for 16 patches"):
        Resolution(Scaling(128, 8, "sensor"), 8, 64)
    assert Resolution(Scaling(128, 8, "scaled"), 8, 64).matrix.shape == (128, 64)
