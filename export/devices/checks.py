"""Whether a file is what its target takes: operators, types, delegates."""

import collections
import contextlib
import io

from sparse_ist_tf.export.devices.targets import Target
from sparse_ist_tf.export.files.operators import Op, operators
from sparse_ist_tf.export.files.runtimes import LiteRT


def unmapped(content: bytes, target: Target) -> list[str]:
    """What of a file a target's operators don't cover.

    Returns:
        "OPERATOR xCOUNT REASON" for each operator and reason; empty where all is covered.

    Raises:
        RequestError: if it is no .tflite file.
    """
    counts = collections.Counter((op.name, problem(op, target)) for op in operators(content))
    return [f"{name} x{count} {reason}" for (name, reason), count in counts.items() if reason]


def problem(op: Op, target: Target) -> str:
    """Why a target doesn't take an operator; empty where it does."""
    if op.name.startswith("CUSTOM"):
        return "is not builtin"
    if target.operators is not None:
        if op.name not in target.operators:
            return f"is not in {target.name}'s table"
        rule = target.operators[op.name]
        reason = rule(op) if rule else ""
        if reason:
            return reason
    computed = [(shape, dtype, None) for shape, dtype in op.outputs]
    for shape, dtype, value in (*op.inputs, *computed):
        if target.dtypes is not None and dtype not in target.dtypes:
            return f"has a tensor of type {dtype}"
        if len(shape) > target.max_rank:
            return f"has a tensor of {len(shape)} dimensions, {target.max_rank} are allowed"
        if min(shape, default=1) < 0:
            return "has a tensor of unknown shape"
        outer = shape[: -target.inner_rank] if target.inner_rank and value is None else ()
        if max(outer, default=1) > 1:
            return f"has a tensor with more than {target.inner_rank} dimensions above 1"
    return ""


def check(content: bytes, target: Target, quantize: str, kind: str) -> list[str]:
    """The conditions of a target that a file misses, one line each; budgets of memory apart.

    Raises:
        RequestError: if it is no .tflite file.
    """
    out = []
    if not target.partial or kind == "head":
        out += unmapped(content, target)
    names = {op.name for op in operators(content)}
    if not target.islands and {"QUANTIZE", "DEQUANTIZE"} & names:
        out.append("has QUANTIZE or DEQUANTIZE, which this target does without")
    is_float = quantize in ("float32", "float16")
    if target.gpu and is_float:
        out += _gpu_problems(content)
    if target.xnnpack and is_float and (partitions := LiteRT(content).partitions) != 1:
        out.append(f"is {partitions} XNNPACK partitions, must be 1")
    return out


def _gpu_problems(content: bytes) -> list[str]:
    """What TensorFlow's analyzer finds; that of 2.21 was seen to find nothing, even in Flex."""
    import tensorflow as tf

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tf.lite.experimental.Analyzer.analyze(model_content=content, gpu_compatibility=True)
    lines = [line.strip() for line in printed.getvalue().splitlines()]
    if any("looks compatible with GPU delegate" in line for line in lines):
        return []
    return [line for line in lines if "GPU" in line] or ["the GPU analyzer says nothing good of it"]
