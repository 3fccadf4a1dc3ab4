"""The devices that files are made for: what each takes, and the checks that a file must pass.

TARGETS is the one table of it. A user adds a row in Python (`TARGETS["mine"] = dataclasses.replace(
TARGETS["micro"], name="mine", sram=131072)`) or in a JSON file for `--target_table`:

    {"mine": {"like": "micro", "flash": 524288, "sram": 131072}}
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices.edge_tpu import RULES as EDGE_TPU_RULES
from sparse_ist_tf.export.devices.edge_tpu import Rule
from sparse_ist_tf.export.files.operators import Op, operators
from sparse_ist_tf.export.graphs.convert import QUANTIZATIONS, Interface

# Every builtin operator that TFLite Micro's MicroMutableOpResolver can register, and how.
# Source: tensorflow/lite/micro/micro_mutable_op_resolver.h of tensorflow/tflite-micro.
MICRO_OPERATORS: dict[str, str] = dict(
    pair.split(":")
    for pair in [
        "ABS:Abs",
        "ADD:Add",
        "ADD_N:AddN",
        "ARG_MAX:ArgMax",
        "ARG_MIN:ArgMin",
        "AVERAGE_POOL_2D:AveragePool2D",
        "BATCH_MATMUL:BatchMatMul",
        "BATCH_TO_SPACE_ND:BatchToSpaceNd",
        "BROADCAST_ARGS:BroadcastArgs",
        "BROADCAST_TO:BroadcastTo",
        "CAST:Cast",
        "CEIL:Ceil",
        "CONCATENATION:Concatenation",
        "CONV_2D:Conv2D",
        "COS:Cos",
        "CUMSUM:CumSum",
        "DEPTH_TO_SPACE:DepthToSpace",
        "DEPTHWISE_CONV_2D:DepthwiseConv2D",
        "DEQUANTIZE:Dequantize",
        "DIV:Div",
        "DYNAMIC_UPDATE_SLICE:DynamicUpdateSlice",
        "EMBEDDING_LOOKUP:EmbeddingLookup",
        "ELU:Elu",
        "EQUAL:Equal",
        "EXP:Exp",
        "EXPAND_DIMS:ExpandDims",
        "FILL:Fill",
        "FLOOR:Floor",
        "FLOOR_DIV:FloorDiv",
        "FLOOR_MOD:FloorMod",
        "FULLY_CONNECTED:FullyConnected",
        "GATHER:Gather",
        "GATHER_ND:GatherNd",
        "GREATER:Greater",
        "GREATER_EQUAL:GreaterEqual",
        "HARD_SWISH:HardSwish",
        "L2_NORMALIZATION:L2Normalization",
        "L2_POOL_2D:L2Pool2D",
        "LEAKY_RELU:LeakyRelu",
        "LESS:Less",
        "LESS_EQUAL:LessEqual",
        "LOG:Log",
        "LOGICAL_AND:LogicalAnd",
        "LOGICAL_NOT:LogicalNot",
        "LOGICAL_OR:LogicalOr",
        "LOGISTIC:Logistic",
        "LOG_SOFTMAX:LogSoftmax",
        "MAXIMUM:Maximum",
        "MAX_POOL_2D:MaxPool2D",
        "MIRROR_PAD:MirrorPad",
        "MEAN:Mean",
        "MINIMUM:Minimum",
        "MUL:Mul",
        "NEG:Neg",
        "NOT_EQUAL:NotEqual",
        "PACK:Pack",
        "PAD:Pad",
        "PADV2:PadV2",
        "PRELU:Prelu",
        "QUANTIZE:Quantize",
        "REDUCE_ALL:ReduceAll",
        "REDUCE_MAX:ReduceMax",
        "REDUCE_MIN:ReduceMin",
        "RELU:Relu",
        "RELU6:Relu6",
        "RESHAPE:Reshape",
        "RESIZE_BILINEAR:ResizeBilinear",
        "RESIZE_NEAREST_NEIGHBOR:ResizeNearestNeighbor",
        "REVERSE_V2:ReverseV2",
        "ROUND:Round",
        "RSQRT:Rsqrt",
        "SELECT_V2:SelectV2",
        "SHAPE:Shape",
        "SIN:Sin",
        "SLICE:Slice",
        "SOFTMAX:Softmax",
        "SPACE_TO_BATCH_ND:SpaceToBatchNd",
        "SPACE_TO_DEPTH:SpaceToDepth",
        "SPLIT:Split",
        "SPLIT_V:SplitV",
        "SQUEEZE:Squeeze",
        "SQRT:Sqrt",
        "SQUARE:Square",
        "SQUARED_DIFFERENCE:SquaredDifference",
        "STRIDED_SLICE:StridedSlice",
        "SUB:Sub",
        "SUM:Sum",
        "SVDF:Svdf",
        "TANH:Tanh",
        "TRANSPOSE_CONV:TransposeConv",
        "TRANSPOSE:Transpose",
        "UNPACK:Unpack",
        "ZEROS_LIKE:ZerosLike",
    ]
)


@dataclasses.dataclass(frozen=True)
class Target:
    """One kind of device.

    Args:
        name: as `--target` takes it.
        quantize: the kinds of arithmetic that files may have, the default first; of
            convert.QUANTIZATIONS.
        interface: how networks are written, and what their files take and give.
        operators: the operators allowed, each with the condition it must meet; None for every
            builtin one.
        partial: an operator that isn't allowed runs on the device's host: named, not refused, but
            for heads and subnets.
        dtypes: the types that tensors may have; None for all.
        max_rank: most dimensions of a tensor.
        inner_rank: how many of the innermost dimensions may be above 1; 0 for all.
        gpu: must pass TensorFlow's check for the GPU delegate, in float.
        xnnpack: must be one partition of XNNPACK, in float.
        islands: QUANTIZE and DEQUANTIZE may stand in integer files, at the edges.
        interpreter: "litert" or "micro", the runtime that files are measured in.
        flash: bytes that a file may have; 0 for no limit.
        sram: bytes of arena that it may need; 0 for no limit.
    """

    name: str
    quantize: tuple[str, ...]
    interface: Interface = Interface()  # noqa: RUF009
    operators: Mapping[str, Rule | None] | None = None
    partial: bool = False
    dtypes: frozenset[str] | None = None
    max_rank: int = 4
    inner_rank: int = 0
    gpu: bool = False
    xnnpack: bool = False
    islands: bool = True
    interpreter: str = "litert"
    flash: int = 0
    sram: int = 0


_INTEGERS = frozenset({"int8", "int32"})

TARGETS: dict[str, Target] = {
    "phone": Target(
        name="phone",
        quantize=("int8", "float32", "float16", "dynamic", "int16x8"),
        gpu=True,
        xnnpack=True,
    ),
    "coral": Target(
        name="coral",
        quantize=("int8",),
        interface=Interface(form="conv", whole_integer=True),
        operators=EDGE_TPU_RULES,
        partial=True,
        dtypes=_INTEGERS,
        inner_rank=3,
        islands=False,
    ),
    "micro": Target(
        name="micro",
        quantize=("int8",),
        interface=Interface(whole_integer=True),
        operators=dict.fromkeys(MICRO_OPERATORS),
        dtypes=_INTEGERS,
        islands=False,
        interpreter="micro",
    ),
}


def find_target(name: str) -> Target:
    """A row of the table.

    Args:
        name: a key of TARGETS.

    Returns:
        The target.

    Raises:
        RequestError: if there is none of that name.
    """
    if name not in TARGETS:
        raise RequestError(f"target={name!r}: must be one of {', '.join(TARGETS)}")
    return TARGETS[name]


def add_rows(path: str | Path) -> None:
    """Adds the rows of a JSON file to TARGETS.

    Args:
        path: of {name: {"like": an existing row, and what differs: "quantize", "operators" (names),
            "max_rank", "inner_rank", "gpu", "xnnpack", "flash", "sram"}}; "numbers", the name of
            "quantize" in version 0.1.0, is read too.

    Raises:
        RequestError: if the file can't be read, or holds something else.
    """
    allowed = ["quantize", "operators", "max_rank", "inner_rank", "gpu", "xnnpack", "flash", "sram"]
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = dict(table).items()
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"target_table={str(path)!r}: can't be read: {error}") from None
    for name, row in rows:
        if not isinstance(row, dict):
            raise RequestError(f'{path}: {name}: must be a row such as {{"like": "micro"}}')
        like = find_target(row.get("like", ""))
        names = {"numbers": "quantize"}
        changes = {names.get(key, key): value for key, value in row.items() if key != "like"}
        for key, value in changes.items():
            if key not in allowed:
                raise RequestError(f"{path}: {name}.{key}: must be one of {', '.join(allowed)}")
            kind = type(getattr(like, key)) if key not in ("quantize", "operators") else list
            if type(value) is not kind:
                raise RequestError(f"{path}: {name}.{key}={value!r}: must be a {kind.__name__}")
            if key == "quantize" and not (value and set(value) <= set(QUANTIZATIONS)):
                raise RequestError(f"{path}: {name}.quantize={value}: must be of {QUANTIZATIONS}")
        if "quantize" in changes:
            changes["quantize"] = tuple(changes["quantize"])
        if "operators" in changes:
            rules = like.operators or {}
            changes["operators"] = {op: rules.get(op) for op in changes["operators"]}
        TARGETS[name] = dataclasses.replace(like, name=name, **changes)


@dataclasses.dataclass(frozen=True)
class Unmapped:
    """Operators of a file that a target doesn't take.

    Args:
        operator: its name.
        count: how many of them.
        reason: what it lacks.
    """

    operator: str
    count: int
    reason: str


def unmapped(content: bytes, target: Target) -> list[Unmapped]:
    """What of a file a target's operators don't cover, with reasons.

    Args:
        content: a .tflite file.
        target: a row of TARGETS.

    Returns:
        One entry per operator and reason; empty where all is covered.

    Raises:
        RequestError: if it is no .tflite file.
    """
    counts: dict[tuple[str, str], int] = {}
    for op in operators(content):
        reason = problem(op, target)
        if reason:
            counts[op.name, reason] = counts.get((op.name, reason), 0) + 1
    return [Unmapped(name, count, reason) for (name, reason), count in counts.items()]


def problem(op: Op, target: Target) -> str:
    """Why a target doesn't take an operator; empty where it does.

    Args:
        op: of files.operators.
        target: a row of TARGETS.

    Returns:
        A reason, or "".
    """
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
    """The conditions of a target that a file misses; budgets of memory apart.

    Args:
        content: a .tflite file.
        target: a row of TARGETS.
        quantize: as convert.QUANTIZATIONS.
        kind: of the artefact, as graphs.KINDS.

    Returns:
        One line per condition missed; empty for a good file.

    Raises:
        RequestError: if it is no .tflite file.
    """
    out = []
    if not target.partial or kind == "head":
        out += [f"{u.operator} x{u.count} {u.reason}" for u in unmapped(content, target)]
    names = [op.name for op in operators(content)]
    if not target.islands and {"QUANTIZE", "DEQUANTIZE"} & set(names):
        out.append("has QUANTIZE or DEQUANTIZE, which this target does without")
    is_float = quantize in ("float32", "float16")
    if target.gpu and is_float:
        out += _gpu_problems(content)
    if target.xnnpack and is_float:
        from sparse_ist_tf.export.files.runtimes import LiteRT

        partitions = LiteRT(content).partitions
        if partitions != 1:
            out.append(f"is {partitions} XNNPACK partitions, must be 1")
    return out


def _gpu_problems(content: bytes) -> list[str]:
    """What TensorFlow's analyzer finds; that of 2.21 was seen to find nothing, even in Flex."""
    import contextlib
    import io

    import tensorflow as tf

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tf.lite.experimental.Analyzer.analyze(model_content=content, gpu_compatibility=True)
    lines = [line.strip() for line in printed.getvalue().splitlines()]
    if any("looks compatible with GPU delegate" in line for line in lines):
        return []
    return [line for line in lines if "GPU" in line] or ["the GPU analyzer says nothing good of it"]
