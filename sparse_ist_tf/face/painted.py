"""Any Keras model as an encoder."""

import contextlib
from collections.abc import Mapping
from typing import Any

import keras
from keras import KerasTensor

from sparse_ist_tf.encoder.frozen import EncoderModel
from sparse_ist_tf.encoder.resnet import painted
from sparse_ist_tf.errors import RequestError

_SIZES = ("image_size", "patch_size", "feature_dim")  # of a model that takes patches


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class PaintedModel(keras.layers.Layer):
    """A model from images to vectors, on visible patches; hidden pixels are 0.

    Args:
        model: from float32[b, image_size, image_size, 3] to [b, feature_dim].
        image_size: side of its images in pixels.
        patch_size: side of a patch in pixels, which divides it.

    Raises:
        RequestError: if patches don't fill the image, or its output is no vector.
    """

    def __init__(self, model: keras.Model, image_size: int, patch_size: int, **kwargs: Any):
        super().__init__(trainable=False, **kwargs)
        self.model, self.image_size, self.patch_size = model, image_size, patch_size
        if patch_size < 1 or image_size % patch_size:
            raise RequestError(f"patch_size={patch_size}: must divide image_size={image_size}")
        spec = keras.KerasTensor((None, image_size, image_size, 3), "float32")
        try:
            out = model.compute_output_spec(spec)
            shape = tuple(out.shape)
        except Exception as error:  # whatever the model's own code raises
            raise RequestError(f"{model.name}: takes no images of this size: {error}") from None
        if len(shape) != 2 or shape[1] is None:
            raise RequestError(f"{model.name}: its output is {shape}, must be [batch, features]")
        self.feature_dim = shape[1]
        self.built = True

    @classmethod
    def of(cls, model: keras.Model, image_size: int | None, patch_size: int | None) -> EncoderModel:
        """A model as an encoder's: as it is where it takes patches, painted where images.

        Raises:
            RequestError: if it is no model, its images' size isn't known, or as PaintedModel.
        """
        if not isinstance(model, keras.layers.Layer):
            raise RequestError(f"encoder={model!r}: must be a text or a Keras model")
        if all(hasattr(model, name) for name in _SIZES):
            return model
        if image_size is None:
            shape = None
            with contextlib.suppress(AttributeError, ValueError):
                shape = model.input_shape
            if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:3]:
                raise RequestError(
                    f"{model.name}: takes images of {shape}; image_size must be given"
                )
            if shape[1] != shape[2] or shape[3] != 3:
                raise RequestError(
                    f"{model.name}: takes images of {shape[1:]}, must be RGB squares"
                )
            image_size = shape[1]
        return cls(model, image_size, patch_size or (16 if image_size >= 64 else 8))

    def call(self, inputs: Mapping[str, KerasTensor]) -> KerasTensor:
        """Features, [b, feature_dim]."""
        return self.model(painted(inputs, self.image_size, self.patch_size), training=False)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make it again."""
        config = super().get_config()
        config.pop("trainable", None)
        model = keras.saving.serialize_keras_object(self.model)
        sizes = {"image_size": self.image_size, "patch_size": self.patch_size}
        return {**config, "model": model, **sizes}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PaintedModel":
        """The same, without its weights."""
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("model")), **config)
