"""A Vision Transformer that takes only the visible patches and converts whole to every device.

Written with keras.ops and Dense layers on tensors of at most four dimensions: it runs on any
Keras 3 backend, and TFLite, TFLite Micro and GPU delegates have every operation of it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
from keras import KerasTensor, ops

from sparse_ist_tf.encoder.positions import sincos_positions
from sparse_ist_tf.encoder.spec import ACTIVATIONS, POOLS, ViTSpec, block_shapes

Shape: TypeAlias = tuple[Any, ...]  # numbers, None for any


def attention(query: KerasTensor, key: KerasTensor, value: KerasTensor) -> KerasTensor:
    """Attention of [b, heads, q, size] to [b, heads, t, size]."""
    scores = ops.matmul(query * (1 / math.sqrt(query.shape[-1])), ops.transpose(key, (0, 1, 3, 2)))
    return ops.matmul(ops.softmax(scores, axis=-1), value)


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the last axis, written so that it stays int8 from end to end.

    keras.layers.LayerNormalization converts to TFLite with a NEG that int16x8 refuses and with
    float islands in int8; mean, difference, mean of squares, rsqrt and product do not.

    Args:
        epsilon: added to the variance.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs: Any):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: Shape) -> None:
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="ones")
        self.offset = self.add_weight(name="offset", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs: KerasTensor) -> KerasTensor:
        centred = inputs - ops.mean(inputs, axis=-1, keepdims=True)
        variance = ops.mean(centred * centred, axis=-1, keepdims=True)
        return centred * ops.rsqrt(variance + self.epsilon) * self.scale + self.offset

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class Block(keras.layers.Layer):
    """One pre-norm transformer block: attention and a two-layer MLP, each with a residual.

    Its arguments are those of ViTSpec.
    """

    def __init__(
        self,
        num_heads: int,
        hidden: int,
        activation: str = "quick_gelu",
        epsilon: float = 1e-6,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads, self.hidden = num_heads, hidden
        self.activation, self.epsilon = activation, epsilon

    def build(self, input_shape: Shape) -> None:
        kernels = keras.initializers.TruncatedNormal(stddev=0.02)
        kind = {"dtype": self.dtype_policy}
        shapes = block_shapes(input_shape[-1], self.hidden, self.activation)
        for name, shape in shapes.items():
            if len(shape) == 2:
                layer = keras.layers.Dense(shape[1], kernel_initializer=kernels, name=name, **kind)
            else:
                layer = LayerNorm(self.epsilon, name=name, **kind)
            layer.build((*input_shape[:-1], shape[0]))
            setattr(self, name, layer)

    def call(self, x: KerasTensor) -> KerasTensor:
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(self.activate(self.fc1(self.norm2(x))))

    def attend(self, x: KerasTensor) -> KerasTensor:
        """Multi-head self-attention over the tokens, [b, t, width] to [b, t, width]."""
        batch, tokens, width = ops.shape(x)
        size = width // self.num_heads

        def heads(y):  # [b, t, width] -> [b, heads, t, size]
            y = ops.reshape(y, (batch, tokens, self.num_heads, size))
            return ops.transpose(y, (0, 2, 1, 3))

        query, key, value = (heads(y) for y in ops.split(self.qkv(x), 3, axis=-1))
        mixed = ops.transpose(attention(query, key, value), (0, 2, 1, 3))
        return self.proj(ops.reshape(mixed, (batch, tokens, width)))

    def activate(self, x: KerasTensor) -> KerasTensor:
        """The activation of the MLP's hidden layer."""
        return ACTIVATIONS[self.activation].of(ops, x)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        names = ("num_heads", "hidden", "activation", "epsilon")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class ViT(keras.Model):
    """A Vision Transformer over the visible patches of an image.

    The same weights serve every mask ratio: a patch brings its position along, so a visible token
    keeps its place, and the cost falls with the number of visible patches.

    Source: paper section 3.1; "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), eq. 1-4.

    Args:
        spec: the architecture.
        **kwargs: of keras.Model.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.encoder.spec import ViTSpec
        >>> from sparse_ist_tf.encoder.vit import ViT
        >>> vit = ViT(ViTSpec(image_size=16, patch_size=4, width=8, depth=1, num_heads=2))
        >>> patches = np.zeros((2, 5, 48), "float32")
        >>> vit({"patches": patches, "positions": np.tile(np.arange(5), (2, 1))}).shape
        TensorShape([2, 8])
    """

    def __init__(self, spec: ViTSpec, **kwargs: Any):
        super().__init__(**kwargs)
        self.spec = spec
        self.image_size, self.patch_size = spec.image_size, spec.patch_size
        self.num_patches, self.feature_dim = spec.num_patches, spec.feature_dim
        kind, shapes = {"dtype": self.dtype_policy}, spec.token_shapes()
        init = keras.initializers.TruncatedNormal(stddev=0.02)
        self.embed = keras.layers.Dense(
            spec.width, kernel_initializer="glorot_uniform", name="embed", **kind
        )
        self.embed.build((None, None, spec.pixels))
        computed = spec.positions == "sincos"
        if computed:
            table = sincos_positions(spec.grid, spec.width)
            init_table = lambda shape, dtype=None: ops.convert_to_tensor(table, dtype)  # noqa: E731
        self.position_table = self.add_weight(
            name="position_table",
            shape=shapes.pop("position_table"),
            initializer=init_table if computed else init,
            trainable=not computed,
        )
        tokens = {
            name: self.add_weight(name=name, shape=shape, initializer=init)
            for name, shape in shapes.items()
        }
        self.cls_token, self.extra = tokens.get("cls_token"), tokens.get("extra_tokens")
        sizes = (spec.num_heads, spec.hidden, spec.activation, spec.epsilon)
        self.blocks = [Block(*sizes, name=f"block_{i}", **kind) for i in range(spec.depth)]
        for block in self.blocks:
            block.build((None, None, spec.width))
        if spec.pre_norm:
            self.norm_pre = LayerNorm(spec.epsilon, name="norm_pre", **kind)
            self.norm_pre.build((None, None, spec.width))
        self.norm = LayerNorm(spec.epsilon, name="norm", **kind)
        self.norm.build((None, spec.width))
        self.built = True

    def call(self, inputs: Mapping[str, KerasTensor]) -> KerasTensor:
        return POOLS[self.spec.pool].of(_Tokens(self), self.raw_tokens(inputs))

    def tokens(self, inputs: Mapping[str, KerasTensor]) -> KerasTensor:
        """All tokens after the final norm: CLS first, then the visible patches in their order.

        Extra tokens, of a model that has some, stand between CLS and the patches.

        Args:
            inputs: {"patches": float32[b, v, 3 * patch_size**2], normalised pixels,
                "positions": int32[b, v], row-major; and where the grid of patches is another,
                "table": float32[n, width], its position embeddings}.

        Returns:
            float32[b, num_prefix_tokens + v, width].
        """
        return self.norm(self.raw_tokens(inputs))

    def raw_tokens(self, inputs: Mapping[str, KerasTensor]) -> KerasTensor:
        """All tokens after the last block; arguments and result as those of `tokens`."""
        x = self.first_tokens(self.embed(inputs["patches"]), inputs)
        if self.spec.pre_norm:
            x = self.norm_pre(x)
        for block in self.blocks:
            x = block(x)
        return x

    def first_tokens(self, x: KerasTensor, inputs: Mapping[str, KerasTensor]) -> KerasTensor:
        """The tokens before the first block and its norm, of embedded patches x, [b, v, width]."""
        table = inputs.get("table", self.position_table)
        x = x + ops.cast(ops.take(table, inputs["positions"], axis=0), x.dtype)
        batch = ops.shape(x)[0]
        prefix = [
            ops.broadcast_to(ops.cast(token, x.dtype), (batch, *token.shape[1:]))
            for token in (self.cls_token, self.extra)
            if token is not None
        ]
        return ops.concatenate([*prefix, x], axis=1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | dataclasses.asdict(self.spec)

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "ViT":
        fields = {f.name: config[f.name] for f in dataclasses.fields(ViTSpec) if f.name in config}
        rest = {name: value for name, value in config.items() if name not in fields}
        return cls(ViTSpec(**fields), **rest)


class _Tokens:
    """The TokenOps of tokens [b, t, width]."""

    def __init__(self, model: ViT):
        self.norm, self._ahead = model.norm, model.spec.num_prefix_tokens

    def first(self, x: KerasTensor) -> KerasTensor:
        return x[:, 0]

    def mean(self, x: KerasTensor) -> KerasTensor:
        return ops.mean(x[:, self._ahead :], axis=1)

    def join(self, parts: Sequence[KerasTensor]) -> KerasTensor:
        return ops.concatenate(parts, axis=-1)
