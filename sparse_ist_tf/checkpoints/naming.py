"""Every published way to name a ViT's tensors, brought to one: timm's, with torch's layouts."""

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

from sparse_ist_tf.checkpoints.names.towers import find_tower
from sparse_ist_tf.errors import RequestError

_TORCH_NAMES = [  # of transformers and of Meta's repositories
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^(embeddings\.)?register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's chunks of blocks
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(attention\.)?(q|k|v)(uery|ey|alue|_proj)\.", r".attn.\2."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(intermediate\.dense|mlp\.weights_in|mlp\.w12)\.", ".mlp.fc1."),
    (r"(?<!attention)\.(output\.dense|mlp\.weights_out|mlp\.w3)\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.gamma_(\d)$", r".ls\1.gamma"),
]
_FLAX_NAMES = [
    (r"^embedding/", "patch_embed.proj."),
    (r"^cls$", "cls_token"),
    (r"^(Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^Transformer/encoder_norm/", "norm."),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
]
_KERAS_HUB_NAMES = [
    (r"^vit_patching_and_embedding/class_token$", "cls_token"),
    (r"^vit_patching_and_embedding/position_embedding/embeddings$", "pos_embed"),
    (r"^vit_patching_and_embedding/patch_embedding/", "patch_embed.proj."),
    (r"^vit_encoder/ln/", "norm."),
]
_PARTS = [  # of a block, in Flax's and KerasHub's names
    (r"(MultiHeadDotProductAttention_\d|mha)/(q|k|v)(uery|ey|alue)/", r"attn.\2."),
    (r"(MultiHeadDotProductAttention_\d/out|mha/attention_output)/", "attn.proj."),
    (r"(MlpBlock_\d/Dense_0|mlp/dense_1)/", "mlp.fc1."),
    (r"(MlpBlock_\d/Dense_1|mlp/dense_2)/", "mlp.fc2."),
    (r"(LayerNorm_0|ln_1)/", "norm1."),
    (r"(LayerNorm_[12]|ln_2)/", "norm2."),
    (r"\b(kernel|scale|gamma)$", "weight"),
    (r"\bbeta$", "bias"),
]


@dataclasses.dataclass
class NamedTensors:
    """A ViT's tensors under timm's names.

    Args:
        tensors: timm's name to array, of torch's layout.
        origin: timm's name to that in the checkpoint.
        num_heads: attention heads, where the shapes tell.
        notes: which prefix the names had and what was left out, a line each.
        unknown: names in the checkpoint that are neither the encoder's nor known to be useless.
    """

    tensors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    origin: dict[str, str] = dataclasses.field(default_factory=dict)
    num_heads: int | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    unknown: tuple[str, ...] = ()

    def add(self, name: str, origin: str, tensor: np.ndarray) -> None:
        """Takes a tensor in.

        Raises:
            RequestError: if there is one of this name.
        """
        if name in self.tensors:
            raise RequestError(f"{self.origin[name]} and {origin} are the same weight")
        self.tensors[name], self.origin[name] = tensor, origin


def named_tensors(checkpoint: dict[str, np.ndarray]) -> NamedTensors:
    """Brings a checkpoint's names and layouts to timm's.

    Known are the names of timm, transformers (old and new ones), Meta's MAE, DINO, DINOv2 and DeiT,
    big_vision and vision_transformer (with a tensor for each block or one for all), and KerasHub.
    What stands before all of them is taken off, and what is no part of an encoder, such as a
    decoder, left out and counted (find_tower). A name that isn't known stays as it is.

    Raises:
        RequestError: if two names stand for the same weight, or as find_tower.
    """
    tower = find_tower({name: tensor.size for name, tensor in checkpoint.items()})
    named = NamedTensors(notes=tower.notes, unknown=tower.unknown)
    flax = is_flax(checkpoint)
    keras_hub = any(name.startswith("vit_patching_and_embedding/") for name in checkpoint)
    for origin, inner in tower.names.items():
        tensor = checkpoint[origin]
        if flax:
            _add_flax(named, _renamed(inner, _FLAX_NAMES), origin, tensor)
        elif keras_hub:
            name = _renamed(inner, _KERAS_HUB_NAMES)
            if block := re.match(r"vit_encoder/transformer_block_(\d+)/", name):
                name = f"blocks.{int(block[1]) - 1}.{name[block.end() :]}"
            _add_channels_last(named, name, origin, tensor)
        else:
            named.add(_renamed(inner, _TORCH_NAMES), origin, tensor)
    return named


def is_flax(checkpoint: dict[str, np.ndarray]) -> bool:
    """Whether the names are big_vision's or vision_transformer's."""
    return any(re.search("(^|/)embedding/kernel$", name) for name in checkpoint)


def transformers_kind(checkpoint: Iterable[str]) -> str:
    """The model type of transformers that names are of.

    Returns:
        "vit"; "dinov2", "deit" or "vit_mae" where it has what only these have; "" for other names.
    """
    names = list(checkpoint)
    if not any(name.endswith("patch_embeddings.projection.weight") for name in names):
        return ""
    telling = {"dinov2": "lambda1$", "deit": "distillation_token$", "vit_mae": r"^decoder\."}
    found = (k for k, p in telling.items() if any(re.search(p, name) for name in names))
    return next(found, "vit")


def _renamed(name, patterns):
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def _add_flax(named, name, origin, tensor):
    shared = "Transformer/encoderblock/"  # of a scan over the blocks: one tensor for all
    if name.startswith(shared):
        for i, part in enumerate(tensor):
            one = name.replace(shared, f"blocks.{i}.")
            _add_channels_last(named, one, f"{origin}[{i}]", part)
    else:
        _add_channels_last(named, name, origin, tensor)


def _add_channels_last(named, name, origin, tensor):
    """Adds a tensor whose kernels are [inputs, outputs] and whose heads have axes of their own."""
    name = _renamed(name, _PARTS)
    if re.search(r"attn\.[qkv]\.weight$", name) and tensor.ndim == 3:
        named.num_heads = tensor.shape[1]
        tensor = tensor.reshape(tensor.shape[0], -1)
    elif re.search(r"attn\.proj\.weight$", name) and tensor.ndim == 3:
        tensor = tensor.reshape(-1, tensor.shape[-1])
    elif re.search(r"attn\.[qkv]\.bias$", name):
        tensor = tensor.reshape(-1)
    elif name == "pos_embed" and tensor.ndim == 2:
        tensor = tensor[None]
    if name == "patch_embed.proj.weight" and tensor.ndim == 4:
        tensor = tensor.transpose(3, 2, 0, 1)
    elif name.endswith("weight") and tensor.ndim == 2:
        tensor = tensor.T
    named.add(name, origin, tensor)
