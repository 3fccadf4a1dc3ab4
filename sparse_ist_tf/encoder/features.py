"""Features of masked images: encoded once, kept in a cache that is never trusted blindly."""

import functools
import sys

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from sparse_ist_tf.codec.transport import Transport
from sparse_ist_tf.encoder import fast
from sparse_ist_tf.encoder.cache import (
    NO_TRANSPORT,
    cache_key,
    cache_path,
    load_features,
    save_features,
)
from sparse_ist_tf.errors import RunError, warn
from sparse_ist_tf.inputs.datasets import Split, image_errors
from sparse_ist_tf.masks import select_patches
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.tracing import traced
from sparse_ist_tf.workers.link import Link


def make_encode(encoder, frozen: bool = True):
    """A function from images to features.

    Args:
        encoder: from load_encoder.
        frozen: whether its weights stay as they are now; faster.

    Returns:
        f(images uint8[b, side, side, 3], positions int32[b, v]) -> float32[b, feature_dim].

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.encoder.features import make_encode
        >>> from sparse_ist_tf.checkpoints.loading import load_encoder
        >>> encode = make_encode(load_encoder("random:vit_pico"))
        >>> encode(np.zeros((1, 64, 64, 3), "uint8"), np.zeros((1, 4), "int32")).shape
        TensorShape([1, 96])
    """
    mean, std = (tf.constant(value, tf.float32) for value in (encoder.mean, encoder.std))
    model = encoder.model
    features = fast.frozen_features(model) if frozen else functools.partial(fast.features, model)
    side = encoder.image_size
    any_number = (  # of images and of patches: one graph, in a form that TensorFlow fuses
        tf.TensorSpec((None, side, side, 3), tf.uint8),
        tf.TensorSpec((None, None), tf.int32),
    )

    def encode(images, positions):
        patches = select_patches(images, positions, encoder.patch_size)
        shape = tf.shape(patches)
        pixels = tf.reshape(patches, (shape[0], shape[1], -1, 3))
        pixels = (tf.cast(pixels, tf.float32) / 255.0 - mean) / std
        patches = tf.reshape(pixels, (shape[0], shape[1], 3 * encoder.patch_size**2))
        inputs = {"patches": patches, "positions": positions}
        return tf.cast(features(inputs), tf.float32)

    return traced(encode, input_signature=any_number)


def encode_split(
    encoder,
    split: Split,
    masks: MaskOptions,
    *,
    start: int = 0,
    stop: int | None = None,
    epoch: int = 0,
    batch_size: int = 64,
    progress: bool = True,
    transport: Transport = NO_TRANSPORT,
) -> np.ndarray:
    """Encodes a part of a split.

    Batches are always full (the last is padded), so a row's value never depends on how many images
    stand beside it, nor on the number of workers that share the work.

    Args:
        encoder: from load_encoder.
        split: the images.
        masks: what is visible of them.
        start: first image.
        stop: the image behind the last; the split's end where None.
        epoch: for random masks.
        batch_size: images at a time.
        progress: show a bar with images/s.
        transport: that the images cross before.

    Returns:
        float32[stop - start, feature_dim].

    Raises:
        RunError: if an image can't be read.

    Example:
        >>> from sparse_ist_tf.masks.options import MaskOptions
        >>> from sparse_ist_tf.encoder.features import encode_split
        >>> from sparse_ist_tf.checkpoints.loading import load_encoder
        >>> from sparse_ist_tf.inputs import datasets
        >>> test = datasets.load("digits")["test"]
        >>> encode_split(load_encoder("random:vit_pico"), test, MaskOptions("fixed", 0.5),
        ...              stop=8, progress=False).shape
        (8, 96)
    """
    stop = split.size if stop is None else stop
    encode = make_encode(encoder)
    out = np.empty((stop - start, encoder.feature_dim), np.float32)
    rows = transport.sent_images(
        split.dataset(encoder.image_size, start=start, stop=stop),
        lambda indices: masks.positions(indices, encoder.num_patches, epoch),
        encoder.patch_size,
        batch_size,
    )
    bar = tqdm(
        total=stop - start,
        desc=f"encoding {split.name}",
        unit=" images",
        disable=not progress,
        mininterval=0.5,
    )
    with bar, image_errors():
        for batch in rows.as_numpy_iterator():
            images, positions, indices = batch["image"], batch["positions"], batch["index"]
            count = len(indices)
            pad = [(0, batch_size - count)]
            images = np.pad(images, pad + [(0, 0)] * 3)
            positions = np.pad(positions, [*pad, (0, 0)])
            at = int(indices[0]) - start
            out[at : at + count] = encode(images, positions).numpy()[:count]
            bar.update(count)
    return out


