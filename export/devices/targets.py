"""The devices that files are made for, and what each takes.

TARGETS is the one table of it. A user adds a row in a module for `--plugin`, which calls
`register_target(dataclasses.replace(TARGETS["micro"], name="mine", sram=131072))`, or in a JSON
file for `--target_table`:

    {"mine": {"like": "micro", "flash": 524288, "sram": 131072}}
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.errors import RequestError, did_you_mean
from sparse_ist_tf.export.devices.edge_tpu import RULES as EDGE_TPU_RULES
from sparse_ist_tf.export.devices.edge_tpu import Rule
from sparse_ist_tf.export.graphs.interface import QUANTIZATIONS, Interface

_MICRO_NAMES = """
    ABS ADD ADD_N ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
    BROADCAST_TO CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D
    DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE EMBEDDING_LOOKUP ELU EQUAL EXP EXPAND_DIMS FILL FLOOR
    FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH
    L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT
    LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MIRROR_PAD MEAN MINIMUM MUL NEG
    NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE
    SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQUEEZE SQRT SQUARE
    SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE_CONV TRANSPOSE UNPACK
    ZEROS_LIKE
"""
# Every builtin operator that TFLite Micro's MicroMutableOpResolver can register, and how.
# Source: tensorflow/lite/micro/micro_mutable_op_resolver.h of tensorflow/tflite-micro.
MICRO_OPERATORS: dict[str, str] = {
    name: "".join(map(str.capitalize, name.split("_"))).replace("2d", "2D")
    for name in _MICRO_NAMES.split()
} | {"BATCH_MATMUL": "BatchMatMul", "CUMSUM": "CumSum", "PADV2": "PadV2"}


@dataclasses.dataclass(frozen=True)
class Target:
    """One kind of device.

    Args:
        name: as `--target` takes it.
        quantize: the kinds of arithmetic that files may have, the default first; of
            interface.QUANTIZATIONS.
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

_ROWS = (
    Target(
        "phone", ("int8", "float32", "float16", "dynamic", "int16x8"), Interface(softmax=True),
        gpu=True, xnnpack=True
    ),
    Target(
        "coral", ("int8",), Interface("conv", whole_integer=True), EDGE_TPU_RULES, partial=True,
        dtypes=_INTEGERS, inner_rank=3, islands=False,
    ),
    Target(
        "micro", ("int8",), Interface(whole_integer=True), dict.fromkeys(MICRO_OPERATORS),
        dtypes=_INTEGERS, islands=False, interpreter="micro",
    ),
)  # fmt: skip
TARGETS = {target.name: target for target in _ROWS}


def register_target(target: Target) -> None:
    """Adds a row to the table, under the target's name.

    Args:
        target: registering an equal one again changes nothing.

    Raises:
        RequestError: if the name is taken by another, or something in the row can't be.
    """
    _check_quantize(f"target {target.name}", target.quantize)
    if TARGETS.setdefault(target.name, target) != target:
        raise RequestError(f"target={target.name!r}: is registered already, with other values")


def find_target(name: str) -> Target:
    """A row of the table.

    Raises:
        RequestError: if there is none of that name.
    """
    if name not in TARGETS:
        near = did_you_mean(name, TARGETS)
        raise RequestError(f"target={name!r}: must be one of {', '.join(TARGETS)}{near}")
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
        rows = dict(json.loads(Path(path).read_text(encoding="utf-8"))).items()
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
        if "quantize" in changes:
            _check_quantize(f"{path}: {name}", changes["quantize"])
            changes["quantize"] = tuple(changes["quantize"])
        if "operators" in changes:
            rules = like.operators or {}
            changes["operators"] = {op: rules.get(op) for op in changes["operators"]}
        TARGETS[name] = dataclasses.replace(like, name=name, **changes)


def _check_quantize(row: str, quantize: Sequence[str]) -> None:
    if not (quantize and set(quantize) <= set(QUANTIZATIONS)):
        raise RequestError(f"{row}.quantize={quantize}: must be some of {', '.join(QUANTIZATIONS)}")
