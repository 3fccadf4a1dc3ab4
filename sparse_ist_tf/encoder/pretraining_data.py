"""The images of pre-training, and the batches that every step sees of them."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from sparse_ist_tf.encoder.augmentation import draw_boxes, draw_positions, draw_shares


@dataclasses.dataclass(frozen=True)
class Images:
    """The two parts of a data set, decoded.

    Args:
        train: uint8[n, size, size, 3], in memory or mapped from a file.
        train_labels: int32[n].
        test: uint8[m, size, size, 3].
        test_labels: int32[m].
        num_classes: labels lie in [0, num_classes).

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.encoder.pretraining_data import Images
        >>> x, y = np.zeros((4, 64, 64, 3), "uint8"), np.zeros(4, "int32")
        >>> Images(x, y, x, y, num_classes=10).train.shape
        (4, 64, 64, 3)
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    num_classes: int


def pretraining_batches(
    images: Images, config, grid: int, augment: Callable, first_step: int, mine: slice
) -> tf.data.Dataset:
    """Batches from a step on, for ever: functions of (config.seed, step), but for KerasCV's chance.

    Every image is seen once in an epoch, in an order of the epoch's own. Rows 2i and 2i + 1 are
    mixed with each other where config.augment asks for it.

    Args:
        images: the data.
        config: seed, batch_size, mask_ratios, mask_probabilities, augment, crop_area and
            mix_probability, as pretrain_config has them.
        grid: patches of a side of an image.
        augment: from make_augmentation.
        first_step: the step of the first batch, from 0.
        mine: the rows of a batch that this worker sees.

    Returns:
        Of (images float32[b, size, size, 3] in [0, 255], labels int32[b], positions int32[b, v],
        shares float32[b, grid * grid]), b the length of `mine`.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.encoder.augmentation import make_augmentation
        >>> from sparse_ist_tf.encoder.pretraining_data import Images, pretraining_batches
        >>> from sparse_ist_tf.pretrain_config import get_config
        >>> x, y = np.zeros((256, 64, 64, 3), "uint8"), np.zeros(256, "int32")
        >>> config, augment = get_config(), make_augmentation(("flip",), 64)
        >>> data = pretraining_batches(Images(x, y, x, y, 1), config, 8, augment, 0, slice(0, 128))
        >>> next(iter(data))[0].shape
        TensorShape([128, 64, 64, 3])
    """
    size, count = config.batch_size, len(images.train_labels)
    num_patches, side = grid * grid, images.train.shape[1]

    def generate():
        step, epoch, order = first_step, -1, None
        while True:
            rng = np.random.default_rng((config.seed, 1, step))
            picks = np.arange(step * size, (step + 1) * size)
            rows = np.empty(size, np.int64)
            for e in np.unique(picks // count):
                if e != epoch:
                    order = np.random.default_rng((config.seed, 0, e)).permutation(count)
                    epoch = e
                rows[picks // count == e] = order[picks[picks // count == e] % count]
            ratio = float(rng.choice(config.mask_ratios, p=config.mask_probabilities))
            places = draw_positions(rng, size, num_patches, ratio)
            boxes = draw_boxes(rng, size, config.augment, config.crop_area)
            shares = draw_shares(rng, size, grid, config.augment, config.mix_probability)
            rows, labels = rows[mine], images.train_labels[rows[mine]]
            yield images.train[rows], boxes[mine], labels, places[mine], shares[mine]
            step += 1

    part = len(range(*mine.indices(size)))
    signature = (
        tf.TensorSpec((part, side, side, 3), tf.uint8),
        tf.TensorSpec((part, 4), tf.float32),
        tf.TensorSpec((part,), tf.int32),
        tf.TensorSpec((part, None), tf.int32),
        tf.TensorSpec((part, num_patches), tf.float32),
    )
    data = tf.data.Dataset.from_generator(generate, output_signature=signature)
    data = data.map(lambda x, b, *rest: (augment(x, b), *rest), num_parallel_calls=1)
    return data.prefetch(4)
