"""What is exported, as TensorFlow functions of one example, in the form that a device can run.

A form is a way to write the same network. `matmul` is for phones and microcontrollers: tokens are
rows, matrix products are FULLY_CONNECTED and BATCH_MATMUL. `conv` is for the Edge TPU, whose
compiler has neither for rows of tokens nor GATHER nor TRANSPOSE: products are 1x1 convolutions,
attention is a product and a mean, and softmax, which it takes of vectors alone, is unrolled.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.encoder.spec import ACTIVATIONS, POOLS
from sparse_ist_tf.export.graphs.folding import Affine, FoldedViT
from sparse_ist_tf.export.graphs.interface import OF_IMAGES
from sparse_ist_tf.tracing import traced


@dataclasses.dataclass(frozen=True)
class Network:
    """One artefact to export.

    Args:
        kind: "head" (feature to logits; a subnet is one too), "encoder" (visible patches and
            positions to feature), "classifier" (image to logits under a shared mask),
            "classifier_sensor" (the same of the pixels that a sensor has, fewer than the encoder's)
            or "classifier_patches" (visible patches and positions to logits).
        layers: the MLP, ReLU between; empty for an encoder.
        vit: None for a head; for a sensor's pixels FoldedViT.for_cells.
        positions: of OF_IMAGES the visible patches; of the others only their number counts.
        tuned: the layers were trained for the integers nearest to them, or for few values.
    """

    kind: str
    layers: tuple[Affine, ...] = ()
    vit: FoldedViT | None = None
    positions: tuple[int, ...] = ()
    tuned: bool = False

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, as in the file's signature."""
        if self.kind == "head":
            return ("feature",)
        return ("image",) if self.kind in OF_IMAGES else ("patches", "positions")

    @property
    def output_name(self) -> str:
        """Name of the output, as in the file's signature."""
        return "feature" if self.kind == "encoder" else "logits"


def layers_of(parameters: Mapping[str, np.ndarray]) -> tuple[Affine, ...]:
    """A head's or subnet's parameters, by "dense_0/kernel" etc., as a chain of affine maps."""
    return tuple(
        Affine(
            np.asarray(parameters[f"dense_{i}/kernel"], np.float64),
            np.asarray(parameters[f"dense_{i}/bias"], np.float64),
        )
        for i in range(len(parameters) // 2)
    )


def make_function(
    network: Network, form: str = "matmul", pixels: str = "float32"
) -> tf.types.experimental.PolymorphicFunction:
    """The artefact as a TensorFlow function with a fixed signature and batch 1.

    Args:
        network: what it computes.
        form: one of interface.FORMS.
        pixels: "uint8": raw pixels, cast inside; "float32": raw pixels less the network's
            pixel_offset, for quantization to take over.

    Returns:
        A tf.function; its inputs are named as network.input_names. In the form "conv" the
        positions are one-hot, float32[1, v, num_patches].
    """
    steps = {"matmul": _Rows, "conv": _Maps}[form](network)
    vit, kind = network.vit, network.kind
    dtype = tf.as_dtype(pixels)

    def spec(name, shape, of=tf.float32):
        return tf.TensorSpec(shape, of, name=name)

    if kind == "head":
        signature = [spec("feature", [1, network.layers[0].kernel.shape[0]])]

        def call(feature):
            return {"logits": _mlp(feature, network.layers)}

    elif kind in OF_IMAGES:
        signature = [spec("image", [1, *vit.image_shape, 3], dtype)]

        def call(image):
            return {"logits": steps.classify(steps.embed_image(image), None)}

    else:
        count = len(network.positions)
        patches = spec("patches", [1, count, vit.spec.pixels], dtype)
        signature = [patches, steps.positions_spec(count)]
        run = steps.feature if kind == "encoder" else steps.classify

        def call(patches, positions):  # type: ignore[misc]  # its arguments name the inputs
            return {network.output_name: run(steps.embed_patches(patches), positions)}

    return traced(call, input_signature=signature)


def _constant(values) -> tf.Tensor:
    return tf.constant(np.asarray(values, np.float32))


def _dense(x, affine: Affine):
    return tf.matmul(x, _constant(affine.kernel)) + _constant(affine.bias)


def _mlp(x, layers: Sequence[Affine]):
    for i, layer in enumerate(layers):
        x = _dense(x, layer)
        if i < len(layers) - 1:
            x = tf.nn.relu(x)
    return x


# What activations are made of, as it converts.
_FUNCTIONS = types.SimpleNamespace(
    gelu=tf.nn.gelu,
    silu=lambda x: x * tf.sigmoid(x),
    split=lambda x, count, axis: tf.split(x, count, axis),
)


class _Rows:
    """The form "matmul": tokens as the rows of a matrix, [t, width]."""

    def __init__(self, network: Network):
        self.network, self.vit = network, network.vit

    def positions_spec(self, count):
        return tf.TensorSpec([1, count], tf.int32, name="positions")

    def embed_image(self, image):
        """The visible patches are picked before anything is computed: hidden pixels stay unread."""
        (height, width), grid = self.vit.patch_shape, self.vit.spec.grid
        # A row of the reshaped image is one line of one patch.
        lines = [
            (position // grid * height + line) * grid + position % grid
            for position in self.network.positions
            for line in range(height)
        ]
        x = tf.gather(
            tf.reshape(image, [grid * height * grid, width * 3]), np.array(lines, np.int32)
        )
        return self.embed_patches(tf.reshape(x, [1, -1, height * width * 3]))

    def embed_patches(self, patches):
        x = tf.reshape(patches, [-1, patches.shape[-1]])
        return self.dense(tf.cast(x, tf.float32), self.vit.embed)

    def table_rows(self, positions):
        if positions is None:
            return _constant(self.vit.table[list(self.network.positions)])
        return tf.gather(_constant(self.vit.table), tf.reshape(positions, [-1]))

    def dense(self, x, affine):
        return _dense(x, affine)

    def count(self, x):
        return x.shape[0]

    def norm(self, x):
        """A layer norm of a folded ViT: the division by the root mean square."""
        power = tf.reduce_mean(x * x, axis=-1, keepdims=True)
        if self.vit.epsilon:
            power += self.vit.epsilon
        return x * tf.math.rsqrt(power)

    def put_on_top(self, x, rows):
        """X below some constant rows."""
        return tf.concat([_constant(rows), x], axis=0) if len(rows) else x

    def first(self, x):
        return x[:1] if self.count(x) > 1 else x

    def join(self, parts):
        return tf.concat([self.flat(part) for part in parts], axis=-1)

    def flat(self, x):
        return x

    def attend_all(self, x, affine):
        x = self._heads(self.dense(x, affine), 3 * self.vit.spec.num_heads)
        return self._mix(*tf.split(x, 3, axis=0))

    def attend_first(self, x, affine):
        """Attention of the first token alone: all that the last block needs."""
        width, heads = self.vit.spec.width, self.vit.spec.num_heads
        x_all = self._heads(self.dense(x, affine.outputs(width, 3 * width)), 2 * heads)
        key, value = tf.split(x_all, 2, axis=0)
        query = self.dense(self.first(x), affine.outputs(0, width))
        return self._mix(tf.reshape(query, [heads, 1, width // heads]), key, value)

    def _heads(self, x, count):
        return tf.transpose(tf.reshape(x, [self.count(x), count, -1]), [1, 0, 2])

    def _mix(self, query, key, value):
        scores = tf.matmul(query, key, transpose_b=True)
        mixed = tf.matmul(tf.nn.softmax(scores), value)
        if query.shape[1] > 1:
            mixed = tf.transpose(mixed, [1, 0, 2])
        return tf.reshape(mixed, [-1, self.vit.spec.width])

    def attention_scale(self, x):
        """What attend_* leave out, to be made up for in the matrix behind them."""
        return 1.0

    def mean(self, x):
        return tf.reduce_mean(x[len(self.vit.prefix) :], axis=0, keepdims=True)

    def feature(self, x, positions):
        """The feature of embedded patches, [1, feature_dim]."""
        x, vit = self._normalised(x, positions), self.vit
        if vit.basis is None:
            count = vit.spec.feature_dim // vit.spec.width
            scale, offset = (np.tile(value, count) for value in (vit.scale, vit.offset))
            return x * _constant(scale) + _constant(offset)
        size = vit.spec.feature_dim
        return _dense(x, vit.behind(Affine(np.eye(size), np.zeros(size))))

    def classify(self, x, positions):
        """The logits of embedded patches, [1, classes]."""
        first, *rest = self.network.layers
        return _mlp(self._normalised(x, positions), [self.vit.behind(first), *rest])

    def _normalised(self, x, positions):
        vit, pool = self.vit, POOLS[self.vit.spec.pool]
        activation = ACTIVATIONS[vit.spec.activation]
        activate = activation.folded or activation.of
        x = x + self.table_rows(positions)
        if vit.pre_norm:
            scale, offset = vit.pre_norm
            x = self.norm(x) * _constant(scale) + _constant(offset)
            x = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        normed = self.put_on_top(self.norm(x), vit.prefix_normed)
        x = self.put_on_top(x, vit.prefix)
        for i, block in enumerate(vit.blocks):
            if i:
                normed = self.norm(x)
            only_first = pool.first_alone and i == len(vit.blocks) - 1
            proj = Affine(block.proj.kernel * self.attention_scale(x), block.proj.bias)
            mixed = (self.attend_first if only_first else self.attend_all)(normed, block.qkv)
            x = (self.first(x) if only_first else x) + self.dense(mixed, proj)
            hidden = activate(_FUNCTIONS, self.dense(self.norm(x), block.fc1))
            x = x + self.dense(hidden, block.fc2)
        return self.flat(pool.of(self, x))


class _Maps(_Rows):
    """The form "conv": tokens along the x axis of a map, [1, 1, t, width]."""

    def positions_spec(self, count):
        return tf.TensorSpec([1, count, self.vit.spec.num_patches], tf.float32, name="positions")

    def embed_image(self, image):
        (height, width), grid = self.vit.patch_shape, self.vit.spec.grid
        pieces = [
            image[:, row * height : (row + length) * height, column * width : (column + 1) * width]
            for column, row, length in _runs(self.network.positions, grid)
        ]
        x = tf.concat(pieces, axis=1) if len(pieces) > 1 else pieces[0]
        kernel = self.vit.embed.kernel.reshape(height, width, 3, -1)
        x = tf.nn.conv2d(tf.cast(x, tf.float32), _constant(kernel), (height, width), "VALID")
        x = x + _constant(self.vit.embed.bias)
        return tf.reshape(x, [1, 1, -1, self.vit.spec.width])

    def embed_patches(self, patches):
        x = tf.reshape(patches, [1, 1, -1, patches.shape[-1]])
        return self.dense(tf.cast(x, tf.float32), self.vit.embed)

    def table_rows(self, positions):
        if positions is None:
            grid = self.vit.spec.grid
            order = [
                (row + i) * grid + column
                for column, row, length in _runs(self.network.positions, grid)
                for i in range(length)
            ]
            return _constant(self.vit.table[order][None, None])
        x = tf.reshape(positions, [1, 1, -1, self.vit.spec.num_patches])
        return self.dense(x, Affine(self.vit.table, np.zeros(self.vit.spec.width)))

    def dense(self, x, affine):
        kernel = _constant(affine.kernel[None, None])
        return tf.nn.conv2d(x, kernel, 1, "VALID") + _constant(affine.bias)

    def count(self, x):
        return x.shape[2]

    def put_on_top(self, x, rows):
        """The Edge TPU joins no constant but zeros."""
        count = len(rows)
        if not count:
            return x
        below = np.zeros((self.count(x), rows.shape[1]))
        padded = tf.pad(x, [[0, 0], [0, 0], [count, 0], [0, 0]])
        return padded + _constant(np.concatenate([rows, below])[None, None])

    def first(self, x):
        return x[:, :, :1, :] if self.count(x) > 1 else x

    def mean(self, x):
        return tf.reduce_mean(x[:, :, len(self.vit.prefix) :, :], axis=2, keepdims=True)

    def flat(self, x):
        return tf.reshape(x, [1, -1])

    def attend_all(self, x, affine):
        width, x = self.vit.spec.width, self.dense(x, affine)
        return self._mix(x[..., :width], x[..., width : 2 * width], x[..., 2 * width :])

    def attend_first(self, x, affine):
        width = self.vit.spec.width
        query = self.dense(self.first(x), affine.outputs(0, width))
        x = self.dense(x, affine.outputs(width, 3 * width))
        return self._mix(query, x[..., :width], x[..., width:])

    def attention_scale(self, x):
        return float(self.count(x))  # a mean stands for the sum over the tokens

    def _mix(self, query, key, value):
        width, heads = self.vit.spec.width, self.vit.spec.num_heads
        rows, tokens = self.count(query), self.count(key)
        belongs = np.repeat(np.eye(heads), width // heads, axis=0)  # [width, heads], of 0 and 1
        products = tf.reshape(query, [1, rows, 1, width]) * key
        scores = self.dense(products, Affine(belongs, np.zeros(heads)))
        weights = []
        for head in range(heads):
            score = tf.reshape(scores[..., head : head + 1], [1, rows * tokens])
            parts = [tf.nn.softmax(row) for row in tf.split(score, rows, axis=1)]
            score = tf.concat(parts, axis=1) if rows > 1 else parts[0]
            weights.append(tf.reshape(score, [1, rows, tokens, 1]))
        weights = tf.concat(weights, axis=3) if heads > 1 else weights[0]
        spread = self.dense(weights, Affine(belongs.T, np.zeros(width)))
        mixed = tf.reduce_mean(spread * value, axis=2)
        return tf.reshape(mixed, [1, 1, rows, width])


def _runs(positions: Sequence[int], grid: int) -> list[tuple[int, int, int]]:
    """Visible patches as (column, first row, length) of runs down the columns: one slice each."""
    runs: list[tuple[int, int, int]] = []
    for column, row in sorted((p % grid, p // grid) for p in positions):
        if runs and runs[-1][0] == column and runs[-1][1] + runs[-1][2] == row:
            runs[-1] = (column, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((column, row, 1))
    return runs
