"""An encoder of one's own: any Keras model from visible patches and their positions to a vector.

    python -m sparse_ist_tf.train --plugin=examples/own_encoder.py \
        --config.encoder.weights=brightness:8

This one has no weights: its feature is the mean brightness of every patch, and 0 where it's hidden.
Whoever reads the run again (evaluate) needs the same --plugin; to export an encoder must be a ViT.
"""

from typing import TYPE_CHECKING

from sparse_ist_tf.checkpoints.sources import register_encoder

if TYPE_CHECKING:
    from sparse_ist_tf.encoder.bundle import Encoder


def load(rest: str, *, name: str, dtype: str, image_size: int = 64) -> "Encoder":
    """Makes the encoder of `encoder.weights="brightness:PATCH_SIZE"`."""
    import keras  # here, for the process that starts workers reads this file too
    from keras import ops

    from sparse_ist_tf.encoder.bundle import keras_encoder

    class Brightness(keras.Model):
        def __init__(self, patch_size: int, **kwargs):
            super().__init__(**kwargs)
            self.image_size, self.patch_size = image_size, patch_size
            self.feature_dim = (image_size // patch_size) ** 2

        def call(self, inputs):
            places = ops.one_hot(inputs["positions"], self.feature_dim)  # [b, v, n]
            brightness = ops.mean(inputs["patches"], axis=-1, keepdims=True)  # [b, v, 1]
            return ops.sum(brightness * ops.cast(places, brightness.dtype), axis=1)

    return keras_encoder(Brightness(int(rest), dtype=dtype), name=name)


register_encoder("brightness", load)
