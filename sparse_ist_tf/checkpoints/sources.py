"""Where encoders come from: the names before the colon in `encoder.weights`, and who loads them.

A configuration file is Python: one that calls register_encoder, or imports a module that does,
makes the name known to train and its workers. Nothing heavy is imported before it is needed.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sparse_ist_tf.errors import RequestError

if TYPE_CHECKING:
    from sparse_ist_tf.encoder.frozen import FrozenEncoder


class LoadEncoder(Protocol):
    """Makes an encoder."""

    def __call__(self, rest: str, /, *, name: str, dtype: str, **options: Any) -> "FrozenEncoder":
        """Makes an encoder.

        Args:
            rest: what stands behind the colon, without overrides.
            name: all of `encoder.weights`, for the encoder's name.
            dtype: "float32" or "bfloat16", in which the model computes.
            **options: those of load_encoder's other arguments and of parse_weights' overrides that
                are given; one that isn't taken is refused.

        Raises:
            RequestError: if there are no such weights; ValueError and TypeError become one, too.
        """


_LOADING = "sparse_ist_tf.checkpoints.loading:"
_LOADERS: dict[str, LoadEncoder | str] = {
    "packaged": f"{_LOADING}load_packaged",
    "random": f"{_LOADING}load_random",
    "hf": f"{_LOADING}load_hugging_face",
    "keras_hub": f"{_LOADING}load_keras_hub",
    "resnet50": "sparse_ist_tf.encoder.resnet:load_resnet",
}
_BEHIND = {"packaged": "NAME", "random": "PRESET", "hf": "OWNER/MODEL", "keras_hub": "PRESET"}
_BEHIND |= {"resnet50": "WEIGHTS"}


def register_encoder(name: str, load: LoadEncoder) -> None:
    """Makes encoders known as `encoder.weights="NAME:..."`.

    A function of the same name in the same module may take the place of an earlier one.

    Raises:
        ValueError: if the name is no identifier, or taken by another.
    """
    if not name.isidentifier() or len(name) < 2:
        raise ValueError(f"name={name!r}: must be an identifier of two letters or more")
    taken = _LOADERS.get(name, load)
    identity = ("__module__", "__qualname__")  # a configuration file may be read more than once
    if any(getattr(taken, what, "") != getattr(load, what) for what in identity):
        raise ValueError(f"encoders {name!r} are registered already")
    _LOADERS[name] = load


def sources() -> str:
    """What `encoder.weights` may be, for people."""
    return ", ".join(f"{name}:{_BEHIND.get(name, '...')}" for name in _LOADERS) + " or a path"


def find_loader(source: str) -> tuple[LoadEncoder, str]:
    """Who loads an encoder.

    Returns:
        (the function, what it is called with).

    Raises:
        RequestError: if it is neither a known name and a colon nor like a path.
    """
    name, colon, rest = source.partition(":")
    known = bool(colon) and name in _LOADERS
    if colon and not known and name.isidentifier() and len(name) > 1 and not Path(source).exists():
        raise RequestError(f"must be {sources()}")
    load = _LOADERS[name] if known else f"{_LOADING}load_file"
    if isinstance(load, str):
        module, _, function = load.partition(":")
        load = getattr(importlib.import_module(module), function)
    return load, rest if known else source
