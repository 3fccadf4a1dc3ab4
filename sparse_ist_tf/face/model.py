"""A whole classifier as one Keras model, which .keras files hold."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from sparse_ist_tf.face.layers import Encoder, VisiblePatches


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class MaskedClassifier(keras.Model):
    """From images to probabilities: visible patches, their encoder, and a head.

    Args:
        masking: cuts out what is visible; None where inputs are features.
        encoder: of that; None likewise.
        head: from features to logits.
        class_names: one per class.

    Example:
        >>> import keras, numpy as np
        >>> import sparse_ist_tf as si
        >>> from sparse_ist_tf.face.model import MaskedClassifier
        >>> encoder = si.Encoder("packaged:vit_pico")
        >>> head = keras.Sequential([keras.Input((96,)), keras.layers.Dense(3)])
        >>> model = MaskedClassifier(encoder.visible_patches(0.5), encoder, head, list("abc"))
        >>> model(np.zeros((2, 32, 32, 3), "uint8")).shape
        TensorShape([2, 3])
    """

    def __init__(
        self,
        masking: VisiblePatches | None,
        encoder: Encoder | None,
        head: keras.Model,
        class_names: list[str],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.masking, self.encoder, self.head = masking, encoder, head
        self.class_names = tuple(class_names)
        self.built = True

    def call(self, inputs: tf.Tensor | Mapping[str, tf.Tensor]) -> tf.Tensor:
        features = inputs
        if self.encoder is not None:
            features = self.encoder(self.masking(inputs))
        return keras.ops.softmax(self.head(features), axis=-1)

    def get_config(self) -> dict[str, Any]:
        parts = {"masking": self.masking, "encoder": self.encoder, "head": self.head}
        serialized = {
            name: part and keras.saving.serialize_keras_object(part) for name, part in parts.items()
        }
        return {**super().get_config(), **serialized, "class_names": list(self.class_names)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "MaskedClassifier":
        config = dict(config)
        for name in ("masking", "encoder", "head"):
            part = config[name]
            config[name] = part and keras.saving.deserialize_keras_object(part)
        return cls(**config)
