"""The feature of a ViT in fewer and larger steps: what encoding many images uses.

Five changes that leave the feature as it is, up to round-off. Tokens of all images are the rows of
one matrix, so that TensorFlow fuses bias, activation and residual into the matrix products (a
reshape between product and bias, as in a Dense layer on three axes, keeps it from that). Query,
key and value are parted by one transpose. x * sigmoid(a * x) is silu(a * x) / a: both factors go
into the weights around it, and TensorFlow has one operation for silu. Layer norms are written as
its fusion knows them. And where the feature is CLS, the last block computes CLS only: the other
tokens are needed as its keys and values, but what becomes of them is not.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import KerasTensor, ops

from sparse_ist_tf.encoder.spec import ACTIVATIONS, POOLS
from sparse_ist_tf.encoder.vit import Block, LayerNorm, ViT, attention

_MOST_FROZEN = 2**24  # bytes: vit_micro (11 MB) gains by it, vit_small (88 MB) doesn't


def features(model: ViT, inputs: Mapping[str, KerasTensor]) -> KerasTensor:
    """What `model(inputs)` returns, [b, feature_dim] of the model's dtype, faster."""
    return upper_features(model, lower_tokens(model, inputs, 0), 0)


def frozen_features(model: ViT) -> Callable[[Mapping[str, KerasTensor]], KerasTensor]:
    """`features` with the weights as they are now, for a graph that is called many times.

    As constants of the graph, small weights are rearranged for the matrix products once and not at
    every call. Larger ones stay variables: they gain nothing by it.
    """
    values = [(variable, np.asarray(variable)) for variable in model.weights]
    if sum(value.nbytes for _, value in values) > _MOST_FROZEN:
        return functools.partial(features, model)

    def frozen(inputs):
        constants = [(variable, ops.convert_to_tensor(value)) for variable, value in values]
        with keras.StatelessScope(state_mapping=constants):
            return features(model, inputs)

    return frozen


def lower_tokens(model: ViT, inputs: Mapping[str, KerasTensor], first: int) -> KerasTensor:
    """The tokens, [b, t, width], that go into block number `first`, from 0 to the depth."""
    batch, visible, pixels = ops.shape(inputs["patches"])
    x = model.embed(ops.reshape(ops.convert_to_tensor(inputs["patches"]), (-1, pixels)))
    x = model.first_tokens(ops.reshape(x, (batch, visible, model.spec.width)), inputs)
    batch, tokens, width = ops.shape(x)
    x = ops.reshape(x, (-1, width))
    if model.spec.pre_norm:
        x = _norm(model.norm_pre, x)
    for block in model.blocks[:first]:
        x = _block(block, x, batch, tokens)
    return ops.reshape(x, (batch, tokens, width))


def upper_features(model: ViT, x: KerasTensor, first: int) -> KerasTensor:
    """The feature, [b, feature_dim], of the tokens x that lower_tokens gives for `first`.

    The last block can't be left out: `first` goes to the depth less 1.
    """
    batch, tokens, width = ops.shape(x)
    x = ops.reshape(x, (-1, width))
    pool = POOLS[model.spec.pool]
    for block in model.blocks[first : -1 if pool.first_alone else None]:
        x = _block(block, x, batch, tokens)
    if pool.first_alone:
        x, tokens = _last_block(model.blocks[-1], x, batch, tokens), None
    return pool.of(_Rows(model, batch, tokens), x)


class _Rows:
    """The TokenOps of tokens as the rows [b * t, width] of one matrix; of CLS alone, [b, width]."""

    def __init__(self, model: ViT, batch: int, tokens: int | None):
        self._model, self._tokens = model, tokens
        self._shape = (batch, tokens, model.spec.width)

    def norm(self, x: KerasTensor) -> KerasTensor:
        return _norm(self._model.norm, x)

    def first(self, x: KerasTensor) -> KerasTensor:
        return x if self._tokens is None else ops.reshape(x, self._shape)[:, 0]

    def mean(self, x: KerasTensor) -> KerasTensor:
        x = ops.reshape(x, self._shape)
        return ops.mean(x[:, self._model.spec.num_prefix_tokens :], axis=1)

    def join(self, parts: Sequence[KerasTensor]) -> KerasTensor:
        return ops.concatenate(parts, axis=-1)


