"""The batches of pre-training: functions of (seed, step), whoever asks for them."""

import numpy as np
import pytest

from sparse_ist_tf.pretrain_config import get_config
from sparse_ist_tf.pretraining.augmentation import make_augmentation
from sparse_ist_tf.pretraining.data import Images, pretraining_batches
from sparse_ist_tf.pretraining.resolution import resolutions


@pytest.fixture(scope="module")
def images():
    """24 images, each of one colour that is its number."""
    numbers = np.arange(24, dtype=np.uint8)
    pixels = np.broadcast_to(numbers[:, None, None, None], (24, 16, 16, 3)).copy()
    return Images(pixels, numbers.astype(np.int32), pixels, numbers.astype(np.int32), 24)


def _batches(images, mine, first_step=0, count=3, augment=("flip", "mixup"), sizes=(), sensors=()):
    config = get_config()
    config.batch_size, config.augment, config.mask_ratios = 8, augment, (0.75, 0.5, 0.0)
    config.image_sizes, config.size_probabilities = sizes, (0.5,) * len(sizes)
    config.sensor_sizes, config.sensor_probabilities = sensors, (0.5,) * len(sensors)
    seen = resolutions(sizes, sensors, 16, 4, ("sensor",))
    augmented = make_augmentation(augment, 16)
    data = pretraining_batches(images, config, seen, augmented, first_step, mine)
    return [[np.asarray(part) for part in batch] for batch in data.take(count)]


def test_an_epoch_sees_every_image_once_with_its_label(images):
    epochs = _batches(images, slice(0, 8), count=6)
    for epoch in (epochs[:3], epochs[3:]):
        labels = np.concatenate([batch[1] for batch in epoch])
        assert sorted(labels) == list(range(24))
        for pixels, of, _, _ in epoch:
            np.testing.assert_allclose(pixels, np.zeros_like(pixels) + of[:, None, None, None])
    assert (epochs[0][1] != epochs[3][1]).any()


def test_going_on_at_a_step_gives_what_would_have_come(images):
    whole, rest = _batches(images, slice(0, 8)), _batches(images, slice(0, 8), 2, 1)
    for expected, got in zip(whole[2], rest[0], strict=True):
        np.testing.assert_array_equal(got, expected)


def test_workers_share_a_batch_without_parting_neighbours(images):
    whole = _batches(images, slice(0, 8))
    for worker in (0, 1):
        mine = slice(4 * worker, 4 * worker + 4)
        for batch, part in zip(whole, _batches(images, mine), strict=True):
            for expected, got in zip(batch, part, strict=True):
                np.testing.assert_array_equal(got, expected[mine])


def test_neighbours_are_of_all_kinds(images):
    labels = np.concatenate([b[1] for b in _batches(images, slice(0, 8), count=30)])
    distances = np.abs(np.diff(labels.reshape(-1, 2), axis=1))
    assert len(np.unique(distances)) > 15


def test_nothing_is_mixed_unless_asked_for(images):
    assert not _batches(images, slice(0, 8), augment=("flip",))[0][3].any()
    assert _batches(images, slice(0, 8), augment=("cutmix",))[0][3].any()


def test_a_batch_has_one_of_the_sizes_and_as_many_patches(images):
    seen = set()
    for pixels, labels, places, shares in _batches(images, slice(0, 8), count=12, sizes=(16, 32)):
        side = pixels.shape[1]
        seen.add(side)
        np.testing.assert_allclose(pixels, np.zeros_like(pixels) + labels[:, None, None, None])
        assert pixels.shape == (8, side, side, 3)
        assert shares.shape == (8, (side // 4) ** 2)
        assert places.max() < shares.shape[1]
        assert places.shape[1] in [round(shares.shape[1] * share) for share in (0.25, 0.5, 1)]
    assert seen == {16, 32}


def test_a_batch_is_of_one_of_the_sensors():
    """Of black and white columns in turn, a sensor of half the side records grey."""
    pixels = np.zeros((24, 16, 16, 3), np.uint8)
    pixels[:, :, ::2] = 254
    numbers = np.arange(24, dtype=np.int32)
    stripes = Images(pixels, numbers, pixels, numbers, 24)
    options = {"count": 12, "augment": (), "sensors": (16, 8)}
    contrasts = [int(np.ptp(b[0])) for b in _batches(stripes, slice(0, 8), **options)]
    assert {contrast > 200 for contrast in contrasts} == {True, False}
    rest = _batches(stripes, slice(0, 8), **options | {"first_step": 5, "count": 7})
    assert [int(np.ptp(batch[0])) for batch in rest] == contrasts[5:]
