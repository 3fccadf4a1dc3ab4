"""A Vision Transformer that takes only the visible patches and converts whole to every device.

Written with keras.ops and Dense layers on tensors of at most four dimensions: it runs on any
Keras 3 backend, and TFLite, TFLite Micro and GPU delegates have every operation of it.
"""

import math

import keras
import numpy as np
from keras import ops

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh", "swiglu")
POSITIONS = ("sincos", "learned")
POOLS = ("cls", "cls_mean", "mean", "mean_norm")

QUICK_GELU = 1.702  # the a of x * sigmoid(a x)


def sincos_positions(grid: int, width: int) -> np.ndarray:
    """Two-dimensional sine-cosine position embeddings of a square grid of patches.

    The first half of the channels encodes the column, the second half the row, each as sines then
    cosines, as in the reference implementation of MAE.

    Source: "Masked Autoencoders Are Scalable Vision Learners" (He et al., 2022), appendix A.1.

    Args:
        grid: patches along a side of the image.
        width: channels of an embedding, a multiple of 4.

    Returns:
        float32[grid * grid, width], row-major.

    Raises:
        ValueError: if width is not a multiple of 4.

    Example:
        >>> from sparse_ist_tf.encoder.vit import sincos_positions
        >>> sincos_positions(8, 192).shape
        (64, 192)
    """
    if width % 4:
        raise ValueError(f"width={width}: sine-cosine positions need a multiple of 4")
    frequencies = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    rows, columns = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    halves = []
    for coordinate in (columns, rows):
        angles = coordinate.reshape(-1, 1) * frequencies
        halves += [np.sin(angles), np.cos(angles)]
    return np.concatenate(halves, axis=1).astype(np.float32)


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the last axis, written so that it stays int8 from end to end.

    keras.layers.LayerNormalization converts to TFLite with a NEG that int16x8 refuses and with
    float islands in int8; mean, difference, mean of squares, rsqrt and product do not.

    Args:
        epsilon: added to the variance.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="ones")
        self.offset = self.add_weight(name="offset", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs):
        centred = inputs - ops.mean(inputs, axis=-1, keepdims=True)
        variance = ops.mean(centred * centred, axis=-1, keepdims=True)
        return centred * ops.rsqrt(variance + self.epsilon) * self.scale + self.offset

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class Block(keras.layers.Layer):
    """One pre-norm transformer block: attention and a two-layer MLP, each with a residual.

    Args:
        num_heads: attention heads, a divisor of the width.
        hidden: width of the MLP's hidden layer.
        activation: "quick_gelu" (x * sigmoid(1.702 x)), "gelu" (exact), "gelu_tanh" (Gaussian by
            its tanh approximation) or "swiglu" (fc1 makes 2 * hidden numbers a and b, and
            a * sigmoid(a) * b goes on).
        epsilon: of the layer norms.
    """

    def __init__(
        self,
        num_heads: int,
        hidden: int,
        activation: str = "quick_gelu",
        epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads, self.hidden = num_heads, hidden
        self.activation, self.epsilon = activation, epsilon

    def build(self, input_shape):
        width = input_shape[-1]

        def part(layer, size):
            layer.build((*input_shape[:-1], size))
            return layer

        dense = {"kernel_initializer": keras.initializers.TruncatedNormal(stddev=0.02)}
        kind = {"dtype": self.dtype_policy}
        self.norm1 = part(LayerNorm(self.epsilon, name="norm1", **kind), width)
        self.qkv = part(keras.layers.Dense(3 * width, name="qkv", **dense, **kind), width)
        self.proj = part(keras.layers.Dense(width, name="proj", **dense, **kind), width)
        self.norm2 = part(LayerNorm(self.epsilon, name="norm2", **kind), width)
        inner = self.hidden * (2 if self.activation == "swiglu" else 1)
        self.fc1 = part(keras.layers.Dense(inner, name="fc1", **dense, **kind), width)
        self.fc2 = part(keras.layers.Dense(width, name="fc2", **dense, **kind), self.hidden)

    def call(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(self.activate(self.fc1(self.norm2(x))))

    def attend(self, x):
        """Multi-head self-attention over the tokens, [b, t, width] to [b, t, width]."""
        batch, tokens, width = ops.shape(x)
        size = width // self.num_heads

        def heads(y):  # [b, t, width] -> [b, heads, t, size]
            y = ops.reshape(y, (batch, tokens, self.num_heads, size))
            return ops.transpose(y, (0, 2, 1, 3))

        query, key, value = (heads(y) for y in ops.split(self.qkv(x), 3, axis=-1))
        scores = ops.matmul(query * (1 / math.sqrt(size)), ops.transpose(key, (0, 1, 3, 2)))
        mixed = ops.matmul(ops.softmax(scores, axis=-1), value)
        return self.proj(ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (batch, tokens, width)))

    def activate(self, x):
        """The activation of the MLP's hidden layer."""
        if self.activation == "quick_gelu":
            gate = ops.sigmoid(ops.cast(QUICK_GELU * x, "float32"))  # in bfloat16 half as fast
            return x * ops.cast(gate, x.dtype)
        if self.activation == "swiglu":
            gate, value = ops.split(x, 2, axis=-1)
            return ops.silu(gate) * value
        return ops.gelu(x, approximate=self.activation == "gelu_tanh")

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = ("num_heads", "hidden", "activation", "epsilon")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="sparse_ist_tf")
class ViT(keras.Model):
    """A Vision Transformer over the visible patches of an image.

    The same weights serve every mask ratio: a patch brings its position along, so a visible token
    keeps its place, and the cost falls with the number of visible patches.

    Source: paper section 3.1; "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2021), eq. 1-4.

    Args:
        image_size: side of the square image in pixels, a multiple of patch_size.
        patch_size: side of a patch in pixels.
        width: channels of a token.
        depth: number of blocks.
        num_heads: attention heads, a divisor of width.
        mlp_ratio: hidden width of a block's MLP over width.
        activation: "quick_gelu", which converts to every target, or another of Block's.
        positions: "sincos" (fixed) or "learned" embeddings of the patches' places.
        epsilon: of the layer norms.
        class_token: whether a CLS token goes before the patches.
        extra_tokens: how many more tokens go between CLS and the patches: a distillation token,
            registers.
        pool: the feature is the "cls" token, the "mean" of the patches' tokens, both behind each
            other ("cls_mean", twice as long), or the mean before the final norm, normalised
            ("mean_norm").
        pre_norm: whether a layer norm comes before the first block.

    Raises:
        ValueError: if a size doesn't divide as it must or a name isn't known.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.encoder.vit import ViT
        >>> vit = ViT(image_size=16, patch_size=4, width=8, depth=1, num_heads=2)
        >>> patches = np.zeros((2, 5, 48), "float32")
        >>> vit({"patches": patches, "positions": np.tile(np.arange(5), (2, 1))}).shape
        TensorShape([2, 8])
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        activation: str = "quick_gelu",
        positions: str = "sincos",
        epsilon: float = 1e-6,
        class_token: bool = True,
        extra_tokens: int = 0,
        pool: str = "cls",
        pre_norm: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_one_of("activation", activation, ACTIVATIONS)
        _check_one_of("positions", positions, POSITIONS)
        pools = POOLS if class_token else [name for name in POOLS if "cls" not in name]
        _check_one_of("pool", pool, pools)
        if image_size % patch_size:
            raise ValueError(
                f"image_size={image_size}: must be a multiple of patch_size={patch_size}"
            )
        if width % num_heads:
            raise ValueError(f"width={width}: must be a multiple of num_heads={num_heads}")
        self.image_size, self.patch_size = image_size, patch_size
        self.width, self.depth, self.num_heads = width, depth, num_heads
        self.mlp_ratio, self.activation = mlp_ratio, activation
        self.positions, self.epsilon = positions, epsilon
        self.class_token, self.extra_tokens = class_token, extra_tokens
        self.pool, self.pre_norm = pool, pre_norm
        self.num_prefix_tokens = int(class_token) + extra_tokens
        self.num_patches = (image_size // patch_size) ** 2

        kind = {"dtype": self.dtype_policy}
        init = keras.initializers.TruncatedNormal(stddev=0.02)
        self.embed = keras.layers.Dense(
            width, kernel_initializer="glorot_uniform", name="embed", **kind
        )
        self.embed.build((None, None, 3 * patch_size**2))
        if positions == "sincos":
            table = sincos_positions(image_size // patch_size, width)
            init_table = lambda shape, dtype=None: ops.convert_to_tensor(table, dtype)  # noqa: E731
        else:
            init_table = init
        self.position_table = self.add_weight(
            name="position_table",
            shape=(self.num_patches, width),
            initializer=init_table,
            trainable=positions == "learned",
        )
        self.cls_token = self.extra = None
        if class_token:
            self.cls_token = self.add_weight(
                name="cls_token", shape=(1, 1, width), initializer=init
            )
        if extra_tokens:
            self.extra = self.add_weight(
                name="extra_tokens", shape=(1, extra_tokens, width), initializer=init
            )
        hidden = round(width * mlp_ratio)
        self.blocks = [
            Block(num_heads, hidden, activation, epsilon, name=f"block_{i}", **kind)
            for i in range(depth)
        ]
        for block in self.blocks:
            block.build((None, None, width))
        if pre_norm:
            self.norm_pre = LayerNorm(epsilon, name="norm_pre", **kind)
            self.norm_pre.build((None, None, width))
        self.norm = LayerNorm(epsilon, name="norm", **kind)
        self.norm.build((None, width))
        self.built = True

    def call(self, inputs):
        if self.pool == "mean_norm":
            return self.norm(ops.mean(self.raw_tokens(inputs)[:, self.num_prefix_tokens :], axis=1))
        tokens = self.tokens(inputs)
        if self.pool == "cls":
            return tokens[:, 0]
        mean = ops.mean(tokens[:, self.num_prefix_tokens :], axis=1)
        return mean if self.pool == "mean" else ops.concatenate([tokens[:, 0], mean], axis=-1)

    @property
    def feature_dim(self) -> int:
        """Entries of the feature."""
        return self.width * (2 if self.pool == "cls_mean" else 1)

    def tokens(self, inputs):
        """All tokens after the final norm: CLS first, then the visible patches in their order.

        Extra tokens, of a model that has some, stand between CLS and the patches.

        Args:
            inputs: {"patches": float32[b, v, 3 * patch_size**2], normalised pixels,
                "positions": int32[b, v], row-major place of each patch; and where the grid of
                patches is another, "table": float32[n, width], its position embeddings}.

        Returns:
            float32[b, num_prefix_tokens + v, width].
        """
        return self.norm(self.raw_tokens(inputs))

    def raw_tokens(self, inputs):
        """All tokens after the last block; arguments and result as those of `tokens`."""
        patches, positions = inputs["patches"], inputs["positions"]
        table = inputs.get("table", self.position_table)
        x = self.embed(patches)
        x = x + ops.cast(ops.take(table, positions, axis=0), x.dtype)
        batch = ops.shape(x)[0]
        prefix = [
            ops.broadcast_to(ops.cast(token, x.dtype), (batch, *token.shape[1:]))
            for token in (self.cls_token, self.extra)
            if token is not None
        ]
        x = ops.concatenate([*prefix, x], axis=1)
        if self.pre_norm:
            x = self.norm_pre(x)
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        names = (
            "image_size patch_size width depth num_heads mlp_ratio activation positions epsilon "
            "class_token extra_tokens pool pre_norm"
        )
        return super().get_config() | {name: getattr(self, name) for name in names.split()}


def _check_one_of(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(allowed)}")
