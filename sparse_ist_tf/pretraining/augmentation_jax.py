"""What pre-training draws for a step and does to its images, in JAX, on the accelerator.

What has a name in augmentation.py is the same here, but for rand_augment, which is missing, and for
brightness, which KerasCV adds and which here multiplies.
"""

import math

import jax
import jax.numpy as jnp

from sparse_ist_tf.pretraining.augmentation import (
    AUGMENTATIONS,
    BLUR,
    COLOR,
    CROP_RATIOS,
    MIXES,
    MIXUP_BETA,
    SOLARIZE,
    THREE_RATE,
    rectangles,
)

JAX_AUGMENTATIONS = tuple(name for name in AUGMENTATIONS if name != "rand_augment")
_GREY = (0.299, 0.587, 0.114)  # luma


def draw_positions(key: jax.Array, count: int, num_patches: int, visible: int) -> jax.Array:
    """Visible positions of `count` images, drawn uniformly without replacement.

    Returns:
        int32[count, visible], ascending in a row.
    """
    order = jnp.argsort(jax.random.uniform(key, (count, num_patches)), axis=1)
    return jnp.sort(order[:, :visible], axis=1).astype(jnp.int32)


def draw_shares(
    key: jax.Array, count: int, grid: int, names: tuple[str, ...], probability: float
) -> jax.Array:
    """What part of each patch comes from another image, as augmentation.draw_shares draws it."""
    mixes = [name for name in MIXES if name in names]
    if not mixes:
        return jnp.zeros((count, grid * grid))
    keys = jax.random.split(key, 5)
    cuts = jax.random.randint(keys[0], (count,), 0, len(mixes)) == len(mixes) - 1
    cuts &= mixes[-1] == "cutmix"
    even = jax.random.beta(keys[1], MIXUP_BETA, MIXUP_BETA, (count,))
    side = jnp.sqrt(jax.random.uniform(keys[2], (count,)))
    cut = rectangles(jnp, jax.random.uniform(keys[3], (2, count)), side, grid)
    shares = jnp.where(cuts[:, None], cut, even[:, None])
    return shares * (jax.random.uniform(keys[4], (count, 1)) < probability)


def augmented(
    key: jax.Array, images: jax.Array, names: tuple[str, ...], least_area: float
) -> jax.Array:
    """Images changed at random.

    Args:
        key: of JAX.
        images: uint8[b, size, size, 3].
        names: of JAX_AUGMENTATIONS; mixes come later.
        least_area: share of an image that a crop has at least.

    Returns:
        float32[b, size, size, 3] in [0, 1].
    """
    boxes, colours, kinds, blurs = jax.random.split(key, 4)
    images = images.astype(jnp.float32) / 255
    count, size = images.shape[:2]
    kind = jnp.full((count,), 3)
    if "three_augment" in names:
        kind = (jax.random.uniform(kinds, (count,)) * 3 / THREE_RATE).astype(jnp.int32)
    sigma = jax.random.uniform(blurs, (count,), minval=BLUR[0], maxval=BLUR[1])
    sigma = jnp.where(kind == 2, sigma, 0.0)
    rows, columns = _resampling(boxes, count, size, names, least_area, sigma)
    images = jnp.einsum("bij,bjkc->bikc", rows, images)
    images = jnp.einsum("blk,bikc->bilc", columns, images)
    if "three_augment" in names:
        kind = kind[:, None, None, None]
        images = jnp.where(kind == 0, _grey(images), images)
        images = jnp.where((kind == 1) & (images >= SOLARIZE / 255), 1 - images, images)
    if "color" in names:
        images = _coloured(colours, images)
    return images


def _resampling(key, count, size, names, least_area, sigma):
    """Matrices [count, size, size] that crop, flip and blur the rows, and the columns."""
    keys = jax.random.split(key, 4)
    height = width = jnp.ones(count)
    if "crop" in names:
        area = jax.random.uniform(keys[0], (count,), minval=least_area)
        low, high = map(math.log, CROP_RATIOS)
        ratio = jnp.exp(jax.random.uniform(keys[1], (count,), minval=low, maxval=high))
        height, width = (jnp.minimum(1, jnp.sqrt(x)) for x in (area / ratio, area * ratio))
    start = jax.random.uniform(keys[2], (2, count)) * (1 - jnp.stack([height, width]))
    flipped = (jax.random.uniform(keys[3], (count,)) < 0.5) & ("flip" in names)
    pixels = jnp.arange(size, dtype=jnp.float32)
    variance = jnp.maximum(sigma, 1e-3)[:, None, None] ** 2
    near = jnp.exp(-((pixels[:, None] - pixels) ** 2) / (2 * variance))
    blur = near / near.sum(axis=-1, keepdims=True)

    def matrix(start, extent):
        at = (start[:, None] + extent[:, None] * (pixels + 0.5) / size) * size - 0.5
        at = jnp.clip(at, 0, size - 1)
        return blur @ jnp.maximum(0, 1 - jnp.abs(at[:, :, None] - pixels))

    rows, columns = matrix(start[0], height), matrix(start[1], width)
    return rows, jnp.where(flipped[:, None, None], columns[:, ::-1], columns)


def _grey(images):
    return jnp.broadcast_to((images @ jnp.array(_GREY))[..., None], images.shape)


def _coloured(key, images):
    """Brightness, contrast and saturation, in this order."""
    factors = jax.random.uniform(key, (3, len(images), 1, 1, 1), minval=1 - COLOR, maxval=1 + COLOR)
    images = jnp.clip(images * factors[0], 0, 1)
    mean = _grey(images).mean(axis=(1, 2, 3), keepdims=True)
    images = jnp.clip(mean + factors[1] * (images - mean), 0, 1)
    grey = _grey(images)
    return jnp.clip(grey + factors[2] * (images - grey), 0, 1)
