"""What train needs of an encoder, whoever made it."""

from collections.abc import Callable, Mapping
from typing import Protocol

import keras
from keras import KerasTensor


class EncoderModel(Protocol):
    """A Keras model, or layer, that makes features of visible patches."""

    image_size: int
    patch_size: int
    feature_dim: int

    @property
    def variables(self) -> list[keras.Variable]:
        """All weights, each with a path of its own."""

    def __call__(self, inputs: Mapping[str, KerasTensor]) -> KerasTensor:
        """Features.

        Args:
            inputs: {"patches": float32[b, v, 3 * patch_size**2], pixels less mean over std,
                "positions": int32[b, v], row-major}.

        Returns:
            [b, feature_dim].
        """


class FrozenEncoder(Protocol):
    """What train needs of an encoder."""

    @property
    def name(self) -> str:
        """What the weights were asked for by."""

    @property
    def digest(self) -> str:
        """Tells it from encoders that make other features."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of red, green and blue; a pixel in [0, 1] is shown as (pixel - mean) / std."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Of red, green and blue."""

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""

    @property
    def num_patches(self) -> int:
        """Patches of an image."""

    @property
    def feature_dim(self) -> int:
        """Length of a feature."""

    def describe(self) -> str:
        """A few lines for people."""

    def features(self) -> Callable[[Mapping[str, KerasTensor]], KerasTensor]:
        """A function from inputs to features, as EncoderModel's; its weights may be constants."""
