"""The images of pre-training, and the batches that every step sees of them."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from sparse_ist_tf.pretraining.augmentation import draw_boxes, draw_positions, draw_shares
from sparse_ist_tf.pretraining.resolution import Resolution, resampled
from sparse_ist_tf.streams import Stream


@dataclasses.dataclass(frozen=True)
class Images:
    """The two parts of a data set, decoded.

    Args:
        train: uint8[n, size, size, 3], in memory or mapped from a file.
        train_labels: int32[n].
        test: uint8[m, size, size, 3].
        test_labels: int32[m].
        num_classes: labels lie in [0, num_classes).
        fingerprint: of both parts, as Split has it; empty where not known.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    fingerprint: str = ""


def pretraining_batches(
    images: Images,
    config: ConfigDict,
    resolutions: Sequence[Resolution],
    augment: Callable,
    first_step: int,
    mine: slice,
) -> tf.data.Dataset:
    """Batches from a step on, for ever: functions of (config.seed, step), but for KerasCV's chance.

    Every image is seen once in an epoch, in an order of the epoch's own. Rows 2i and 2i + 1 are
    mixed with each other where config.augment asks for it.

    Args:
        images: the data.
        config: as sparse_ist_tf.pretrain_config makes it.
        resolutions: of a run, of which a batch has one.
        augment: from make_augmentation.
        first_step: the step of the first batch, from 0.
        mine: the rows of a batch that this worker sees.

    Returns:
        Of (images float32[b, size, size, 3] in [0, 255], labels int32[b], positions int32[b, v],
        shares float32[b, n]), b the length of `mine`, n the patches of an image.
    """
    count, total, stored = config.batch_size, len(images.train_labels), images.train.shape[1]
    scaled = any((r.size, r.sensor) != (stored, stored) for r in resolutions)

    def generate():
        for step in itertools.count(first_step):
            rows = draw_rows(config, total, step)
            resolution = resolutions[draw_resolution(config, step)]
            ratio, rng = draw_ratio(config, step)
            grid = resolution.scaling.side
            positions = draw_positions(rng, count, grid * grid, config.mask_ratios[ratio])
            boxes = draw_boxes(rng, count, config.augment, config.crop_area)
            shares = draw_shares(rng, count, grid, config.augment, config.mix_probability)
            rows, labels = rows[mine], images.train_labels[rows[mine]]
            pixels, rest = images.train[rows], (labels, positions[mine], shares[mine])
            yield resolution.matrix, pixels, boxes[mine], *rest

    def changed(matrix, images, boxes, *rest):
        images = augment(images, boxes)
        return resampled(images, matrix) if scaled else images, *rest

    part = len(range(*mine.indices(count)))
    signature = (
        tf.TensorSpec((None, stored), tf.float32),
        tf.TensorSpec((part, stored, stored, 3), tf.uint8),
        tf.TensorSpec((part, 4), tf.float32),
        tf.TensorSpec((part,), tf.int32),
        tf.TensorSpec((part, None), tf.int32),
        tf.TensorSpec((part, None), tf.float32),
    )
    data = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return data.map(changed, num_parallel_calls=1).prefetch(4)


def draw_rows(config: ConfigDict, count: int, step: int) -> np.ndarray:
    """The images, of `count`, of a step's batch: each once in an epoch, in the epoch's own order.

    Returns:
        int64[batch_size].
    """
    picks = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
    epochs, places = np.divmod(picks, count)
    parts = ((_order(config.seed, int(e), count), places[epochs == e]) for e in np.unique(epochs))
    return np.concatenate([order[part] for order, part in parts])


@functools.lru_cache(maxsize=2)
def _order(seed, epoch, count):
    return Stream.PRETRAINING_ORDER.rng(seed, epoch).permutation(count)


def draw_resolution(config: ConfigDict, step: int) -> int:
    """The index in resolutions() of the one that a step has."""
    size = _draw(Stream.PRETRAINING_SIZE.rng(config.seed, step), config.size_probabilities)
    sensor = _draw(Stream.PRETRAINING_SENSOR.rng(config.seed, step), config.sensor_probabilities)
    odds = tuple(grid_shares(config).values())
    grid = _draw(Stream.PRETRAINING_GRID.rng(config.seed, step), odds)
    return (size * max(1, len(config.sensor_sizes)) + sensor) * len(odds) + grid


def grid_shares(config: ConfigDict) -> dict[str, float]:
    """The grids that masks fall on, and the share of the steps that have each."""
    share = config.masks.scaled_share
    if config.masks.grid == "scaled" or not share:
        return {config.masks.grid: 1.0}
    return {"sensor": 1 - share, "scaled": share}


def _draw(rng, odds):
    return int(rng.choice(len(odds), p=odds)) if len(odds) > 1 else 0


def draw_ratio(config: ConfigDict, step: int) -> tuple[int, np.random.Generator]:
    """Which of config.mask_ratios a step has.

    Returns:
        Its index among them, and the source of chance of what else the step draws.
    """
    rng = Stream.PRETRAINING_RATIO.rng(config.seed, step)
    return int(rng.choice(len(config.mask_ratios), p=config.mask_probabilities)), rng
