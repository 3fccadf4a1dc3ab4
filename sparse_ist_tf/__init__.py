"""Sparse input and sparse models: masked images, a frozen ViT and an IST-trained head.

    import sparse_ist_tf as si

    classifier = si.IstClassifier("packaged:vit_micro", mask_ratio=0.5)
    classifier.fit(images, labels)

What stands in `__all__` is imported when it is first used, TensorFlow with it.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# A name, and the module that has it.
_LAZY = {
    "Encoder": "face.layers",
    "FinishedRun": "runs.finished_run",
    "IstClassifier": "face.classifier",
    "PatchMask": "masks.patch_mask",
    "RequestError": "errors",
    "RunError": "errors",
    "VisiblePatches": "face.layers",
    "get_config": "config",
    "load": "face.classifier",
    "train": "face.runs",
}
__all__ = [
    "Encoder",
    "FinishedRun",
    "IstClassifier",
    "PatchMask",
    "RequestError",
    "RunError",
    "VisiblePatches",
    "get_config",
    "load",
    "train",
]

if TYPE_CHECKING:
    from sparse_ist_tf.config import get_config
    from sparse_ist_tf.errors import RequestError, RunError
    from sparse_ist_tf.face.classifier import IstClassifier, load
    from sparse_ist_tf.face.layers import Encoder, VisiblePatches
    from sparse_ist_tf.face.runs import train
    from sparse_ist_tf.masks.patch_mask import PatchMask
    from sparse_ist_tf.runs.finished_run import FinishedRun


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
