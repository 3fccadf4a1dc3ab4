"""A Keras layer that paints the hidden patches of images."""

from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from sparse_ist_tf.masks.drawing import KINDS, PATTERNS, num_visible
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.masks.patches import grid_of, visible_from_positions

Shape: TypeAlias = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class PatchMask(keras.layers.Layer):
    """Paints the hidden patches of images: to look at masks, and for encoders that need all pixels.

    Takes images as a tensor, or in a dictionary with "images" as KerasCV's augmentation pipelines
    pass it on; everything else in the dictionary (labels, boxes) stays as it is. The dictionary
    may also hold "indices", the images' places in their split, which fixed masks need, and
    "epoch", a scalar array. Random masks are those of random_positions where both are given, and
    drawn anew at every call where not. Like a sensor that loses patches, it masks in training and
    in inference. Where images are enlarged, it stands before that: behind it, hidden pixels have
    already reached their neighbours.

    Args:
        kind: "fixed", "random" or "shared".
        mask_ratio: in [0, 1).
        patch_size: side of a patch in pixels.
        seed: any integer.
        pattern: of shared masks: "uniform", "grid", "center" or "border".
        fill: what is painted, in the images' range: a number, or one per channel. Rounded where
            the images are integers.

    Raises:
        ValueError: if an argument isn't allowed; when called, if the patches don't fit the images
            or if fixed masks get no indices.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.masks import PatchMask
        >>> PatchMask("shared", 0.5, patch_size=8)(np.ones((2, 32, 32, 3), "float32")).shape
        TensorShape([2, 32, 32, 3])
    """

    def __init__(
        self,
        kind: str,
        mask_ratio: float,
        patch_size: int,
        seed: int = 0,
        pattern: str = "uniform",
        fill: float | tuple[float, ...] = 127.5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs, autocast=False)
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")
        if pattern not in PATTERNS:
            raise ValueError(f"pattern={pattern!r}: must be one of {', '.join(PATTERNS)}")
        if patch_size < 1:
            raise ValueError(f"patch_size={patch_size}: must be at least 1")
        num_visible(10**9, mask_ratio)
        self.kind, self.mask_ratio, self.patch_size = kind, mask_ratio, patch_size
        self.seed, self.pattern = seed, pattern
        self.fill = fill if isinstance(fill, int | float | np.number) else tuple(fill)
        self.built = True

    def call(self, inputs: tf.Tensor | dict[str, tf.Tensor]) -> tf.Tensor | dict[str, tf.Tensor]:
        if not isinstance(inputs, dict):
            return self._paint(inputs, None, None)
        painted = self._paint(inputs["images"], inputs.get("indices"), inputs.get("epoch"))
        return {**inputs, "images": painted}

    def _paint(self, images, indices, epoch):
        images = tf.convert_to_tensor(images)
        if images.shape.rank == 3:
            indices = None if indices is None else tf.reshape(indices, (1,))
            return self._paint(images[None], indices, epoch)[0]
        grid = grid_of(images, self.patch_size)
        visible = self._visible(tf.shape(images)[0], indices, epoch, grid)
        visible = tf.reshape(visible, (-1, *grid, 1))
        for axis in (1, 2):
            visible = tf.repeat(visible, self.patch_size, axis=axis)
        fill = np.round(self.fill) if images.dtype.is_integer else self.fill
        return tf.where(visible, images, tf.cast(fill, images.dtype))

    def _visible(self, batch, indices, epoch, grid):
        num_patches = grid[0] * grid[1]
        if indices is None and self.kind == "fixed":
            raise ValueError('fixed masks need a dictionary with "indices" beside "images"')
        if self.kind == "random" and (indices is None or epoch is None):
            # not Keras' SeedGenerator: parallel calls in a pipeline may draw the same seed from it
            epoch = tf.random.uniform((), maxval=2**62, dtype=tf.int64, seed=self.seed % 2**31)
        if indices is None:
            indices = tf.range(batch, dtype=tf.int64)
        options = MaskOptions(self.kind, self.mask_ratio, self.pattern, self.seed)
        epoch = 0 if epoch is None else tf.convert_to_tensor(epoch)
        visible = options.positions(tf.convert_to_tensor(indices), num_patches, epoch, grid)
        return visible_from_positions(visible, num_patches)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        names = ("kind", "mask_ratio", "patch_size", "seed", "pattern", "fill")
        return super().get_config() | {name: getattr(self, name) for name in names}
