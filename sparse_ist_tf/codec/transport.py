"""Images and features as they are behind a transport, and what it costs.

The codec runs on single images in a tf.data pipeline, as many at a time as there are cores, while
the encoder works on those before.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from sparse_ist_tf.codec.messages import MaskSeed, sent_features
from sparse_ist_tf.codec.packing import count_bytes, sent_patches
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs.decoding import image_errors
from sparse_ist_tf.inputs.split import Split
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.masks.patches import grid_of, patchify, unpatchify
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
        features: "float32", "float16" or "int8", as pack_feature packs them.
    """

    codec: str = "none"
    quality: int = 75
    features: str = "float32"

    @property
    def images_key(self) -> tuple[str, int] | None:
        """What the receiver's pixels depend on; None where they are the sender's."""
        return None if self.codec in ("none", "raw") else (self.codec, self.quality)

    def sent_images(
        self,
        rows: tf.data.Dataset,
        draw: Callable[[np.ndarray], np.ndarray],
        patch_size: int,
        batch_size: int,
    ) -> tf.data.Dataset:
        """Batches of images as the receiver has them.

        Args:
            rows: single images of a split, as its dataset() makes them.
            draw: from the places of images in their split, int64[b], to the visible positions,
                int32[b, v].
            patch_size: side of a patch in pixels.
            batch_size: images of a batch, the last may be smaller.

        Returns:
            The rows in batches, with "positions" int32[b, v] beside, and with what was decoded in
            "image"; hidden patches, where they weren't sent, are black.

        Example:
            >>> from sparse_ist_tf.inputs import datasets
            >>> from sparse_ist_tf.masks import fixed_positions
            >>> from sparse_ist_tf.codec.transport import Transport
            >>> rows = datasets.load("digits")["test"].dataset(64)
            >>> draw = lambda indices: fixed_positions(0, indices, 64, 0.5)
            >>> batch = next(iter(Transport("patches").sent_images(rows, draw, 8, batch_size=32)))
            >>> batch["image"].shape, batch["positions"].shape
            (TensorShape([32, 64, 64, 3]), TensorShape([32, 32]))
        """

        def cross(row):
            return {**row, "image": self._image(row["image"], row["positions"], patch_size)}

        rows = with_positions(rows.batch(batch_size), draw)
        if self.codec != "none":
            rows = rows.unbatch().map(as_written(cross), **_PARALLEL).batch(batch_size)
        return rows.prefetch(tf.data.AUTOTUNE)

    def sent_features(self, features: np.ndarray) -> np.ndarray:
        """Features, float32[n, d], as the receiver has them.

        Raises:
            RunError: if their number format can't hold them.
        """
        try:
            return sent_features(features, self.features)
        except ValueError as error:
            raise RunError(f"transport.features={self.features!r}: {error}") from None

    def bytes_per_image(
        self,
        split: Split,
        masks: MaskOptions,
        image_size: int,
        patch_size: int,
        feature_dim: int | None = None,
        count: int = _SAMPLED,
        seed: int = 0,
    ) -> dict[str, float]:
        """What an image costs in each form: means over some images, really encoded.

        Args:
            split: the images.
            masks: what is visible of them; random ones as in epoch 0.
            image_size: side in pixels.
            patch_size: side of a patch in pixels.
            feature_dim: length of the encoder's feature; None to leave features out.
            count: how many images, all where there are no more.
            seed: that they are drawn with.

        Returns:
            Bytes by name, as count_bytes has them, and "images", how many were encoded.

        Raises:
            RunError: if an image can't be read.
        """
        chosen = Stream.SAMPLED_IMAGES.rng(seed).permutation(split.size)[:count]
        num_patches = (image_size // patch_size) ** 2
        rows = with_positions(
            split.pick(image_size, np.sort(chosen)).batch(64),
            lambda indices: masks.positions(indices, num_patches),
        )

        def sizes(row):
            mask = None
            if masks.kind != "shared":
                mask = MaskSeed(masks.seed, row["index"], 0 if masks.kind == "random" else None)
            form = {"quality": self.quality, "feature_dim": feature_dim, "mask": mask}
            return count_bytes(row["image"], row["positions"], patch_size, **form)

        with image_errors():
            batches = rows.unbatch().map(as_written(sizes), **_PARALLEL).batch(count)
            [found] = batches.as_numpy_iterator()
        means = {what: float(np.mean(values)) for what, values in found.items()}
        return {"images": len(chosen), **means}

    def _image(self, image, positions, patch_size):
        if self.codec == "jpeg":
            data = tf.io.encode_jpeg(image, quality=self.quality, chroma_downsampling=True)
            decoded = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
            return tf.ensure_shape(decoded, image.shape)
        patches = tf.gather(patchify(image[None], patch_size)[0], positions)
        if self.codec == "patches":
            patches = sent_patches(patches, patch_size, quality=self.quality)
        grid = grid_of(image, patch_size)
        shape = (grid[0] * grid[1], patches.shape[1])
        black = tf.scatter_nd(positions[:, None], tf.cast(patches, tf.int32), shape)
        return unpatchify(tf.cast(black, tf.uint8)[None], patch_size, grid)[0]


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
