"""A frozen ResNet-50 as an encoder, to compare with: it can't drop patches, they are painted.

The network is keras.applications' own, without its top, with its average pooling, and always in
inference mode. It sees what keras.applications' preprocess_input makes of an image: blue, green and
red in [0, 255] less their means. So a patch of zeros has the mean colour, and that is what stands
in place of a hidden one.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from sparse_ist_tf.encoder.bundle import Encoder, Preprocessing, keras_encoder
from sparse_ist_tf.encoder.plain import plain_keras
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.masks.patches import unpatchify
from sparse_ist_tf.streams import Stream

WIDTH = 2048
PATCH_SIZE = 16
# Source: keras.applications.imagenet_utils.preprocess_input, mode "caffe"; red, green and blue.
_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
_STD = (1 / 255, 1 / 255, 1 / 255)
_SMALLEST = 32  # keras.applications' limit, in pixels


def painted(inputs: Mapping[str, KerasTensor], image_size: int, patch_size: int) -> KerasTensor:
    """Whole images of visible patches, 0 where one is hidden, for networks that need all pixels.

    Args:
        inputs: as EncoderModel's.
        image_size: side of the images in pixels.
        patch_size: side of a patch in pixels, which divides it.

    Returns:
        [b, image_size, image_size, 3], of the patches' dtype.
    """
    patches, positions = inputs["patches"], inputs["positions"]
    batch, visible, pixels = ops.shape(patches)
    rows = ops.repeat(ops.arange(batch), visible)
    where = ops.stack([rows, ops.reshape(ops.cast(positions, rows.dtype), (-1,))], axis=1)
    flat = ops.reshape(patches, (-1, pixels))
    side = image_size // patch_size
    whole = ops.scatter(where, flat, (batch, side * side, pixels))
    return unpatchify(whole, patch_size, (side, side))


@keras.saving.register_keras_serializable("sparse_ist_tf")
class PaintedResNet(keras.layers.Layer):
    """ResNet-50 on visible patches; the hidden ones have the mean colour.

    Args:
        image_size: side of the images in pixels, a multiple of 16 and at least 32.
        **kwargs: of keras.layers.Layer; its dtype is the one that the network computes in.

    Raises:
        RequestError: if image_size is another.
    """

    patch_size = PATCH_SIZE
    feature_dim = WIDTH

    def __init__(self, image_size: int = 224, **kwargs: Any):
        super().__init__(trainable=False, **kwargs)
        if image_size < _SMALLEST or image_size % PATCH_SIZE:
            raise RequestError(
                f"image_size={image_size}: must be a multiple of {PATCH_SIZE}, at least {_SMALLEST}"
            )
        self.image_size = image_size
        with plain_keras(self.dtype_policy):  # keras.applications takes no dtype
            self.network = keras.applications.ResNet50(
                include_top=False, weights=None, pooling="avg", input_shape=(image_size,) * 2 + (3,)
            )
        self.network.trainable = False

    def call(self, inputs: Mapping[str, KerasTensor]) -> KerasTensor:
        """Features, [b, 2048], of pixels less their means, in steps of 1/255."""
        images = painted(inputs, self.image_size, PATCH_SIZE)
        return self.network(images[..., ::-1], training=False)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {**super().get_config(), "image_size": self.image_size}


def load_resnet(
    source: str,
    *,
    name: str,
    dtype: str = "float32",
    image_size: int = 224,
    seed: int = 0,
    **settings: Any,
) -> Encoder:
    """Makes a ResNet-50 and gives it weights.

    Args:
        source: `random`, `imagenet` (keras.applications' own download), or the path of a file that
            Keras wrote of a ResNet-50: .weights.h5, .keras, or the .h5 of keras.applications, the
            one without top. No class in it is deserialised, arrays only are read.
        name: what the weights were asked for by.
        dtype: "float32" or "bfloat16", in which it computes.
        image_size: side of the images in pixels.
        seed: of `random`.
        **settings: none.

    Raises:
        RequestError: if there is no such file, or it holds no ResNet-50; or of image_size or
            settings.
        RunError: if `imagenet` can't be downloaded.
    """
    if settings:
        raise RequestError(f"{next(iter(settings))}: is a ViT's, a ResNet-50 has no such setting")
    if source not in ("random", "imagenet") and not Path(source).is_file():
        raise RequestError(f"{source}: no such file; must be resnet50:random, imagenet or a path")
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    model = PaintedResNet(image_size, dtype=policy)
    if source == "random":
        _draw(model.network, seed)
    elif source == "imagenet":
        _download(model.network, name)
    else:
        _read(model.network, Path(source))
    note = "ResNet-50 of keras.applications, inference mode; hidden patches are painted with the "
    note += "mean colour"
    architecture = f"resnet50 {model.image_size}"
    seen = Preprocessing(_MEAN, _STD)
    return keras_encoder(model, seen, name=name, architecture=architecture, notes=(note,))


def _draw(network, seed):
    """He-normal kernels; the last norm of a branch is small, so that 16 sums stay in bounds."""
    rng = Stream.RESNET_WEIGHTS.rng(seed)
    for variable in network.variables:
        if variable.path.endswith("/kernel"):
            std = np.sqrt(2 / np.prod(variable.shape[:-1]))
            variable.assign(rng.standard_normal(variable.shape, np.float32) * std)
        elif variable.path.endswith("_3_bn/gamma"):
            variable.assign(np.full(variable.shape, 0.25, np.float32))


def _download(network, name):
    try:
        with plain_keras():
            published = keras.applications.ResNet50(include_top=False, weights="imagenet")
    except Exception as error:  # get_file raises bare ones
        raise RunError(
            f"encoder.weights={name!r}: keras' ResNet-50 can't be downloaded ({error}); give a "
            "file that you have, as resnet50:PATH, or resnet50:random"
        ) from None
    network.set_weights(published.get_weights())


def _read(network, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "Skipping")  # what a file lacks would stay random
            network.load_weights(path)
    except Exception as error:  # Keras' readers raise whatever a damaged archive makes them
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RequestError(f"{path}: damaged, or not a ResNet-50 without top: {lines[0]}") from None
