"""What the Edge TPU takes, by the published table, and by its compiler where that is installed.

Source: coral.ai, "TensorFlow models on the Edge TPU", tables of model requirements and of supported
operations; those of runtime 14, which the last compiler (16.0) writes for.
"""

import collections
import dataclasses
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.files.operators import Op, operators

# An operator's condition: the reason why it isn't met, or an empty string.
Rule = Callable[[Op], str]
COMPILER = "edgetpu_compiler"
SOFTMAX_ELEMENTS = 16_000


def _no_activation(op: Op) -> str:
    return "has a fused activation" if getattr(op.options, "fusedActivationFunction", 0) else ""


def _concatenation(op: Op) -> str:
    constants = [value for _, _, value in op.inputs if value is not None]
    if constants and (len(op.inputs) != 2 or np.any(constants[0])):
        return "joins a constant that isn't zero padding"
    return _no_activation(op)


def _dilation(op: Op) -> str:
    options = op.options
    same = options is None or options.dilationWFactor == options.dilationHFactor
    if op.inputs[1][2] is None:
        return "has a kernel that isn't constant"
    return "" if same else "is dilated differently in x and y"


def _fully_connected(op: Op) -> str:
    if op.inputs[1][2] is None:
        return "has weights that aren't constant"
    if getattr(op.options, "weightsFormat", 0):
        return "has shuffled weights"
    return "" if max(op.outputs[0][0][:-1], default=1) == 1 else "has more than one row of outputs"


def _batch_untouched(op: Op) -> str:
    axes = op.inputs[1][2]
    if axes is None:
        return "has axes that aren't constant"
    rank = len(op.inputs[0][0])
    return "works on the batch axis" if 0 in (np.ravel(axes) % rank) and rank > 1 else ""


def _mean(op: Op) -> str:
    axes, shape = op.inputs[1][2], op.inputs[0][0]
    deep = axes is not None and (len(shape) - 1) in (np.ravel(axes) % len(shape))
    if deep and shape[-1] % 4:
        return "reduces a z axis that isn't a multiple of 4"
    return _batch_untouched(op)


def _pad(op: Op) -> str:
    padding = op.inputs[1][2]
    if padding is None:
        return "has a padding that isn't constant"
    batch = len(op.inputs[0][0]) == 4 and np.any(padding[0])
    return "pads the batch axis" if batch else ""


def _softmax(op: Op) -> str:
    shape = op.inputs[0][0]
    if max(shape[:-1], default=1) > 1:
        return "has more than one row, only vectors are taken"
    count = shape[-1]
    return "" if count <= SOFTMAX_ELEMENTS else f"has {count} elements, at most 16,000 are taken"


def _split(op: Op) -> str:
    axis, rank = op.inputs[0][2], len(op.inputs[1][0])
    if axis is None:
        return "has an axis that isn't constant"
    return "splits the batch axis" if int(np.ravel(axis)[0]) % rank == 0 and rank == 4 else ""


def _strided_slice(op: Op) -> str:
    strides = op.inputs[3][2]
    if strides is None or np.any(strides != 1):
        return "has strides other than 1"
    masks = op.options is not None and (op.options.ellipsisMask or op.options.newAxisMask)
    return "has an ellipsis or a new axis" if masks else ""


# The operators that are taken, each with its condition.
RULES: dict[str, Rule | None] = dict.fromkeys(
    ("ADD", "EXPAND_DIMS", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "PACK",
     "QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RSQRT", "SLICE", "SPACE_TO_DEPTH",
     "SQUARED_DIFFERENCE", "SQUEEZE", "SUB", "TANH", "TRANSPOSE")
) | {
    "AVERAGE_POOL_2D": _no_activation, "CONCATENATION": _concatenation, "CONV_2D": _dilation,
    "DEPTHWISE_CONV_2D": _dilation, "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _no_activation, "MEAN": _mean, "PAD": _pad, "REDUCE_MAX": _batch_untouched,
    "REDUCE_MIN": _batch_untouched, "SOFTMAX": _softmax, "SPLIT": _split,
    "STRIDED_SLICE": _strided_slice, "SUM": _batch_untouched,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mapping:
    """How much of a file an Edge TPU runs."""

    operators: int  # how many of its operators are mapped
    total: int  # how many there are
    # Share of the compute that is mapped, in [0, 1]: multiply-accumulates, or elements written by
    # an operator that has none.
    work: float
    decided_by: str  # "table" or "edgetpu_compiler"
    log: tuple[str, ...] = ()  # the compiler's own lines per operator, empty for the table

    def sentence(self) -> str:
        """For the printed table."""
        by = "edgetpu_compiler" if self.decided_by == COMPILER else "the published table"
        share = f"{100 * self.work:.1f} % of the compute"
        return f"{self.operators} of {self.total} operators, {share}, by {by}"


def mapping(content: bytes, problem: Callable[[Op], str]) -> Mapping:
    """How much of a file an Edge TPU runs.

    The compiler maps one piece from the inputs on: what comes behind an operator that isn't taken
    stays on the host, whatever it is.

    It is asked where it is installed; else the table is, by problem(), which says why an operator
    isn't taken, or nothing.

    Raises:
        RunError: if the compiler fails.
    """
    ops = operators(content)
    left: set[int] = set()
    mapped = []
    for op, node in zip(ops, flatbuffer.read(content).subgraphs[0].operators, strict=True):
        taken = not problem(op) and left.isdisjoint(node.inputs)
        if not taken:
            left.update(node.outputs)
        mapped.append(taken)
    work = sum(op.work for op, taken in zip(ops, mapped, strict=True) if taken)
    share = work / max(1, sum(op.work for op in ops))
    if shutil.which(COMPILER) is None:
        return Mapping(sum(mapped), len(mapped), share, "table")
    return _by_compiler(content, ops)


def parse_log(log: str) -> dict[str, collections.Counter[str]]:
    """The table that `edgetpu_compiler --show_operations` prints: operator to {status: count}."""
    out: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    rows = re.findall(r"^([A-Z0-9_]+)\s+(\d+)\s+(\S.*?)\s*$", log, re.MULTILINE)
    for name, count, status in rows:
        out[name][status] += int(count)
    return out


def _by_compiler(content: bytes, ops: list[Op]) -> Mapping:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        command = [COMPILER, "--show_operations", "--out_dir", folder, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = parse_log(done.stdout)
    if done.returncode or not found:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise RunError(f"{COMPILER} failed: {lines[-1] if lines else done.returncode}")
    count, work, total = 0, 0.0, 0.0
    for name, statuses in found.items():
        here = sum(op.work for op in ops if op.name == name)
        mapped = statuses["Mapped to Edge TPU"]
        count += mapped
        # The log doesn't say which ones: an operator's kind counts by its share.
        work += here * mapped / max(1, sum(statuses.values()))
        total += here
    lines = tuple(f"{n} {c} {s}" for n, counts in found.items() for s, c in counts.items())
    return Mapping(count, len(ops), work / max(1.0, total), COMPILER, lines)
