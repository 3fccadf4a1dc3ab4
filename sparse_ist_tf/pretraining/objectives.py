"""What pre-training minimises: the error of a classifier, or of a masked autoencoder."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Union

import keras
import numpy as np
from keras import ops

from sparse_ist_tf.encoder.positions import bicubic_weights, sincos_positions
from sparse_ist_tf.encoder.vit import Block, LayerNorm, ViT

if TYPE_CHECKING:
    import jax
    import tensorflow as tf

Tensor = Union["tf.Tensor", "jax.Array"]  # of the backend


class Classifier(keras.Model):
    """An encoder with a linear classifier on its feature: the supervised objective.

    Args:
        encoder: a ViT.
        num_classes: outputs of the classifier.
        label_smoothing: in [0, 1).
        distillation: in [0, 1]. Above 0, every step also shows the whole image; the masked view
            learns this part of its loss from the whole view's output, held fixed; with a teacher,
            both views learn it from the teacher's.
        projector: hidden units of a two-layer perceptron between feature and classifier, which is
            thrown away after pre-training, so that the feature keeps more than these classes need;
            none where 0.

    Source: of the projector, "No Reason for No Supervision" (Sariyildiz et al., 2023), section 3.
    """

    metric = "accuracy"

    def __init__(
        self,
        encoder: ViT,
        num_classes: int,
        label_smoothing: float = 0.0,
        distillation: float = 0.0,
        projector: int = 0,
    ):
        super().__init__()
        self.encoder = encoder
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.distillation = distillation
        self.projector, shape = [], (None, encoder.feature_dim)
        if projector:
            kind = {"dtype": encoder.dtype_policy}
            self.projector = [
                LayerNorm(name="projector_norm", **kind),
                keras.layers.Dense(projector, "silu", name="projector_hidden", **kind),
                keras.layers.Dense(encoder.feature_dim, name="projector_out", **kind),
            ]
        self.classifier = keras.layers.Dense(num_classes, dtype="float32", name="classifier")
        for layer in (*self.projector, self.classifier):
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.built = True

    def call(self, inputs: Mapping[str, Tensor]) -> Tensor:
        x = self.encoder(inputs)
        for layer in self.projector:
            x = layer(x)
        return self.classifier(ops.cast(x, "float32"))

    def of_whole(self, whole: Tensor) -> Tensor:
        """Outputs for every patch, float32[b, n, 3 * patch_size**2]."""
        every = ops.broadcast_to(ops.arange(ops.shape(whole)[1]), ops.shape(whole)[:2])
        return self({"patches": whole, "positions": every} | self._table(whole.shape[1]))

    def _table(self, count):
        """For images of another size, `count` patches each, the embeddings of their positions."""
        own = self.encoder.num_patches
        if count == own:
            return {}
        rows = bicubic_weights(math.isqrt(own), math.isqrt(count))
        both = ops.convert_to_tensor(np.kron(rows, rows), "float32")
        return {"table": ops.matmul(both, ops.cast(self.encoder.position_table, "float32"))}

    def loss_of(
        self,
        patches: Tensor,
        positions: Tensor,
        labels: Tensor,
        whole: Tensor,
        shares: Tensor | None = None,
        soft: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and the share of images that the masked view gets right.

        Args:
            patches: float32[b, v, 3 * patch_size**2], the visible ones.
            positions: int32[b, v].
            labels: int32[b].
            whole: float32[b, n, 3 * patch_size**2], every patch; n is the encoder's num_patches, or
                that of images of another size, for which its position embeddings are resampled.
            shares: float32[b, n], what part of a patch is of the neighbour's (swap_neighbours).
            soft: float32[b, num_classes], a teacher's probabilities for the whole images.

        Returns:
            (loss, accuracy), float32 scalars. Of a mixed image the larger share is right.
        """
        logits = self({"patches": patches, "positions": positions} | self._table(whole.shape[1]))
        seen = None if shares is None else ops.take_along_axis(shares, positions, axis=1)
        truth = self._truth(labels, seen)
        right = ops.equal(ops.argmax(logits, axis=-1), ops.argmax(truth, axis=-1))
        accuracy = ops.mean(ops.cast(right, "float32"))
        loss = self._cross_entropy(truth, logits)
        if self.distillation:
            outputs = self.of_whole(whole)
            truth = self._truth(labels, shares)
            if soft is None:
                soft = ops.stop_gradient(ops.softmax(outputs))
            else:
                truth = truth + self.distillation * (soft - truth)
            taught = self._cross_entropy(soft, logits)
            loss = (1 - self.distillation) * loss + self.distillation * taught
            loss = 0.5 * (loss + self._cross_entropy(truth, outputs))
        return loss, accuracy

    def _truth(self, labels, shares):
        """What the outputs should be: float32[b, num_classes]."""
        truth = ops.one_hot(labels, self.num_classes)
        if shares is not None:
            other = ops.mean(shares, axis=1, keepdims=True)
            truth = truth + other * (swap_neighbours(truth) - truth)
        return truth * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes

    def _cross_entropy(self, truth, logits):
        return -ops.mean(ops.sum(truth * ops.log_softmax(logits), axis=-1))


