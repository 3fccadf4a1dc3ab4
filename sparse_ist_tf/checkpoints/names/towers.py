"""Which tensors of a checkpoint are the encoder's, and which of the others nobody needs."""

import dataclasses
import re
from collections.abc import Collection

from sparse_ist_tf.errors import RequestError

# The patch embedding's kernel in timm's, transformers' and Flax's names: what stands before it
# stands before all of the encoder.
_ANCHOR = re.compile(
    r"(?P<prefix>(.*?[./])??)(patch_embed\.proj\.weight"
    r"|(embeddings\.)?patch_embeddings\.projection\.weight|embedding/kernel)$"
)
# What compilers and parallel wrappers put into names, anywhere.
_WRAPPED = re.compile(
    r"(^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Of several encoders: the one that is meant to be kept, and those that trail or lead another.
_KEPT = re.compile(r"(^|[._/])(teacher|target_encoder|ema)([._/]|$)")
_OTHERS = re.compile(
    r"(^|[._/])(student|momentum|encoder_k|key_encoder|target_net(work)?)([._/]|$)"
)
_LEFT_OUT = [  # (what it is, pattern): at the start of an encoder's names, anywhere in others
    ("the decoder", r"(\w+_)?decoder[._/]|mask_token$|embeddings\.mask_token$"),
    ("the classifier", r"head(_dist)?[./]|classifier\.|(cls|distillation)_classifier\."),
    ("the pooler", r"pooler\.|pre_logits[./]"),
    ("", r"(\w+_)?(head|heads|fc|linear|classifier|classification_head)\d*[./]"),
    ("", r"(\w+_)?(projector|projection|predictor|prototypes|neck)\d*([./]|$)"),
    ("", r"(text|text_model|text_encoder|txt|language_model)[./]|(logit_(scale|bias)|[tb])$"),
    ("", r"(\w+_)?(loss|losses|criterion|metrics?)([./]|$)|(\w+_)?(queue\w*|center)$"),
    ("", r"(optimizer|optim|opt|scaler|(lr_)?scheduler)\w*[./]"),
    ("", r"(embeddings\.)?position_ids$"),
]
_COUNTERS = re.compile(  # one number each, beside weights or in a layer
    r"(.*[./])?(\w*(step|steps|epoch|epochs|iteration|iterations|iter|updates)|num_batches_tracked"
    r"|total_(ops|params)|n_averaged|initted|(best|val|test|train)_\w+|lr|learning_rate)$"
)
_ADAPTERS = re.compile(
    r"(?i)(^|[._/])((w_)?(lora|loha|lokr|dora|ia3)s?([._/]|$)|base_layer\.|linear_[ab]_[qv]\.)"
)
_QUANTIZED = re.compile(
    r"\.(qweight|qzeros|absmax|quant_map|quant_state|SCB|weight_scale(_inv)?|weight_format)\b"
)


@dataclasses.dataclass(frozen=True)
class Tower:
    """An encoder among a checkpoint's names.

    Args:
        names: name in the checkpoint to that without prefix and wrappers.
        prefix: what all of them began with; "" where nothing.
        left_out: what nobody needs: part to how many names.
        unknown: names outside the prefix that may matter.
    """

    names: dict[str, str]
    prefix: str = ""
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What was found and what is left out, a line each."""
        notes = [f"the encoder's names begin with {self.prefix}"] if self.prefix else []
        out = self.left_out.items()
        return notes + [f"left out: {n} weight{'s' * (n > 1)} of {part}" for part, n in out]


def find_tower(sizes: dict[str, int]) -> Tower:
    """Finds the encoder: below whatever prefix its patch embedding has.

    Of several, such as a student and its teacher, that is taken which is meant to be kept: the
    teacher, a moving average, the encoder that others follow.

    Args:
        sizes: a checkpoint's names to how many numbers each has.

    Raises:
        RequestError: if adapters aren't merged, weights are packed as integers, or there are
            several encoders with nothing to tell which one is meant.
    """
    _refuse_unmerged(sizes)
    cleaned = {name: _WRAPPED.sub("", name) for name in sizes}
    found = [m["prefix"] for name in cleaned.values() if (m := _ANCHOR.match(name))]
    tower = _chosen(sorted(set(found)))
    others = tuple(prefix for prefix in set(found) if prefix and not tower.startswith(prefix))
    bare = "" in found and tower  # an encoder without a prefix is another one
    inner = {name[len(tower) :] for name in cleaned.values() if bare and name.startswith(tower)}
    names: dict[str, str] = {}
    left_out: dict[str, int] = {}
    unknown = []
    for origin, name in cleaned.items():
        inside = name.startswith(tower) and not name.startswith(others)
        short = name[len(tower) :] if inside else name
        if name.startswith(others) and not inside:
            part = next(prefix for prefix in others if name.startswith(prefix)).rstrip("./")
        else:
            part = "the other encoder" if name in inner else _useless(short, inside, sizes[origin])
        if part is not None:
            left_out[part] = left_out.get(part, 0) + 1
        elif inside:
            names[origin] = short
        else:
            unknown.append(origin)
    prefix = _shared(list(names)) if found else ""
    return Tower(names, prefix, left_out, tuple(unknown))


def some(names: Collection[str], most: int = 6) -> str:
    """A few of many names, for an error."""
    shown, rest = list(names)[:most], len(names) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "") if shown else "nothing"


def _refuse_unmerged(names):
    if adapters := [name for name in names if _ADAPTERS.search(name)]:
        raise RequestError(
            f"has LoRA weights that aren't merged ({some(adapters, 3)}): merge them first, as "
            "peft's merge_and_unload does"
        )
    if packed := [name for name in names if _QUANTIZED.search(name)]:
        raise RequestError(
            f"is quantized ({some(packed, 3)}): must hold float32, float16 or bfloat16"
        )


def _chosen(prefixes):
    if not prefixes:
        return ""
    ranks = {p: bool(_OTHERS.search(p)) - bool(_KEPT.search(p)) for p in prefixes}
    best = [p for p in prefixes if ranks[p] == min(ranks.values())]
    if len(best) > 1:
        shown = some([p or "no prefix" for p in best])
        raise RequestError(f"has {len(best)} encoders ({shown}): must have one")
    return best[0]


def _shared(names):
    """What all names begin with, up to a dot or slash."""
    ends = [match.end() for match in re.finditer("[./]", names[0])] if names else []
    shared = (names[0][:end] for end in reversed(ends))
    return next((text for text in shared if all(n.startswith(text) for n in names)), "")


def _useless(name, inside, size):
    """What a tensor belongs to that nobody needs; None where it may be needed."""
    if size <= 1 and (counter := _COUNTERS.match(name)):
        return counter[2]
    for part, pattern in _LEFT_OUT:
        if re.match(pattern if inside else rf"(.*[./])?({pattern})", name):
            return part or re.split("[./]", name)[0]
    return None
