"""The attack on hidden pixels: it works where images are scaled first, else it can't."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.masks import fixed_positions
from sparse_ist_tf.masks.cells import GRIDS, Scaling
from sparse_ist_tf.masks.leak import LeastSquares, as_pixels, hidden_pixels, seen_matrix


def _images(count, height, width, seed=0):
    """Smooth images with some noise, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 5, 5, 3))
    smooth = tf.image.resize(coarse, (height, width), "bicubic").numpy()
    return as_pixels(smooth + rng.normal(0, 8, smooth.shape))


def _errors(scaling, images, ratio):
    """(Of the attack, of the mean) at hidden pixels of some images, informed by the others."""
    attack = LeastSquares.informed_by(scaling, images[8:])
    found, guessed = [], []
    for i, image in enumerate(images[:8]):
        positions = fixed_positions(0, np.array([i]), scaling.num_patches, ratio)[0]
        seen = scaling(tf.constant(image)).numpy()
        hidden = hidden_pixels(image.shape[:2], scaling.side, positions)
        assert hidden.any()
        found.append((attack.recover(seen, positions).astype(int) - image)[hidden])
        guessed.append((as_pixels(attack.mean).astype(int) - image)[hidden])
    return np.abs(np.concatenate(found)), np.abs(np.concatenate(guessed))


@pytest.mark.parametrize(
    ("size", "shape", "least"), [(64, (8, 8), 0.9), (64, (32, 32), 0.3), (128, (32, 32), 0.75)]
)
def test_enlarged_images_leak_where_the_grid_is_laid_over_them_scaled(size, shape, least):
    images = _images(200, *shape)
    found, guessed = _errors(Scaling(size, 8, "scaled"), images, 0.5)
    assert (guessed <= 2.5).mean() < 0.1
    assert (found <= 2.5).mean() > least


@pytest.mark.parametrize("ratio", [0.25, 0.75])
@pytest.mark.parametrize(("size", "shape"), [(64, (8, 8)), (64, (32, 32)), (56, (30, 37))])
def test_the_sensors_grid_leaves_an_attacker_the_mean(size, shape, ratio):
    found, guessed = _errors(Scaling(size, 8, "sensor"), _images(100, *shape), ratio)
    np.testing.assert_array_equal(found, guessed)


def test_reduced_images_leave_the_mean_too_and_hide_more_than_is_found_elsewhere():
    images = _images(60, 75, 75)
    sensor, guessed = _errors(Scaling(32, 8, "sensor"), images, 0.5)
    np.testing.assert_array_equal(sensor, guessed)
    scaled, _ = _errors(Scaling(32, 8, "scaled"), images, 0.5)
    assert np.square(scaled).mean() < np.square(guessed).mean()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("size", "shape"), [(64, (8, 8)), (64, (32, 32)), (32, (75, 50))])
def test_the_attacker_knows_how_images_are_scaled(grid, size, shape):
    scaling, image = Scaling(size, 8, grid), _images(1, *shape)[0]
    rows, columns = (seen_matrix(length, scaling) for length in shape)
    known = np.einsum("ai,ijc,bj->abc", rows, image.astype(np.float32), columns)
    assert np.abs(known - scaling(tf.constant(image)).numpy()).max() < 0.51


def test_visible_pixels_are_found_again_where_images_are_enlarged():
    scaling, images = Scaling(64, 8, "sensor"), _images(50, 32, 32)
    attack = LeastSquares.informed_by(scaling, images[1:])
    positions = fixed_positions(0, np.array([0]), 64, 0.5)[0]
    found = attack.recover(scaling(tf.constant(images[0])).numpy(), positions)
    visible = ~hidden_pixels((32, 32), 8, positions)
    assert np.abs(found.astype(int) - images[0])[visible].max() <= 2


def test_fewer_equations_than_pixels_have_the_same_solution():
    images = _images(40, 12, 12)
    attack = LeastSquares.informed_by(Scaling(16, 8, "scaled"), images[1:])
    seen = attack.scaling(tf.constant(images[0])).numpy()
    positions = np.array([1])  # 64 equations for 144 pixels
    A = np.kron(seen_matrix(12, attack.scaling)[:8], seen_matrix(12, attack.scaling)[8:])
    mean = attack.mean.reshape(-1, 3)
    residual = seen[:8, 8:].reshape(-1, 3) - A @ mean
    ridge = np.eye(144) / 12 / attack.variance
    expected = as_pixels(mean + np.linalg.solve(A.T @ A + ridge, A.T @ residual))
    found = attack.recover(seen, positions).reshape(-1, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_hidden_pixels_are_those_of_hidden_cells():
    hidden = hidden_pixels((5, 4), 2, np.array([0, 3]))
    assert hidden.astype(int).tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 0, 0],
    ]
