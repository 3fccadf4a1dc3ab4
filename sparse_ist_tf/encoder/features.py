"""Features of masked images: encoded once, kept in a cache that is never trusted blindly."""

import dataclasses
import functools
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from sparse_ist_tf.codec.few_bits import Channels
from sparse_ist_tf.codec.transport import Transport
from sparse_ist_tf.encoder.cache import cache_path, load_features, save_features
from sparse_ist_tf.encoder.frozen import FrozenEncoder
from sparse_ist_tf.errors import RunError, warn
from sparse_ist_tf.inputs.datasets import Split, image_errors
from sparse_ist_tf.masks import MaskOptions, Scaling, num_visible, select_patches
from sparse_ist_tf.shown.bars import Bar
from sparse_ist_tf.tracing import as_written, traced
from sparse_ist_tf.workers.link import Link

# Standard deviations that features of the same images may differ by, made by different processors.
_APART = {"float32": 0.01, "bfloat16": 0.5}
_FORMAT = 2  # raise it when encoding changes what it returns by more than round-off


def make_encode(
    encoder: FrozenEncoder,
    features: Callable[[Mapping[str, tf.Tensor]], tf.Tensor] | None = None,
) -> Callable[[np.ndarray, np.ndarray], tf.Tensor]:
    """A function from images to features.

    Args:
        encoder: from load_encoder.
        features: what is used in place of encoder.features().

    Returns:
        f(images uint8[b, side, side, 3], positions int32[b, v]) -> float32[b, feature_dim].
    """
    mean, std = (
        tf.constant(np.tile(value, encoder.patch_size**2), tf.float32)
        for value in (encoder.mean, encoder.std)
    )
    features, side = features or encoder.features(), encoder.image_size
    any_number = (  # of images and of patches: one graph, in a form that TensorFlow fuses
        tf.TensorSpec((None, side, side, 3), tf.uint8),
        tf.TensorSpec((None, None), tf.int32),
    )

    def encode(images, positions):
        patches = select_patches(images, positions, encoder.patch_size)
        patches = (tf.cast(patches, tf.float32) / 255.0 - mean) / std
        return tf.cast(features({"patches": patches, "positions": positions}), tf.float32)

    return traced(encode, input_signature=any_number)


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """How features are made, but for what they are of.

    Args:
        dtype: that the encoder computes in.
        cache_dir: as cache_path.
        batch_size: images at a time.
    """

    dtype: str = "float32"
    cache_dir: str | Path = ""
    batch_size: int = 64


