"""Positions of another grid, and big_vision's computed ones."""

import math

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.encoder.positions import big_vision_positions, resample_positions
from sparse_ist_tf.errors import RequestError


@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 7), (14, 16), (3, 8), (16, 5)])
def test_resampling_is_pillows_bicubic(old, new):
    """Pillow's filter is the antialiased one that timm has from torch, channel by channel."""
    rng = np.random.default_rng(old * new)
    table = rng.standard_normal((old * old, 3)).astype(np.float32)
    ours = resample_positions(table, new).reshape(new, new, 3)
    for channel in range(3):
        image = Image.fromarray(table[:, channel].reshape(old, old))
        theirs = np.asarray(image.resize((new, new), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(ours[..., channel], theirs, rtol=0, atol=1e-5)


def test_resampling_keeps_what_must_stay():
    table = np.random.default_rng(0).standard_normal((49, 8)).astype(np.float32)
    assert resample_positions(table, 7) is table
    constant = np.full((49, 8), 0.25, np.float32)
    np.testing.assert_allclose(resample_positions(constant, 10), 0.25, atol=1e-7)
    swapped = table.reshape(7, 7, 8).transpose(1, 0, 2).reshape(49, 8)
    np.testing.assert_allclose(
        resample_positions(swapped, 9).reshape(9, 9, 8).transpose(1, 0, 2).reshape(81, 8),
        resample_positions(table, 9),
        atol=1e-6,
    )


def test_resampling_a_smooth_function_follows_it():
    def plane(grid):
        rows, columns = (np.mgrid[:grid, :grid] + 0.5) / grid
        return np.stack([rows, columns], axis=-1)

    ours = resample_positions(plane(14).reshape(-1, 2).astype(np.float32), 28)
    inside = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(ours.reshape(28, 28, 2)[inside], plane(28)[inside], atol=2e-3)


def test_big_vision_positions_are_its_formula():
    table = big_vision_positions(12, 4, 8).reshape(3, 3, 8)
    for row in range(3):
        for column in range(3):
            omega = [10000 ** -(k / (8 / 4 - 1)) for k in range(2)]
            expected = (
                [math.sin(column * o) for o in omega]
                + [math.cos(column * o) for o in omega]
                + [math.sin(row * o) for o in omega]
                + [math.cos(row * o) for o in omega]
            )
            np.testing.assert_allclose(table[row, column], expected, atol=1e-6)
    with pytest.raises(RequestError, match=r"image_size=13.*4"):
        big_vision_positions(13, 4, 8)
