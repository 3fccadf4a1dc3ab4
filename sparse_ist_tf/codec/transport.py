"""Images and features as they are behind a transport, and what it costs.

The codec runs on single images in a tf.data pipeline, as many at a time as there are cores, while
the encoder works on those before.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from sparse_ist_tf.codec.few_bits import BITS, Channels
from sparse_ist_tf.codec.messages import MaskSeed, sent_features
from sparse_ist_tf.codec.packing import count_bytes, cut, join, sent_patches
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs.decoding import image_errors
from sparse_ist_tf.inputs.split import Split
from sparse_ist_tf.masks.cells import Scaling
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.streams import Stream
from sparse_ist_tf.tracing import as_written

_SAMPLED = 256  # images whose bytes are counted
_PARALLEL = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}


@dataclasses.dataclass(frozen=True)
class Transport:
    """How images, or their features, cross to where they are used.

    Args:
        codec: "none": images cross as they are, or not at all; "jpeg": each as a JPEG, whole,
            masked by the receiver; "patches": the visible patches as pack_patches packs them;
            "raw": the visible patches' pixels.
        quality: of the JPEGs, 1 to 100.
        features: "float32", "float16" and so on, as pack_feature packs them.
        channels: of training images' features, where these have few bits.
    """

    codec: str = "none"
    quality: int = 75
    features: str = "float32"
    channels: Channels | None = None

    @property
    def needs_channels(self) -> bool:
        """Whether features have so few bits that both sides have to know of their channels."""
        return self.features in BITS

    @property
    def images_key(self) -> tuple[str, int] | None:
        """What the receiver's pixels depend on; None where they are the sender's."""
        return None if self.codec in ("none", "raw") else (self.codec, self.quality)

    def seen_images(
        self,
        rows: tf.data.Dataset,
        draw: Callable[[np.ndarray], np.ndarray],
        scaling: Scaling,
        batch_size: int,
    ) -> tf.data.Dataset:
        """Batches of images as the receiver's encoder takes them.

        Args:
            rows: single images as a split's dataset(scaling.sent) makes them.
            draw: from the places of images in their split, int64[b], to the visible positions,
                int32[b, v].
            scaling: how they become the encoder's patches.
            batch_size: images of a batch, the last may be smaller.

        Returns:
            The rows in batches, with "positions" int32[b, v] beside, and with what was decoded and
            enlarged in "image", uint8[b, side, side, 3]; hidden patches, where they weren't sent,
            are black.

        Example:
            >>> from sparse_ist_tf.inputs import datasets
            >>> from sparse_ist_tf.masks import Scaling, fixed_positions
            >>> from sparse_ist_tf.codec.transport import Transport
            >>> scaling = Scaling(32, 8)
            >>> rows = datasets.load("digits")["test"].dataset(scaling.sent)
            >>> draw = lambda indices: fixed_positions(0, indices, 16, 0.5)
            >>> batches = Transport("patches").seen_images(rows, draw, scaling, batch_size=32)
            >>> batch = next(iter(batches))
            >>> batch["image"].shape, batch["positions"].shape
            (TensorShape([32, 32, 32, 3]), TensorShape([32, 8]))
        """
        if self.codec == "none":  # masks of a whole batch are drawn in no time
            seen = rows.map(as_written(lambda row: _seen(row, scaling)), **_PARALLEL)
            batches = with_positions(seen.batch(batch_size), draw)
        else:
            received = self.received(rows, draw, scaling)
            batches = received.map(as_written(_without_picture)).batch(batch_size)
        return batches.prefetch(tf.data.AUTOTUNE)

    def received(
        self,
        rows: tf.data.Dataset,
        draw: Callable[[np.ndarray], np.ndarray],
        scaling: Scaling,
    ) -> tf.data.Dataset:
        """Single images, with what the receiver has before it enlarges anything.

        Returns:
            The rows as seen_images has them, but no batches, and with "picture" beside, uint8, as
            Scaling.sent makes it; hidden patches, where they weren't sent, are black there too.
        """

        def cross(row):
            positions = position_of(row["index"], draw)
            picture = self._picture(row["image"], positions, scaling.side)
            row = {**row, "positions": positions, "picture": picture}
            return {**row, "image": scaling.seen(picture)}

        return rows.map(as_written(cross), **_PARALLEL)

    def sent_features(self, features: np.ndarray) -> np.ndarray:
        """Features, float32[n, d], as the receiver has them.

        Raises:
            RunError: if their number format can't hold them.
        """
        try:
            return sent_features(features, self.features, self.channels)
        except ValueError as error:
            raise RunError(f"transport.features={self.features!r}: {error}") from None

    def bytes_per_image(
        self,
        split: Split,
        masks: MaskOptions,
        scaling: Scaling,
        feature_dim: int | None = None,
        count: int = _SAMPLED,
        seed: int = 0,
    ) -> dict[str, float]:
        """What an image costs in each form: means over some images, really encoded.

        Args:
            split: the images.
            masks: what is visible of them; random ones as in epoch 0.
            scaling: how they become the encoder's patches.
            feature_dim: length of the encoder's feature; None to leave features out.
            count: how many images, all where there are no more.
            seed: that they are drawn with.

        Returns:
            Bytes by name, as count_bytes has them, and "images", how many were encoded.

        Raises:
            RunError: if an image can't be read.
        """
        chosen = Stream.SAMPLED_IMAGES.rng(seed).permutation(split.size)[:count]
        grid = (scaling.side, scaling.side)

        def sizes(row):
            positions = position_of(
                row["index"], lambda indices: masks.positions(indices, scaling.num_patches)
            )
            mask = None
            if masks.kind != "shared":
                mask = MaskSeed(masks.seed, row["index"], 0 if masks.kind == "random" else None)
            form = {"quality": self.quality, "feature_dim": feature_dim, "mask": mask}
            return count_bytes(row["image"], positions, grid, **form)

        with image_errors():
            rows = split.pick(scaling.sent, np.sort(chosen))
            [found] = rows.map(as_written(sizes), **_PARALLEL).batch(count).as_numpy_iterator()
        means = {what: float(np.mean(values)) for what, values in found.items()}
        return {"images": len(chosen), **means}

    def _picture(self, picture, positions, side):
        """What the receiver makes of what the sensor sends."""
        if self.codec == "none":
            return picture
        if self.codec == "jpeg":
            data = tf.io.encode_jpeg(picture, quality=self.quality, chroma_downsampling=True)
            return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
        grid = (side, side)
        patches = cut(picture, grid)
        visible = tf.gather(patches, positions)
        if self.codec == "patches":
            visible = sent_patches(visible, quality=self.quality)
        visible = tf.cast(visible, tf.int32)
        black = tf.scatter_nd(positions[:, None], visible, tf.shape(patches))
        return join(tf.cast(black, tf.uint8), grid)


def _seen(row, scaling):
    return {**row, "image": scaling.seen(row["image"])}


def _without_picture(row):
    return {name: value for name, value in row.items() if name != "picture"}


def position_of(index: tf.Tensor, draw: Callable[[np.ndarray], np.ndarray]) -> tf.Tensor:
    """The visible positions of one image, in a graph.

    Args:
        index: int64 scalar, its place in its split.
        draw: from places, int64[b], to positions, int32[b, v].

    Returns:
        int32[v].
    """
    visible = draw(np.arange(1)).shape[1]
    positions = tf.numpy_function(lambda i: draw(i[None])[0], [index], tf.int32)
    return tf.ensure_shape(positions, (visible,))


def with_positions(
    batches: tf.data.Dataset, draw: Callable[[np.ndarray], np.ndarray]
) -> tf.data.Dataset:
    """Batches of a split with the visible positions of their images.

    Args:
        batches: with "index" int64[b].
        draw: from the places of images in their split, int64[b], to the visible positions,
            int32[b, v].

    Returns:
        The same with "positions" int32[b, v].
    """
    visible = draw(np.arange(1)).shape[1]

    def mask(batch):
        positions = tf.numpy_function(draw, [batch["index"]], tf.int32)
        return {**batch, "positions": tf.ensure_shape(positions, (None, visible))}

    return batches.map(as_written(mask), **_PARALLEL)
