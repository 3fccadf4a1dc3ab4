"""What is drawn for a step of pre-training: what is visible, how images are changed and mixed."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Union

import keras
import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.masks import num_visible

if TYPE_CHECKING:
    import jax

Array = Union[np.ndarray, "jax.Array"]
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

    Without "crop" all is seen, with it least_area of an image at least, in (0, 1].

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
    if not mixes:
        return np.zeros((count, grid * grid), np.float32)
    cuts = np.asarray(mixes)[rng.integers(len(mixes), size=count)] == "cutmix"
    even = rng.beta(MIXUP_BETA, MIXUP_BETA, count)
    side = np.sqrt(rng.random(count))
    cut = rectangles(np, rng.random((2, count)), side, grid)
    shares = np.where(cuts[:, None], cut, even[:, None])
    shares[rng.random(count) >= probability] = 0
    return shares.astype(np.float32)


def rectangles(xp: ModuleType, corners: Array, side: Array, grid: int) -> Array:
    """The patches of an image that a rectangle holds, in whole patches.

    Args:
        xp: numpy or jax.numpy, whose arrays these are.
        corners: float[2, b] in [0, 1], top and left over what the side leaves.
        side: float[b] in [0, 1], of the image's side.
        grid: patches of a side of an image.

    Returns:
        bool[b, grid * grid].
    """
    start = xp.round(corners * (1 - side) * grid)[..., None]
    end = xp.round(start + side[:, None] * grid)
    at = xp.arange(grid)
    rows, columns = (at >= start) & (at < end)
    return (rows[:, :, None] & columns[:, None, :]).reshape(len(side), -1)


def make_augmentation(names: tuple[str, ...], image_size: int, seed: int = 0) -> Callable:
    """A function over batches of images and the boxes that are seen of them.

    "flip" and "crop" are in the boxes, which are resized bilinearly to the whole image. "color"
    (brightness, contrast, saturation), "rand_augment" and "three_augment" are KerasCV's, whose
    chance is drawn as they go; the last makes a quarter of the images grey, solarizes a quarter and
    blurs a quarter. "mixup" and "cutmix" mix patches, later (see draw_shares).

    Source: of three_augment, "DeiT III" (Touvron et al., 2022), section 4, there of all images.

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
            layers.append(keras_cv.layers.RandomAugmentationPipeline(three, 1, rate=THREE_RATE))
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