def shared_features(
    encoder,
    split: Split,
    masks: MaskOptions,
    link: Link,
    *,
    dtype: str = "float32",
    cache_dir: str = "",
    batch_size: int = 64,
    epoch: int = 0,
    progress: bool = True,
    transport: Transport = NO_TRANSPORT,
) -> np.ndarray:
    """The features of a whole split on every worker: from the cache, or encoded in shares.

    If any worker lacks them, each encodes its share and the shares are exchanged. Random masks are
    not cached. Called by all workers.

    Args:
        encoder: from load_encoder.
        split: the images.
        masks: what is visible of them.
        link: to the other workers.
        dtype: that the encoder computes in.
        cache_dir: as cache_path.
        batch_size: images at a time.
        epoch: for random masks.
        progress: show a bar.
        transport: that the images, or their features, cross before they are used.

    Returns:
        float32[split.size, feature_dim].

    Raises:
        RunError: if an image can't be read, or a feature is not finite or can't cross transport.
    """
    keep = masks.kind != "random"
    key = cache_key(encoder, split, masks, dtype, transport)
    path = cache_path(cache_dir, key)
    features = load_features(path, key) if keep else None
    mine = np.array([[features is not None]], np.float32)
    if link.all_gather(mine, purpose="features").all():
        if progress:
            count = f"{split.name}: {split.size:,} features"
            print(f"{count} from the cache", file=sys.stderr, flush=True)
        return transport.sent_features(features)
    options = {"epoch": epoch, "batch_size": batch_size, "transport": transport}
    features = _encode_shares(encoder, split, masks, link, progress=progress, **options)
    if keep:
        _keep(path, key, features, link)
    return transport.sent_features(features)


def _encode_shares(encoder, split, masks, link, *, batch_size, **options) -> np.ndarray:
    """Encodes this worker's share, and puts it together with those of the others."""
    # Shares are whole batches, so that every image is encoded in the same place of a batch.
    batches = -(-split.size // batch_size)
    per_worker = -(-batches // link.num_workers) * batch_size
    start = min(split.size, link.worker * per_worker)
    stop = min(split.size, start + per_worker)
    options |= {"start": start, "stop": stop, "batch_size": batch_size}
    share = encode_split(encoder, split, masks, **options)
    share = np.pad(share, [(0, per_worker - len(share)), (0, 0)])
    features = link.all_gather(share, purpose="features").reshape(-1, share.shape[1])[: split.size]
    if not np.isfinite(features).all():
        raise RunError(f"{split.name}: not all features are finite: are the encoder's weights?")
    return features


def _keep(path, key, features, link) -> None:
    """Puts features into the cache: once where workers share it, on each machine elsewhere."""

    def save():
        try:
            save_features(path, key, features)
        except OSError as error:
            reason = error.strerror or error
            warn(f"{path.parent}: features are not cached: {reason}")

    if link.chief:
        save()
    done = np.ones((1, 1), np.float32)
    link.all_gather(done, purpose="features")  # by now the chief has written
    if not link.chief and not path.exists():
        save()
