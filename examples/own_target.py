"""A device of one's own: a microcontroller with little memory and the operators of its firmware.

    python -m sparse_ist_tf.export --run=runs/digits --plugin=examples/own_target.py --target=badge

A target is a row: what files may be made of, which operators the device has and on what condition,
and how much memory there is. Files are proven against the row before they are kept.
"""

import dataclasses

from sparse_ist_tf.export.devices.targets import TARGETS, register_target
from sparse_ist_tf.export.files.operators import Op


def narrow(op: Op) -> str:
    """A condition of an operator: the reason why it is missed, or an empty string."""
    width = op.inputs[1][0][1]  # of the weights: shape, type and value
    return f"is {width} wide, 512 are allowed" if width > 512 else ""


register_target(
    dataclasses.replace(
        TARGETS["micro"],
        name="badge",
        interpreter="litert",  # proven without TFLite Micro, whose wheel isn't everywhere
        operators={"FULLY_CONNECTED": narrow, "RELU": None},
        flash=256 * 1024,
    )
)
