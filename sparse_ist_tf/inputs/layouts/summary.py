"""What a training says of the data that it found."""

from collections.abc import Mapping

import numpy as np

from sparse_ist_tf.errors import printable
from sparse_ist_tf.inputs.split import Split

_EACH = 10  # classes that are counted one by one


def summary(name: str, splits: Mapping[str, Split]) -> str:
    """Some lines: classes with their counts, parts, and what was passed over.

    Args:
        name: as dataset.name.
        splits: "train" and "test".

    Example:
        >>> from sparse_ist_tf.inputs import datasets
        >>> from sparse_ist_tf.inputs.layouts.summary import summary
        >>> print(summary("digits", datasets.load("digits")))
        data: digits, 10 classes, 1,437 images to train on and 360 to test
          0 142 + 36, 1 146 + 36, 2 142 + 35, 3 146 + 37, 4 145 + 36, 5 145 + 37, 6 145 + 36, 7 143 + 36, 8 139 + 35, 9 144 + 36
    """  # noqa: E501
    train, test = splits["train"], splits["test"]
    names = [printable(label) for label in train.class_names]
    counts = [np.bincount(split.labels, minlength=len(names)) for split in (train, test)]
    told = (
        f"data: {printable(name)}, {len(names):,} classes, {train.size:,} images to train on and "
    )
    lines = [f"{told}{test.size:,} to test"]
    if len(names) <= _EACH:
        each = zip(names, *counts, strict=True)
        lines.append(", ".join(f"{label} {some:,} + {more:,}" for label, some, more in each))
    else:
        least, most = int(counts[0].argmin()), int(counts[0].argmax())
        lines.append(
            f"{counts[0][least]:,} ({names[least]}) to {counts[0][most]:,} ({names[most]}) of a "
            f"class to train on, {counts[1].min():,} to {counts[1].max():,} to test"
        )
    return "\n  ".join([*lines, *train.notes])