def _block(block: Block, x, batch, tokens):
    """A block on the rows [b * t, width] of all tokens."""
    width = x.shape[-1]
    size = width // block.num_heads
    qkv = ops.reshape(block.qkv(_norm(block.norm1, x)), (batch, tokens, 3, block.num_heads, size))
    query, key, value = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
    mixed = attention(query, key, value)  # [b, heads, t, size]
    x = x + block.proj(ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, width)))
    return x + _mlp(block, _norm(block.norm2, x))


def _last_block(block: Block, x, batch, tokens):
    """CLS [b, width] after a block on the rows [b * t, width] of all tokens."""
    width = x.shape[-1]
    heads, size = block.num_heads, width // block.num_heads
    normed = _norm(block.norm1, x)
    kernel = ops.cast(block.qkv.kernel, x.dtype)
    bias = ops.cast(block.qkv.bias, x.dtype)
    both = ops.add(ops.matmul(normed, kernel[:, width:]), bias[width:])
    both = ops.reshape(both, (batch, tokens, 2, heads, size))
    key, value = ops.unstack(ops.transpose(both, (2, 0, 3, 1, 4)), 2)
    cls = ops.reshape(normed, (batch, tokens, width))[:, 0]
    query = ops.add(ops.matmul(cls, kernel[:, :width]), bias[:width])
    mixed = attention(ops.reshape(query, (batch, heads, 1, size)), key, value)
    x = ops.reshape(x, (batch, tokens, width))[:, 0]
    x = x + block.proj(ops.reshape(mixed, (batch, width)))
    return x + _mlp(block, _norm(block.norm2, x))


def _mlp(block: Block, x):
    """block.fc2(block.activate(block.fc1(x)))."""
    activation = ACTIVATIONS[block.activation]
    if activation.folded is None:
        return block.fc2(block.activate(block.fc1(x)))
    weights = (
        activation.gain * block.fc1.kernel,
        activation.gain * block.fc1.bias,
        block.fc2.kernel / activation.gain,
        block.fc2.bias,
    )
    kernel1, bias1, kernel2, bias2 = (ops.cast(value, x.dtype) for value in weights)
    x = activation.folded(ops, ops.add(ops.matmul(x, kernel1), bias1))
    return ops.add(ops.matmul(x, kernel2), bias2)


def _norm(layer: LayerNorm, x):
    """layer(x) of rows [n, width].

    In a graph for any n as a batch norm whose channels are the rows, with scale and offset behind
    it: that, and not the same written out, is what TensorFlow makes one operation of.

    Source: tensorflow/core/grappler/optimizers/remapper.cc, FindMklLayerNorm.
    """
    if x.shape[0] is not None or not _fuses_norms():
        return layer(x)
    import tensorflow as tf

    rows, width = ops.shape(x)
    channels = ops.reshape(x, (1, rows, width, 1))
    ones, zeros = ops.ones((rows,), "float32"), ops.zeros((rows,), "float32")
    normed, _, _ = tf.compat.v1.nn.fused_batch_norm(
        channels, ones, zeros, epsilon=layer.epsilon, data_format="NCHW"
    )
    scale, offset = (ops.cast(value, x.dtype) for value in (layer.scale, layer.offset))
    return ops.reshape(normed, (rows, width)) * scale + offset


@functools.cache
def _fuses_norms() -> bool:
    """Whether TensorFlow computes on CPUs with oneDNN, which it tells in no public place."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    try:
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled
    except ImportError:
        return False
    return IsMklEnabled() and not tf.config.list_physical_devices("GPU")
