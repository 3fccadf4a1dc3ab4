"""A ViT's weights rewritten for devices: the same function with fewer and better-conditioned steps.

Eight exact rewritings, each of which a device pays for otherwise:

- the pixels' normalisation goes into the patch embedding, so that raw bytes are the input;
- where a sensor has fewer pixels than a patch, what enlarges its cells goes there too;
- everything that is added to the residual stream is centred over the channels once and for all, so
  that a layer norm needs no mean and no difference;
- a layer norm's scale and offset go into the matrix behind it;
- the attention's 1 / sqrt(size) is spread over queries and keys, and their channels are balanced
  against each other and against the values', so that one int8 scale suits all three;
- an activation's gain, the 1.702 of quick_gelu, goes into the matrices on both sides;
- tokens that belong to no patch enter the first block as constants, already normalised;
- for integers the residual stream is turned by an orthogonal matrix, which a norm without mean and
  scale doesn't notice, so that no channel stands out and one int8 scale suits them all.

Source of the last: "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs" (Ashkboos et al., 2024),
section 4, stage 1a.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparse_ist_tf.encoder.spec import ACTIVATIONS, ViTSpec
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.masks.cells import cell_matrix
from sparse_ist_tf.streams import Stream

if TYPE_CHECKING:
    from sparse_ist_tf.encoder.vit import ViT

# The parts of a ViT that this rewriting knows.
KNOWN = frozenset(
    ("image_size", "patch_size", "width", "depth", "num_heads", "mlp_ratio", "activation",
     "positions", "epsilon", "class_token", "extra_tokens", "pool", "pre_norm")
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Affine:
    """x @ kernel + bias.

    Args:
        kernel: float64[inputs, outputs].
        bias: float64[outputs].
    """

    kernel: np.ndarray
    bias: np.ndarray

    def after_scaling(self, scale: np.ndarray, offset: np.ndarray) -> "Affine":
        """The map of x that this map makes of x * scale + offset."""
        return Affine(scale[:, None] * self.kernel, self.bias + offset @ self.kernel)

    def with_outputs_scaled(self, factors: np.ndarray | float) -> "Affine":
        """The outputs multiplied, one factor for each or one for all."""
        return Affine(self.kernel * factors, self.bias * factors)

    def centred(self) -> "Affine":
        """The outputs less their mean over the channels."""
        return Affine(_centred(self.kernel), _centred(self.bias))

    def of_turned(self, basis: np.ndarray) -> "Affine":
        """The map of x @ basis that this map makes of x; the basis is orthogonal."""
        return Affine(basis.T @ self.kernel, self.bias)

    def turned(self, basis: np.ndarray) -> "Affine":
        """The outputs times a basis."""
        return Affine(self.kernel @ basis, self.bias @ basis)

    def outputs(self, start: int, stop: int) -> "Affine":
        """Some of the outputs."""
        return Affine(self.kernel[:, start:stop], self.bias[start:stop])


@dataclasses.dataclass(frozen=True)
class FoldedBlock:
    """One block's four matrices; what precedes each is x / rms(x), attention or the activation."""

    qkv: Affine
    proj: Affine
    fc1: Affine
    fc2: Affine

    def turned(self, basis: np.ndarray) -> "FoldedBlock":
        """The block between streams in another basis."""
        return FoldedBlock(
            self.qkv.of_turned(basis), self.proj.turned(basis),
            self.fc1.of_turned(basis), self.fc2.turned(basis),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FoldedViT:
    """A ViT whose layer norms are divisions by the root mean square.

    Args:
        spec: the ViT's; what its activation leaves is Activation.folded of fc1's outputs.
        embed: of a patch's pixels, in [0, 255] less pixel_offset.
        table: float64[num_patches, width], what is added at each position.
        prefix: float64[p, width], the rows of the tokens before the patches: CLS, if any, first.
        prefix_normed: float64[p, width], the same after the first block's norm.
        blocks: the transformer blocks.
        scale: float64[width], of the final norm.
        offset: likewise.
        pre_norm: scale and offset of a norm before the first block, or None.
        epsilon: of the norms.
        pixel_offset: what is taken off every pixel before embed.
        basis: float64[width, width], orthogonal: the stream is the ViT's times this. None where it
            is the ViT's own.
        cell: height and width in pixels of what embed takes for a patch; the patch's own where
            None.
    """

    spec: ViTSpec
    embed: Affine
    table: np.ndarray
    prefix: np.ndarray
    prefix_normed: np.ndarray
    blocks: tuple[FoldedBlock, ...]
    scale: np.ndarray
    offset: np.ndarray
    pre_norm: tuple[np.ndarray, np.ndarray] | None
    epsilon: float
    pixel_offset: float = 0.0
    basis: np.ndarray | None = None
    cell: tuple[int, int] | None = None

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Height and width in pixels of what stands for a patch in the input."""
        return self.cell or (self.spec.patch_size, self.spec.patch_size)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of an image of all patches."""
        height, width = self.patch_shape
        return self.spec.grid * height, self.spec.grid * width

    def for_cells(self, cell: tuple[int, int]) -> "FoldedViT":
        """The same of a sensor's pixels, each cell enlarged to its patch by the embedding itself.

        Args:
            cell: its height and width in pixels.

        Returns:
            What this makes of the patches that masks.cells enlarges, but for their rounding.
        """
        size = self.spec.patch_size
        rows, columns = (cell_matrix(length, 1, size).astype(np.float64) for length in cell)
        kernel = self.embed.kernel.reshape(size, size, 3, -1)
        kernel = np.einsum("yh,xw,yxcd->hwcd", rows, columns, kernel)
        embed = Affine(kernel.reshape(-1, kernel.shape[-1]), self.embed.bias)
        return dataclasses.replace(self, embed=embed, cell=cell)

    def for_integers(self, pixel_offset: float = 128.0) -> "FoldedViT":
        """The same for small signed pixels, without the norms' epsilon, its stream turned.

        With pixels around 0 the rounding of the embedding's weights isn't multiplied by an
        image's brightness; the epsilon is far below an integer's step.
        """
        kernel = self.embed.kernel
        bias = self.embed.bias + (pixel_offset - self.pixel_offset) * kernel.sum(axis=0)
        vit = dataclasses.replace(
            self, embed=Affine(kernel, bias), pixel_offset=pixel_offset, epsilon=0.0
        )
        # The scale of a norm before the first block holds on to the channels.
        if vit.pre_norm or vit.basis is not None:
            return vit
        return vit.turned(_rotation(vit.spec.width))

    def turned(self, basis: np.ndarray) -> "FoldedViT":
        """The same function with its stream in another basis, float64[width, width]."""
        return dataclasses.replace(
            self,
            embed=self.embed.turned(basis),
            table=self.table @ basis,
            prefix=self.prefix @ basis,
            prefix_normed=self.prefix_normed @ basis,
            blocks=tuple(block.turned(basis) for block in self.blocks),
            basis=basis,
        )

    def behind(self, affine: Affine) -> Affine:
        """What a map of the feature is as a map of the normalised stream."""
        count = self.spec.feature_dim // self.spec.width
        affine = affine.after_scaling(np.tile(self.scale, count), np.tile(self.offset, count))
        if self.basis is None:
            return affine
        return affine.of_turned(np.kron(np.eye(count), self.basis))


def fold(vit: "ViT", mean: Sequence[float], std: Sequence[float]) -> FoldedViT:
    """Rewrites a ViT.

    Args:
        vit: a ViT, built.
        mean: of the three channels, of pixels in [0, 1].
        std: likewise.

    Returns:
        The same function of pixels in [0, 255], exactly.

    Raises:
        RequestError: if the ViT has a part that this rewriting doesn't know.
    """
    spec = vit.spec
    for name, value in sorted(dataclasses.asdict(spec).items()):
        if value and name not in KNOWN:
            raise RequestError(f"encoder: {name}={value!r} can't be exported")
    channel = np.tile(np.arange(3), spec.patch_size**2)
    mean, std = np.asarray(mean, np.float64)[channel], np.asarray(std, np.float64)[channel]
    embed = _affine(vit.embed).after_scaling(1 / (255 * std), -mean / std)
    tokens = [token for token in (vit.cls_token, vit.extra) if token is not None]
    rows = [_array(token).reshape(-1, spec.width) for token in tokens]
    rows = _centred(np.concatenate([np.zeros((0, spec.width)), *rows]))
    pre_norm = None
    if spec.pre_norm:
        pre_norm = _array(vit.norm_pre.scale), _array(vit.norm_pre.offset)
        rows = _centred(_normed(rows, spec.epsilon) * pre_norm[0] + pre_norm[1])
    return FoldedViT(
        spec=spec,
        embed=embed.centred(),
        table=_centred(_array(vit.position_table)),
        prefix=rows,
        prefix_normed=_normed(rows, spec.epsilon),
        blocks=tuple(_fold_block(block, spec) for block in vit.blocks),
        scale=_array(vit.norm.scale),
        offset=_array(vit.norm.offset),
        pre_norm=pre_norm,
        epsilon=spec.epsilon,
    )


def _fold_block(block, spec: ViTSpec) -> FoldedBlock:
    qkv = _affine(block.qkv).after_scaling(_array(block.norm1.scale), _array(block.norm1.offset))
    proj = _affine(block.proj)
    # After a norm every input has mean square 1, so this is what an output's is about.
    power = np.sqrt((qkv.kernel**2).sum(axis=0) + qkv.bias**2) + 1e-12
    query, key, value = np.split(power, 3)
    root = (spec.width // spec.num_heads) ** -0.25
    to_query, to_key = root * np.sqrt(key / query), root * np.sqrt(query / key)
    to_value = np.mean(query * to_query) / value
    qkv = qkv.with_outputs_scaled(np.concatenate([to_query, to_key, to_value]))
    proj = Affine(proj.kernel / to_value[:, None], proj.bias).centred()
    fc1 = _affine(block.fc1).after_scaling(_array(block.norm2.scale), _array(block.norm2.offset))
    gain = ACTIVATIONS[spec.activation].gain
    fc2 = Affine(_array(block.fc2.kernel) / gain, _array(block.fc2.bias))
    return FoldedBlock(qkv, proj, fc1.with_outputs_scaled(gain), fc2.centred())


def _rotation(size: int) -> np.ndarray:
    """A random orthogonal matrix, always the same one of a size."""
    q, r = np.linalg.qr(Stream.BASIS.rng(size).standard_normal((size, size)))
    return q * np.sign(np.diag(r))


def _array(variable) -> np.ndarray:
    return np.asarray(variable).astype(np.float64)


def _affine(layer) -> Affine:
    return Affine(_array(layer.kernel), _array(layer.bias))


def _centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean(axis=-1, keepdims=True)


def _normed(x: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon)
