"""What is drawn for a step of pre-training: what is visible, how images are changed and mixed."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.masks import num_visible

MIXES = ("mixup", "cutmix")
AUGMENTATIONS = ("flip", "crop", "color", "rand_augment", "three_augment", *MIXES)
CROP_RATIOS = (3 / 4, 4 / 3)  # of a crop's width to its height
MIXUP_BETA = 0.8  # both parameters of the beta distribution of its shares
COLOR = 0.3  # most change of brightness, contrast and saturation
BLUR = (0.1, 1.0)  # of three_augment: std in pixels
SOLARIZE = 128.0  # of three_augment: values from here on are inverted
THREE_RATE = 0.75  # of three_augment: share of the images that it changes


def check_augment(names: Sequence[str], allowed: Sequence[str] = AUGMENTATIONS) -> None:
    """Checks the names of augmentations.

    Raises:
        RequestError: if one isn't among them.
    """
    for name in names:
        if name not in allowed:
            raise RequestError(f"augment: {name!r} is none of {', '.join(allowed)}")


def draw_positions(
    rng: np.random.Generator, count: int, num_patches: int, mask_ratio: float
) -> np.ndarray:
    """Visible positions of `count` images, drawn uniformly without replacement.

    Args:
        rng: the source of chance.
        count: images.
        num_patches: patches of an image.
        mask_ratio: in [0, 1).

    Returns:
        int32[count, num_visible], ascending in a row.
    """
    visible = num_visible(num_patches, mask_ratio)
    return np.sort(rng.random((count, num_patches)).argsort(axis=1)[:, :visible]).astype(np.int32)


def draw_boxes(
    rng: np.random.Generator, count: int, names: tuple[str, ...], least_area: float
) -> np.ndarray:
    """The part of each of `count` images that is seen, for "flip" and "crop".

    Areas are uniform, ratios of width to height log-uniform from 3/4 to 4/3, as in torchvision's
    RandomResizedCrop, which MAE uses.

    Args:
        rng: the source of chance.
        count: images.
        names: augmentations; without "crop" all is seen.
        least_area: share of an image that is seen at least, in (0, 1].

    Returns:
        float32[count, 4]: top, left, bottom, right in [0, 1]; left and right change places where an
        image is flipped.
    """
    height, width = np.ones(count), np.ones(count)
    if "crop" in names:
        area = rng.uniform(least_area, 1.0, count)
        low, high = np.log(CROP_RATIOS)
        ratio = np.exp(rng.uniform(low, high, count))
        height, width = np.minimum(1, np.sqrt(area / ratio)), np.minimum(1, np.sqrt(area * ratio))
    top, left = (rng.uniform(0, 1, count) * (1 - side) for side in (height, width))
    boxes = np.stack([top, left, top + height, left + width], axis=1).astype(np.float32)
    if "flip" in names:
        boxes = np.where(rng.random((count, 1)) < 0.5, boxes[:, [0, 3, 2, 1]], boxes)
    return boxes


def draw_shares(
    rng: np.random.Generator, count: int, grid: int, names: tuple[str, ...], probability: float
) -> np.ndarray:
    """What part of each patch comes from another image, for "mixup" and "cutmix".

    "mixup" takes the same share of every patch, from a symmetric beta distribution with 0.8;
    "cutmix" takes whole patches, those of a rectangle whose area is uniform. Where both are named,
    each image has one of them. A patch is of one image or evenly mixed, so the label's share
    follows from the patches that are visible.

    Source: "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018); "CutMix" (Yun et al.,
    2019), here on patches as in "TokenMix" (Liu et al., 2022); 0.8 as in DeiT (Touvron et al.,
    2021).

    Args:
        rng: the source of chance.
        count: images.
        grid: patches of a side of an image.
        names: augmentations; without those two nothing is mixed.
        probability: share of the images that are mixed, in [0, 1].

    Returns:
        float32[count, grid * grid] in [0, 1].
    """
    mixes = [name for name in MIXES if name in names]
    shares = np.zeros((count, grid, grid), np.float32)
    if not mixes:
        return shares.reshape(count, -1)
    kinds = np.asarray(mixes)[rng.integers(len(mixes), size=count)]
    even = rng.beta(MIXUP_BETA, MIXUP_BETA, count)
    side = np.sqrt(rng.random(count))
    top, left = (rng.random((2, count)) * (1 - side) * grid).round().astype(int)
    bottom, right = (np.round(start + side * grid).astype(int) for start in (top, left))
    at = np.arange(grid)
    rows = (at >= top[:, None]) & (at < bottom[:, None])
    columns = (at >= left[:, None]) & (at < right[:, None])
    cut = rows[:, :, None] & columns[:, None, :]
    shares = np.where((kinds == "cutmix")[:, None, None], cut, even[:, None, None])
    shares[rng.random(count) >= probability] = 0
    return shares.reshape(count, -1).astype(np.float32)


def make_augmentation(names: tuple[str, ...], image_size: int, seed: int = 0) -> Callable:
    """A function over batches of images and the boxes that are seen of them.

    "flip" and "crop" are in the boxes, which are resized bilinearly to the whole image. "color"
    (brightness, contrast, saturation), "rand_augment" and "three_augment" are KerasCV's, whose
    chance is drawn as they go; the last makes a quarter of the images grey, solarizes a quarter and
    blurs a quarter. "mixup" and "cutmix" mix patches, later (see draw_shares).

    Source: of three_augment, "DeiT III" (Touvron et al., 2022), section 4, there of all images.

    Args:
        names: of AUGMENTATIONS.
        image_size: side of the images in pixels.
        seed: of KerasCV's chance.

    Returns:
        (uint8[b, size, size, 3], float32[b, 4] from draw_boxes) to float32[b, size, size, 3], in
        [0, 255].

    Raises:
        RequestError: if a name isn't known.
    """
    check_augment(names)
    layers = []
    if {"color", "rand_augment", "three_augment"}.intersection(names):
        import keras_cv  # 2 s to import: only where it is used

        keras.utils.set_random_seed(seed)
        if "color" in names:
            layers.append(keras_cv.layers.RandomColorJitter((0, 255), COLOR, COLOR, COLOR, 0.0))
        if "rand_augment" in names:
            layers.append(keras_cv.layers.RandAugment((0, 255), 2, 0.3))
        if "three_augment" in names:
            three = [
                keras_cv.layers.Grayscale(output_channels=3),
                keras_cv.layers.Solarization((0, 255), threshold_factor=(SOLARIZE, SOLARIZE)),
                keras_cv.layers.RandomGaussianBlur(kernel_size=7, factor=BLUR),
            ]
            pipeline = keras_cv.layers.RandomAugmentationPipeline(three, 1, rate=THREE_RATE)
            layers.append(pipeline)
    moves = bool({"flip", "crop"}.intersection(names))

    def augment(images, boxes):
        images = tf.cast(images, tf.float32)
        if moves:
            every = tf.range(tf.shape(images)[0])
            images = tf.image.crop_and_resize(images, boxes, every, (image_size, image_size))
        for layer in layers:
            images = layer(images)
        return tf.ensure_shape(images, (None, image_size, image_size, 3))

    return augment
