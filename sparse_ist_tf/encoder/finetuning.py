"""An encoder whose last blocks train while those below stay as they are."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from sparse_ist_tf.encoder import fast
from sparse_ist_tf.encoder.bundle import ViTEncoder, stored_variables, vit_encoder
from sparse_ist_tf.encoder.frozen import FrozenEncoder
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs.datasets import Split
from sparse_ist_tf.inputs.decoded import decoded_images
from sparse_ist_tf.masks import num_visible, select_patches
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.tracing import traced

_IN_MEMORY = 2 << 30  # bytes of tokens that are kept rather than computed again at every step
_BATCH = 64


def trained_variables(encoder: FrozenEncoder, trainable_blocks: int) -> dict[str, keras.Variable]:
    """The variables of an encoder's last blocks and of its final norm.

    Returns:
        Path, as stored_variables has it, to variable.

    Raises:
        RequestError: if the encoder is no ViT, or has fewer blocks.
    """
    wanted = f"encoder.trainable_blocks={trainable_blocks}"
    model = vit_encoder(encoder, wanted).model
    depth = model.spec.depth
    if not 1 <= trainable_blocks <= depth:
        raise RequestError(f"{wanted}: must be from 0 to {depth}, the blocks of {encoder.name}")
    first = depth - trainable_blocks
    trained = ("norm/", *(f"block_{i}/" for i in range(first, depth)))
    return {k: v for k, v in stored_variables(model).items() if k.startswith(trained)}


class FrozenTokens:
    """What a split's images are below the blocks that train, in any order.

    Computed once where masks stay the same and the tokens fit into 2 GiB, at every step elsewhere.
    Decoded images are kept in cache_dir.
    """

    def __init__(
        self,
        encoder: ViTEncoder,
        split: Split,
        masks: MaskOptions,
        first_block: int,
        cache_dir: str | Path,
    ):
        self.size, self.masks = split.size, masks
        scaling = masks.scaling(encoder.image_size, encoder.patch_size)
        self.images = decoded_images(split, scaling, cache_dir)
        self.num_patches, self._lower = encoder.num_patches, _make_lower(encoder, first_block)
        spec, visible = encoder.model.spec, num_visible(encoder.num_patches, masks.ratio)
        shape = (split.size, visible + spec.num_prefix_tokens, spec.width)
        self._kept = None
        if masks.kind != "random" and 4 * np.prod(shape, dtype=np.int64) <= _IN_MEMORY:
            kept = np.empty(shape, np.float32)
            for start in range(0, split.size, _BATCH):
                rows = np.arange(start, min(start + _BATCH, split.size))
                kept[rows] = self._compute(rows)
            self._kept = kept

    def __call__(self, rows: np.ndarray, epochs: np.ndarray | int = 0) -> np.ndarray:
        """The tokens of some images.

        Args:
            rows: integers [b].
            epochs: for random masks, one or [b].

        Returns:
            float32[b, t, width].
        """
        return self._compute(np.asarray(rows), epochs) if self._kept is None else self._kept[rows]

    def _compute(self, rows, epochs=0):
        positions = self.masks.positions(rows, self.num_patches, epochs)
        return self._lower(self.images[rows], positions).numpy()


def _make_lower(encoder, first_block):
    mean, std = (tf.constant(value, tf.float32) for value in (encoder.mean, encoder.std))

    def lower(images, positions):
        images = (tf.cast(images, tf.float32) / 255.0 - mean) / std
        inputs = {"patches": select_patches(images, positions, encoder.patch_size)}
        return fast.lower_tokens(encoder.model, inputs | {"positions": positions}, first_block)

    return traced(lower, reduce_retracing=True)
