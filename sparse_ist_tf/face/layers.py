"""Keras layers from images to visible patches, and from these to features."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import keras
import numpy as np
import tensorflow as tf

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.encoder.bundle import Encoder as Loaded
from sparse_ist_tf.encoder.bundle import Preprocessing, ViTEncoder, keras_encoder
from sparse_ist_tf.encoder.features import FeatureOptions, Features
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.face.images import as_split
from sparse_ist_tf.face.painted import PaintedModel
from sparse_ist_tf.masks import MaskOptions, num_visible, select_patches

Shape: TypeAlias = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class VisiblePatches(keras.layers.Layer):
    """Scales images, masks them, and cuts out the visible patches: what an Encoder takes.

    Takes images of one size, [b, height, width, 3] with values in [0, 255], or a dictionary with
    them as "images" and, for fixed masks, their places in the data set as "indices", integers [b].
    Random masks take "indices" and "epoch", a number. What a run sees of the same images is the
    same to a pixel value.

    Args:
        mask_ratio: hidden share of the patches, in [0, 1).
        kind: "shared" (one mask for all images), "fixed" (one for each), or "random" (and epoch).
        image_size: side of the scaled images in pixels.
        patch_size: side of a patch in pixels.
        seed: any integer.
        **kwargs: `pattern` of shared masks, "uniform", "grid", "center" or "border"; `grid`, where
            patches lie, on the "sensor"'s pixels or on the "scaled" image; `resize`, how pixels
            become fewer, "antialias", "bilinear" or "area"; those of Layer.

    Raises:
        ValueError: if an argument isn't allowed; when called, if masks lack indices or images
            have a size that isn't known, or fewer pixels than patches along a side.

    Example:
        >>> import numpy as np
        >>> import sparse_ist_tf as si
        >>> seen = si.VisiblePatches(0.5)(np.zeros((2, 32, 32, 3), "uint8"))
        >>> seen["patches"].shape, seen["positions"].shape
        (TensorShape([2, 32, 192]), TensorShape([2, 32]))
    """

    def __init__(
        self,
        mask_ratio: float,
        kind: str = "shared",
        *,
        image_size: int = 64,
        patch_size: int = 8,
        seed: int = 0,
        **kwargs: Any,
    ):
        pattern, grid = kwargs.pop("pattern", "uniform"), kwargs.pop("grid", "sensor")
        self.resize = kwargs.pop("resize", "antialias")
        super().__init__(**kwargs, autocast=False)
        self.mask_ratio, self.kind, self.seed, self.pattern = mask_ratio, kind, seed, pattern
        self.image_size, self.patch_size, self.grid = image_size, patch_size, grid
        self.masks = MaskOptions(kind, mask_ratio, pattern, seed, grid, self.resize)
        self.scaling = self.masks.scaling(image_size, patch_size)
        self.masks.positions(np.zeros(1, np.int64), self.scaling.num_patches)  # raises
        self.built = True

    def call(self, inputs: tf.Tensor | Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        given = inputs if isinstance(inputs, Mapping) else {"images": inputs}
        images, indices = tf.convert_to_tensor(given["images"]), given.get("indices")
        if self.kind != "shared" and indices is None:
            raise ValueError(
                f'{self.kind} masks need a dictionary with "indices" beside "images": the places '
                "of the images in their data set"
            )
        if self.kind == "random" and given.get("epoch") is None:
            raise ValueError('random masks need "epoch", a number, beside "images"')
        if indices is None:
            indices = tf.zeros(tf.shape(images)[:1], tf.int64)
        epoch = tf.convert_to_tensor(given.get("epoch", 0))
        indices = tf.cast(indices, tf.int64)
        positions = self.masks.positions(indices, self.scaling.num_patches, epoch)
        patches = select_patches(self._seen(images), positions, self.patch_size)
        return {"patches": patches, "positions": positions}

    def _seen(self, images: tf.Tensor) -> tf.Tensor:
        """Images as Scaling makes them one by one."""
        height, width = images.shape[1:3]
        if height is None or width is None:
            raise ValueError("images: must be of a known size, such as keras.Input((32, 32, 3))")
        images = _pixels(images)
        scaling, size = self.scaling, self.image_size
        if self.grid == "scaled":
            return self._product(images, lambda n, _: scaling.whole_matrix(n), [size, size])
        side, patch = scaling.side, self.patch_size
        sent = [side * min(patch, -(-length // side)) for length in (height, width)]
        images = self._product(images, lambda n, k: scaling.matrix(n, k // side), sent)
        return self._product(images, lambda n, k: scaling.matrix(n, k // side), [size, size])

    def _product(
        self, images: tf.Tensor, matrix: Callable[..., np.ndarray], sizes: list[int]
    ) -> tf.Tensor:
        """Images scaled along both sides by what matrix(length, size) makes, if they have to be."""
        lengths = list(images.shape[1:3])
        if lengths == sizes:
            return images
        rows, columns = (tf.constant(matrix(*pair)) for pair in zip(lengths, sizes, strict=True))
        x = tf.einsum("rh,bhwc->brwc", rows, tf.cast(images, tf.float32))
        x = tf.einsum("sw,brwc->brsc", columns, x)
        return _pixels(tf.floor(x + 0.5) if self.resize == "bilinear" else x)

    def compute_output_shape(self, input_shape: Shape | dict[str, Shape]) -> dict[str, Shape]:
        shape = input_shape["images"] if isinstance(input_shape, dict) else input_shape
        count = num_visible(self.scaling.num_patches, self.mask_ratio)
        pixels = 3 * self.patch_size**2
        return {"patches": (shape[0], count, pixels), "positions": (shape[0], count)}

    def compute_output_spec(self, inputs: Any) -> dict[str, keras.KerasTensor]:
        given = inputs if isinstance(inputs, Mapping) else {"images": inputs}
        shapes = self.compute_output_shape(tuple(given["images"].shape))
        dtypes = {"patches": "uint8", "positions": "int32"}
        return {name: keras.KerasTensor(shape, dtypes[name]) for name, shape in shapes.items()}

    def get_config(self) -> dict[str, Any]:
        names = ("mask_ratio", "kind", "image_size", "patch_size", "seed", "pattern", "grid")
        names += ("resize",)
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class Encoder(keras.layers.Layer):
    """A frozen encoder with trained weights, from visible patches to features.

    Takes what VisiblePatches makes, or images of one size, of which it sees everything.

    Args:
        source: what `encoder.weights` may be, such as "packaged:vit_micro" or a checkpoint's path;
            or a Keras model of one's own: from images float32[b, side, side, 3], hidden pixels 0,
            or from {"patches", "positions"} (with image_size, patch_size and feature_dim as
            attributes), to a vector.
        image_size: side of the images in pixels; the checkpoint's, or the model's, where None.
        patch_size: side of the patches that are hidden of a model from images; where None 16, or
            8 of images smaller than 64.
        mean: of red, green and blue: the model sees (pixel / 255 - mean) / std; the checkpoint's
            where None, and of one's own model 0.
        std: as mean; of one's own model 1 / 255, so that it sees pixels from 0 to 255.

    Raises:
        RequestError: if it can't be loaded, or a model is none from images or patches to a vector.

    Example:
        >>> import numpy as np
        >>> import sparse_ist_tf as si
        >>> encoder = si.Encoder("packaged:vit_pico")
        >>> images = np.zeros((2, 32, 32, 3), "uint8")
        >>> encoder(encoder.visible_patches(0.75)(images)).shape
        TensorShape([2, 96])
    """

    def __init__(
        self,
        source: str | keras.Model = "packaged:vit_micro",
        *,
        image_size: int | None = None,
        patch_size: int | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs, autocast=False)
        if isinstance(source, str):
            found = load_encoder(source, image_size=image_size, mean=mean, std=std)
            if not isinstance(found, Loaded):
                raise RequestError(f"source={source!r}: must be of a Keras model, is of none")
            loaded = found
        else:
            model = PaintedModel.of(source, image_size, patch_size)
            seen = Preprocessing(mean or (0.0,) * 3, std or (1 / 255,) * 3)
            loaded = keras_encoder(model, seen, name=source.name)
        self._take(loaded)

    @classmethod
    def of(cls, loaded: Loaded, **kwargs: Any) -> "Encoder":
        """The layer of an encoder that is loaded.

        Args:
            loaded: from load_encoder.
            **kwargs: of keras.layers.Layer.
        """
        encoder = cls.__new__(cls)
        keras.layers.Layer.__init__(encoder, autocast=False, **kwargs)
        encoder._take(loaded)
        return encoder

    def _take(self, loaded: Loaded) -> None:
        self.loaded, self.network = loaded, cast("keras.layers.Layer", loaded.model)
        for value in (True, False):  # one that was saved as frozen has trainable variables
            self.network.trainable = value
        self.image_size, self.patch_size = loaded.image_size, loaded.patch_size
        self.feature_dim = loaded.feature_dim
        self.built = True

    @property
    def trainable(self) -> bool:
        """False: a model that is loaded makes all of its layers trainable, but for this one."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        pass

    def visible_patches(
        self, mask_ratio: float, kind: str = "shared", **options: Any
    ) -> VisiblePatches:
        """The layer that goes before this one, with this one's sizes.

        Args:
            mask_ratio: as VisiblePatches.
            kind: as VisiblePatches.
            **options: as VisiblePatches: seed, pattern, grid.
        """
        sizes = {"image_size": self.image_size, "patch_size": self.patch_size}
        return VisiblePatches(mask_ratio, kind, **sizes, **options)

    def call(self, inputs: tf.Tensor | Mapping[str, tf.Tensor]) -> tf.Tensor:
        if not isinstance(inputs, Mapping):
            inputs = self.visible_patches(0.0)(inputs)
        mean, std = (
            tf.constant(np.tile(value, self.patch_size**2), tf.float32)
            for value in (self.loaded.mean, self.loaded.std)
        )
        patches = (tf.cast(inputs["patches"], tf.float32) / 255.0 - mean) / std
        positions = tf.cast(inputs["positions"], tf.int32)
        return tf.cast(self.network({"patches": patches, "positions": positions}), tf.float32)

    def encode(
        self,
        images: np.ndarray,
        mask_ratio: float = 0.0,
        kind: str = "fixed",
        seed: int = 0,
        batch_size: int = 64,
    ) -> np.ndarray:
        """Features of images, as a run makes them; image k has fixed mask k.

        Args:
            images: uint8[n, height, width], [n, height, width, 3], or a list of images of any size.
            mask_ratio: hidden share of the patches, in [0, 1).
            kind: of the masks.
            seed: of the masks.
            batch_size: images at a time.

        Returns:
            float32[n, feature_dim].

        Raises:
            RequestError: if images aren't.
        """
        masks = MaskOptions(kind, mask_ratio, seed=seed)
        features = Features(self.loaded, masks, options=FeatureOptions(batch_size=batch_size))
        return features.encode(as_split(images), progress=False)

    def describe(self) -> str:
        """What it is and sees, a few lines."""
        return self.loaded.describe()

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shape = input_shape["patches"] if isinstance(input_shape, Mapping) else input_shape
        return (shape[0], self.feature_dim)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        given = inputs["patches"] if isinstance(inputs, Mapping) else inputs
        return keras.KerasTensor((given.shape[0], self.feature_dim), "float32")

    def get_config(self) -> dict[str, Any]:
        """The network without its weights, which Keras keeps beside it, and what it sees."""
        config = super().get_config()
        config.pop("trainable", None)
        return {
            **config,
            "network": keras.saving.serialize_keras_object(self.network),
            "mean": list(self.loaded.mean),
            "std": list(self.loaded.std),
            "source": self.loaded.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Encoder":
        """An encoder whose weights are still to be loaded."""
        config = dict(config)
        network = keras.saving.deserialize_keras_object(config.pop("network"))
        seen = Preprocessing(tuple(config.pop("mean")), tuple(config.pop("std")))
        name = config.pop("source")
        kind = ViTEncoder if isinstance(network, ViT) else Loaded
        return cls.of(kind(network, seen, "", name), **config)


def _pixels(values: tf.Tensor) -> tf.Tensor:
    if values.dtype == tf.uint8:
        return values
    return tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)
