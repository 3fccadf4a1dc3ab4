"""What networks are called and how they may be written; nothing here imports TensorFlow."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from sparse_ist_tf.errors import RequestError

QUANTIZATIONS = ("float32", "float16", "dynamic", "int8", "int16x8")
INTEGERS = ("int8", "int16x8")
PIXELS = ("image", "patches")
FORMS = ("matmul", "conv")
KINDS = ("head", "encoder", "classifier", "classifier_sensor", "classifier_patches")
CLASSIFIERS = KINDS[2:]
OF_IMAGES = ("classifier", "classifier_sensor")  # under one mask, which they hold


@dataclasses.dataclass(frozen=True)
class Interface:
    """In what form a network is written, and what its file takes and gives.

    Args:
        form: "matmul" or "conv", see forms.py.
        whole_integer: False: pixels as uint8, features as float32, outputs as float32. True: all
            int8, a pixel being its byte less 128; only for int8 files.
        per_channel: a weight scale for each output channel, or one for a whole matrix.
        softmax: classifiers give probabilities instead of logits; not where all is int8.

    Raises:
        RequestError: if the form isn't known, or softmax goes with whole_integer.
    """

    form: str = "matmul"
    whole_integer: bool = False
    per_channel: bool = True
    softmax: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise RequestError(f"form={self.form!r}: must be one of {', '.join(FORMS)}")
        if self.softmax and self.whole_integer:
            raise RequestError("softmax: int8 has too few numbers for probabilities; take logits")

    def output(self, kind: str) -> str:
        """The name of what a file of a kind, of KINDS, gives."""
        if kind == "encoder":
            return "feature"
        return "probabilities" if self.softmax and kind in CLASSIFIERS else "logits"


def example_for(kind: str, example: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """An example of Images as files of a kind take it: of a sensor's pixels, or the encoder's."""
    return {**example, "image": example["picture"]} if kind == "classifier_sensor" else example