_PLAIN, _DEFAULT = Transport(), FeatureOptions()


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of masked images: encoded once, then from the cache.

    The cache holds them as the encoder makes them; what the transport makes of their numbers is
    made anew, so that all number formats share a file. Random masks are not cached.

    Args:
        encoder: from load_encoder.
        masks: what is visible of the images.
        transport: that the images, or their features, cross before they are used.
        options: the rest.

    Example:
        >>> from sparse_ist_tf.checkpoints.loading import load_encoder
        >>> from sparse_ist_tf.encoder.features import Features
        >>> from sparse_ist_tf.inputs import datasets
        >>> from sparse_ist_tf.masks import MaskOptions
        >>> features = Features(load_encoder("random:vit_pico"), MaskOptions("fixed", 0.5))
        >>> features.encode(datasets.load("digits")["test"], stop=8, progress=False).shape
        (8, 96)
    """

    encoder: FrozenEncoder
    masks: MaskOptions
    transport: Transport = _PLAIN
    options: FeatureOptions = _DEFAULT

    @property
    def scaling(self) -> Scaling:
        """How images become what the encoder takes."""
        return self.masks.scaling(self.encoder.image_size, self.encoder.patch_size)

    def at_ratio(self, ratio: float) -> "Features":
        """The same of images with another hidden share."""
        return dataclasses.replace(self, masks=dataclasses.replace(self.masks, ratio=ratio))

    def under(self, masks: MaskOptions) -> "Features":
        """The same of images under other masks."""
        return dataclasses.replace(self, masks=masks)

    def channels_of(self, split: Split, link: Link, progress: bool = True) -> Channels | None:
        """What a transport has to know of features, by a split under fixed masks or the shared one.

        Called by all workers.

        Args:
            split: the training images.
            link: to the other workers.
            progress: as of.

        Returns:
            The same on every worker; None where features have enough bits.

        Raises:
            RunError: as of.
        """
        if not self.transport.needs_channels:
            return None
        kind = "shared" if self.masks.kind == "shared" else "fixed"
        masks = dataclasses.replace(self.masks, kind=kind)
        transport = dataclasses.replace(self.transport, features="float32")
        plain = dataclasses.replace(self, masks=masks, transport=transport)
        return Channels.of(plain.of(split, link, progress=progress))

    def key(self, split: Split) -> str:
        """What features depend on, as a digest, 64 hex digits: the name of their cache file."""
        encoder = self.encoder
        masks = dataclasses.asdict(self.masks.canonical())
        grid, resize, view = (masks.pop(name) for name in ("grid", "resize", "view"))
        parts = {
            "format": _FORMAT,
            "encoder": encoder.digest,
            "split": split.fingerprint,
            "masks": masks if self.masks.ratio else "none",
            "visible": num_visible(encoder.num_patches, self.masks.ratio),
            "preprocessing": [list(encoder.mean), list(encoder.std), encoder.image_size],
            "dtype": self.options.dtype,
        }
        if grid != "scaled":  # files of version 0.2.0 are all of that, and don't say so
            parts["grid"] = grid
        if resize != "antialias":
            parts["resize"] = resize
        if view:
            parts["view"] = view
        if self.transport.images_key:
            parts["link"] = self.transport.images_key
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def of(self, split: Split, link: Link, epoch: int = 0, progress: bool = True) -> np.ndarray:
        """The features of a whole split on every worker: from the cache, or encoded in shares.

        If any worker lacks them, each encodes its share and the shares are exchanged; a batch of
        each is encoded by another worker too. Called by all workers.

        Returns:
            float32[split.size, feature_dim].

        Raises:
            RunError: if an image can't be read, a feature is not finite or can't cross, or two
                workers make different features of the same images.
        """
        keep, key = self.masks.kind != "random", self.key(split)
        path = cache_path(self.options.cache_dir, key)
        features = load_features(path, key) if keep else None
        mine = np.array([[features is not None]], np.float32)
        everywhere = link.all_gather(mine, purpose="features").all()
        if features is not None and everywhere:
            if progress:
                count = f"{self._named(split)}: {split.size:,} features"
                print(f"{count} from the cache", file=sys.stderr, flush=True)
        else:

            def encode(start, stop, shown=progress):
                kind = {"epoch": epoch, "progress": shown, "whole": split.size}
                return self.encode(split, start, stop, **kind)

            features = self._shares(split, split.size, link, encode)
            self._check_shares(split, features, link, functools.partial(encode, shown=False))
            if keep:
                _keep(path, key, features, link)
        return self.transport.sent_features(features)

    def of_views(
        self, split: Split, rows: np.ndarray, epochs: np.ndarray, link: Link, progress: bool = True
    ) -> np.ndarray:
        """The features of some images in some epochs on every worker, encoded in shares.

        Called by all workers.

        Args:
            split: the images.
            rows: integers [n], their places; read faster where they ascend for long.
            epochs: integers [n], for random masks.
            link: to the other workers.
            progress: as encode.

        Returns:
            float32[n, feature_dim].

        Raises:
            RunError: as of.
        """

        def encode(start, stop):
            some = slice(start, stop)
            return self._encode(split, rows[some], epochs[some], progress, len(rows), False)

        return self.transport.sent_features(self._shares(split, len(rows), link, encode))

    def _shares(self, split, size, link, encode):
        """What encode(start, stop) makes of this worker's share of size images, and the others."""
        start, stop, per_worker = self._share(link.worker, size, link.num_workers)
        share = encode(start, stop)
        share = np.pad(share, [(0, per_worker - len(share)), (0, 0)])
        shares = link.all_gather(share, purpose="features")
        features = shares.reshape(-1, share.shape[1])[:size]
        if not np.isfinite(features).all():
            raise RunError(f"{split.name}: not all features are finite: are the encoder's weights?")
        return features

    def _share(self, worker, size, num_workers):
        """(start, stop, the longest) of a worker's share of size images."""
        # Shares are whole batches, so that every image is encoded in the same place of a batch.
        batches = -(-size // self.options.batch_size)
        longest = -(-batches // num_workers) * self.options.batch_size
        start = min(size, worker * longest)
        return start, min(size, start + longest), longest

    def _check_shares(self, split, features, link, encode):
        """Encodes a batch of the next worker's share, and compares."""
        if link.num_workers == 1:
            return
        peer = (link.worker + 1) % link.num_workers
        start, stop, _ = self._share(peer, split.size, link.num_workers)
        first = start + (stop - start) // (2 * self.options.batch_size) * self.options.batch_size
        mine = encode(first, min(stop, first + self.options.batch_size))
        theirs = features[first : first + len(mine)]
        apart = float(np.max(np.abs(mine - theirs), initial=0.0)) / max(1e-6, float(features.std()))
        found = link.all_gather(np.array([[apart]], np.float32), purpose="control").ravel()
        if found.max() > _APART[self.options.dtype]:
            one = int(found.argmax())
            other = (one + 1) % link.num_workers
            raise RunError(
                f"{split.name}: workers {one} and {other} make different features of the same "
                f"images, {found.max():.2g} standard deviations apart: nothing is cached"
            )

    def encode(
        self,
        split: Split,
        start: int = 0,
        stop: int | None = None,
        *,
        epoch: int = 0,
        progress: bool = True,
        whole: int = 0,
    ) -> np.ndarray:
        """Encodes a part of a split, without the cache.

        Batches are always full (the last is padded), so a row's value never depends on how many
        images stand beside it, nor on the number of workers that share the work.

        Args:
            split: the images.
            start: first image.
            stop: the image behind the last; the split's end where None.
            epoch: for random masks.
            progress: show a bar with images/s.
            whole: images that the bar counts, where other workers encode the rest of them.

        Returns:
            float32[stop - start, feature_dim].

        Raises:
            RunError: if an image can't be read.
        """
        rows = np.arange(start, split.size if stop is None else stop)
        return self._encode(split, rows, np.full(len(rows), epoch), progress, whole)

    def _encode(self, split, rows, epochs, progress, whole=0, lasting=True):
        """The images `rows` as in `epochs`, in this order."""
        encoder, batch_size = self.encoder, self.options.batch_size
        out = np.empty((len(rows), encoder.feature_dim), np.float32)
        if not len(rows):
            return out
        encode = make_encode(encoder)
        seen = self.transport.seen_images(
            _in_order(split, self.scaling.sent, rows),
            lambda i: self.masks.positions(rows[i], encoder.num_patches, epochs[i]),
            self.scaling,
            batch_size,
        )
        whole, encoded = max(whole, len(rows)), 0
        name = f"encoding {self._named(split)}"
        bar = Bar(whole, name, "images", is_shown=progress, stays=lasting)
        with bar, image_errors():
            for batch in seen.as_numpy_iterator():
                images, positions, indices = batch["image"], batch["positions"], batch["index"]
                count = len(indices)
                pad = [(0, batch_size - count)]
                images = np.pad(images, pad + [(0, 0)] * 3)
                positions = np.pad(positions, [*pad, (0, 0)])
                out[indices] = encode(images, positions).numpy()[:count]
                encoded += count
                bar.to(whole * encoded // len(rows))  # as if other shares were as far as this one
        return out

    def _named(self, split):
        return f"{split.name}, view {self.masks.view}" if self.masks.view else split.name


def _in_order(split, scale, rows):
    """Single images of a split in any order; "index" is the place in rows."""

    def read(run):
        if run[-1] - run[0] + 1 == len(run):
            return split.dataset(scale, start=int(run[0]), stop=int(run[-1]) + 1)
        return split.pick(scale, run)

    runs = np.split(rows, np.flatnonzero(np.diff(rows) <= 0) + 1)  # each is read in one go
    alike = [list(same) for _, same in itertools.groupby(runs, key=bytes)]
    images = functools.reduce(
        lambda a, b: a.concatenate(b), (read(same[0]).repeat(len(same)) for same in alike)
    )
    return images.enumerate().map(as_written(lambda i, image: {**image, "index": i}))


def _keep(path, key, features, link):
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