class MaskedAutoencoder(keras.Model):
    """An encoder with a light decoder that fills in the hidden patches.

    Mask tokens take the hidden positions, the decoder sees all tokens, and the loss is the mean
    squared error on hidden patches, each normalised by its own mean and its sample variance (which
    divides by one less than the number of pixels), as in the authors' code.

    Source: "Masked Autoencoders Are Scalable Vision Learners" (He et al., 2022), section 3.

    Args:
        encoder: a ViT.
        width: channels of the decoder.
        depth: blocks of the decoder.
        num_heads: attention heads of the decoder.
    """

    metric = "loss"

    def __init__(self, encoder: ViT, width: int, depth: int, num_heads: int):
        super().__init__(name="masked_autoencoder")  # checkpoints name its own weights by it
        self.encoder, self.width = encoder, width
        grid = encoder.image_size // encoder.patch_size
        pixels = 3 * encoder.patch_size**2
        init = keras.initializers.TruncatedNormal(stddev=0.02)
        self.table = sincos_positions(grid, width)
        kind = {"dtype": encoder.dtype_policy}
        self.embed = keras.layers.Dense(width, name="decoder_embed", **kind)
        self.embed.build((None, None, encoder.spec.width))
        self.mask_token = self.add_weight(name="mask_token", shape=(1, 1, width), initializer=init)
        self.blocks = [
            Block(num_heads, 4 * width, encoder.spec.activation, name=f"decoder_block_{i}", **kind)
            for i in range(depth)
        ]
        for block in self.blocks:
            block.build((None, None, width))
        draw_glorot(self.blocks)
        self.norm = LayerNorm(name="decoder_norm", **kind)
        self.norm.build((None, None, width))
        self.predict_pixels = keras.layers.Dense(pixels, dtype="float32", name="decoder_pixels")
        self.predict_pixels.build((None, None, width))
        self.built = True

    def call(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Predicted normalised pixels of every patch: float32[b, num_patches, pixels]."""
        tokens = self.embed(self.encoder.tokens(inputs))
        seen = ops.one_hot(inputs["positions"], self.encoder.num_patches, dtype=tokens.dtype)
        seen = ops.transpose(seen, (0, 2, 1))  # [b, num_patches, v], one 1 in a visible row
        hidden = 1 - ops.sum(seen, axis=-1, keepdims=True)
        x = ops.matmul(seen, tokens[:, 1:]) + hidden * ops.cast(self.mask_token, tokens.dtype)
        x = x + ops.cast(self.table, x.dtype)
        x = ops.concatenate([tokens[:, :1], x], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.predict_pixels(ops.cast(self.norm(x), "float32"))[:, 1:]

    def loss_of(
        self,
        patches: Tensor,
        positions: Tensor,
        labels: Tensor,
        whole: Tensor,
        shares: Tensor | None = None,
        soft: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error on the hidden patches; arguments as in Classifier.loss_of."""
        del labels, shares, soft
        predicted = self({"patches": patches, "positions": positions})
        centred = whole - ops.mean(whole, axis=-1, keepdims=True)
        variance = ops.sum(centred * centred, axis=-1, keepdims=True) / (whole.shape[-1] - 1)
        target = centred / ops.sqrt(variance + 1e-6)
        error = ops.mean(ops.square(predicted - target), axis=-1)
        hidden = 1 - ops.sum(ops.one_hot(positions, self.encoder.num_patches), axis=1)
        loss = ops.sum(error * hidden) / ops.maximum(ops.sum(hidden), 1)
        return loss, loss


def swap_neighbours(x: Tensor) -> Tensor:
    """Every second row in its predecessor's place and the other way round: who is mixed with whom.

    Args:
        x: [b, ...], b even.
    """
    pairs = ops.reshape(x, (-1, 2, *x.shape[1:]))
    return ops.reshape(ops.flip(pairs, axis=1), (-1, *x.shape[1:]))


def draw_glorot(blocks: Sequence[Block]) -> None:
    """Draws the kernels of blocks anew, Glorot-uniformly.

    Source: "Masked Autoencoders Are Scalable Vision Learners" (He et al., 2022), appendix A.1.
    """
    draw = keras.initializers.GlorotUniform()
    for block in blocks:
        for layer in (block.qkv, block.proj, block.fc1, block.fc2):
            layer.kernel.assign(draw(layer.kernel.shape))
