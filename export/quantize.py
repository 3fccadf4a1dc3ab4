"""Float .tflite files to fully integer ones, by ranges measured on real inputs.

Every tensor of the file becomes int8 (or int16 with int8 weights), so nothing is converted back
and forth inside. TensorFlow's own post-training quantizer makes float islands of what it has no
rule for, ties the ranges of neighbouring tensors, and keeps every outlier; here a range is what
loses least, and an operator without a rule is an error.

Source: "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (Jacob et al., 2018), section 2; TensorFlow Lite's 8-bit quantization specification.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from sparse_ist_tf.export import flatbuffer
from sparse_ist_tf.export.litert import Interpreter, OpResolverType, schema

from sparse_ist_tf.errors import RunError

# Operators that only move numbers: their inputs and outputs share one scale.
MOVES = frozenset(
    [
        "RESHAPE",
        "GATHER",
        "TRANSPOSE",
        "SPLIT",
        "PAD",
        "STRIDED_SLICE",
        "SLICE",
        "CONCATENATION",
        "SQUEEZE",
    ]
)
COMPUTES = frozenset(
    [
        "FULLY_CONNECTED",
        "CONV_2D",
        "BATCH_MATMUL",
        "ADD",
        "SUB",
        "MUL",
        "MEAN",
        "SUM",
        "RSQRT",
        "GELU",
        "RELU",
    ]
)
# Operators whose output scale the specification fixes: (int8 scale, zero point), int16 scale.
FIXED = {
    "SOFTMAX": ((1 / 256, -128), 1 / 32768),
    "LOGISTIC": ((1 / 256, -128), 1 / 32768),
}
WEIGHTED = ("FULLY_CONNECTED", "CONV_2D")
# The oldest version of each operator that takes int8, and int16.
VERSIONS = {
    "FULLY_CONNECTED": (4, 7), "CONV_2D": (3, 4), "BATCH_MATMUL": (2, 3), "ADD": (2, 4),
    "SUB": (3, 5), "MUL": (2, 4), "MEAN": (2, 3), "SUM": (2, 2), "RSQRT": (2, 3),
    "SOFTMAX": (2, 3), "LOGISTIC": (2, 3), "GATHER": (2, 4), "TRANSPOSE": (2, 4),
    "SPLIT": (2, 4), "PAD": (2, 3), "STRIDED_SLICE": (2, 4), "SLICE": (2, 4),
    "CONCATENATION": (2, 3), "GELU": (2, 2), "RELU": (2, 3),
}  # fmt: skip
_BINS = 2048
_SEEN = 4096  # numbers of a tensor that a sample adds to its histogram


@dataclasses.dataclass(frozen=True)
class Scale:
    """How the numbers of a tensor are written: value = scale * (integer - zero).

    Args:
        scale: above 0.
        zero: the integer that stands for 0.

    Example:
        >>> from sparse_ist_tf.export.quantize import Scale
        >>> Scale(0.5).zero
        0
    """

    scale: float
    zero: int = 0


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What to make of a float file.

    Args:
        bits: of activations, 8 or 16; weights are int8 in both.
        per_channel: a scale for each output channel of a matrix, or one for all.
        inputs: per input name "uint8" (raw bytes; for pixels), "int8" or "float32" (converted by a
            QUANTIZE at the very start).
        outputs: "int8", or "float32" (converted by a DEQUANTIZE at the very end).
        known: per input name its range, for pixels and one-hot rows; others are measured.

    Example:
        >>> from sparse_ist_tf.export.quantize import Scheme
        >>> Scheme(bits=16).bits
        16
    """

    bits: int = 8
    per_channel: bool = True
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    outputs: str = "float32"
    known: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


def calibrate(content: bytes, samples: Callable[[], Iterable[Mapping[str, np.ndarray]]], bits: int):
    """Measures the range of every float tensor of a file on real inputs.

    For 8 bits a range is the one that loses least: of some hundred ways to cut the measured
    histogram, that with the smallest mean squared error of cutting and rounding together. For 16
    it is twice what was seen: a lost bit costs nothing there, a cut value does.

    Args:
        content: a float .tflite file.
        samples: makes an iterator of inputs by signature name, batch 1; called twice.
        bits: 8 or 16.

    Returns:
        Tensor index to (low, high).

    Raises:
        RunError: if there are no samples, or a value is not finite.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.export.convert import convert
        >>> from sparse_ist_tf.export.folding import Affine
        >>> from sparse_ist_tf.export.graphs import Network
        >>> head = Network("head", (Affine(np.ones((4, 2)), np.zeros(2)),))
        >>> content = convert(head, "float32")
        >>> from sparse_ist_tf.export.quantize import calibrate, input_indices
        >>> samples = lambda: [{"feature": np.full((1, 4), 0.5, "float32")}]
        >>> ranges = calibrate(content, samples, bits=8)
        >>> input_indices(content)["feature"] in ranges
        True
    """
    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    inputs = input_indices(content)
    computed = {index for op in interpreter._get_ops_details() for index in op["outputs"]}
    computed |= set(inputs.values())
    watched = [
        t["index"]
        for t in interpreter.get_tensor_details()
        if t["dtype"] == np.float32 and t["index"] in computed
    ]

    def run_all():
        for sample in samples():
            for name, index in inputs.items():
                interpreter.set_tensor(index, sample[name])
            interpreter.invoke()
            for index in watched:
                yield index, interpreter.get_tensor(index)

    lows = dict.fromkeys(watched, np.inf)
    highs = dict.fromkeys(watched, -np.inf)
    for index, value in run_all():
        lows[index] = min(lows[index], float(value.min()))
        highs[index] = max(highs[index], float(value.max()))
    for index in watched:
        if not np.isfinite(lows[index]) or not np.isfinite(highs[index]):
            raise RunError("calibration: no samples, or a tensor that is not finite")
    spans = {index: (min(lows[index], 0.0), max(highs[index], 0.0)) for index in watched}
    if bits == 16:
        return {index: (2 * low, 2 * high) for index, (low, high) in spans.items()}
    counts = {index: np.zeros(_BINS) for index in watched}
    turns = dict.fromkeys(watched, 0)
    for index, value in run_all():
        low, high = spans[index]
        if high > low:
            # An odd stride walks through all channels; each sample starts at another place.
            stride = max(1, value.size // _SEEN) | 1
            turns[index] += 1
            part = value.ravel()[turns[index] % stride :: stride]
            places = (part - low) * (_BINS / (high - low))
            places = np.minimum(places.astype(np.int64), _BINS - 1)
            counts[index] += np.bincount(places, minlength=_BINS)
    return {index: best_range(counts[index], *spans[index]) for index in watched}


def best_range(counts: np.ndarray, low: float, high: float, levels: int = 255):
    """The part of a histogram's span that int8 renders with the smallest mean squared error.

    Args:
        counts: of values in equal bins from low to high.
        low: at most 0.
        high: at least 0.
        levels: integers less one.

    Returns:
        (low, high), inside the span, around 0.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.export.quantize import best_range
        >>> best_range(np.ones(2048), -1.0, 1.0)
        (-1.0, 1.0)
    """
    if not high > low or not counts.sum():
        return low, high
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    weights = counts / counts.sum()

    def loss(a, b):
        step = (b - a) / levels
        cut = np.maximum(a - centres, 0) + np.maximum(centres - b, 0)
        return float((weights * cut**2).sum() + step**2 / 12 * weights[cut == 0].sum())

    best = (low, high)
    least = loss(*best)
    # Both ends in turn, each over the fractions of its side.
    for _ in range(2):
        for side in (0, 1):
            for fraction in np.geomspace(1.0, 0.05, 60):
                trial = list(best)
                trial[side] = (low, high)[side] * fraction
                value = loss(*trial) if trial[1] > trial[0] else np.inf
                if value < least:
                    best, least = tuple(trial), value
    return best


def input_indices(content: bytes) -> dict[str, int]:
    """Tensor index of each input, by its name in the signature.

    Args:
        content: a .tflite file with one signature.

    Returns:
        Index by name.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.export.convert import convert
        >>> from sparse_ist_tf.export.folding import Affine
        >>> from sparse_ist_tf.export.graphs import Network
        >>> head = Network("head", (Affine(np.ones((4, 2)), np.zeros(2)),))
        >>> content = convert(head, "float32")
        >>> from sparse_ist_tf.export.quantize import input_indices
        >>> list(input_indices(content))
        ['feature']
    """
    model = flatbuffer.parse(content)
    definition = model.signatureDefs[0]
    return {flatbuffer.text(entry.name): entry.tensorIndex for entry in definition.inputs}


def quantize(content: bytes, ranges: Mapping[int, tuple[float, float]], scheme: Scheme) -> bytes:
    """Makes a float file fully integer.

    Args:
        content: a float .tflite file with one subgraph and one signature.
        ranges: by tensor index, of calibrate().
        scheme: the types wanted.

    Returns:
        The integer file.

    Raises:
        RunError: if an operator has no rule.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.export.convert import convert
        >>> from sparse_ist_tf.export.folding import Affine
        >>> from sparse_ist_tf.export.graphs import Network
        >>> head = Network("head", (Affine(np.ones((4, 2)), np.zeros(2)),))
        >>> content = convert(head, "float32")
        >>> from sparse_ist_tf.export import flatbuffer
        >>> from sparse_ist_tf.export.quantize import Scheme, calibrate, quantize
        >>> samples = lambda: [{"feature": np.full((1, 4), 0.5, "float32")}]
        >>> small = quantize(content, calibrate(content, samples, 8), Scheme())
        >>> "FULLY_CONNECTED" in [op.name for op in flatbuffer.operators(small)]
        True
    """
    return _Rewriter(content, ranges, scheme).run()


class _Rewriter:
    def __init__(self, content, ranges, scheme):
        self.model = flatbuffer.parse(content)
        self.graph = self.model.subgraphs[0]
        self.ranges, self.scheme = ranges, scheme
        self.inputs = {index: name for name, index in input_indices(content).items()}
        self.kind = {8: schema.TensorType.INT8, 16: schema.TensorType.INT16}[scheme.bits]
        self.limit = 2 ** (scheme.bits - 1) - 1
        self.is_float = [t.type == schema.TensorType.FLOAT32 for t in self.graph.tensors]
        self.values = [flatbuffer.constant(self.model, t) for t in self.graph.tensors]

    def run(self) -> bytes:
        operators = list(self.graph.operators)
        self.names = [flatbuffer.op_name(self.model, op) for op in operators]
        for name in self.names:
            if name not in MOVES | COMPUTES | set(FIXED):
                raise RunError(f"quantization: operator {name} has no rule")
        self.scales = self._choose_scales(operators)
        out = []
        for name, operator in zip(self.names, operators, strict=True):
            self._rewrite_constants(name, operator)
            out.append(operator)
        self.graph.operators = out
        for index, scale in self.scales.items():
            self._set(self.graph.tensors[index], self.kind, [scale.scale], [scale.zero])
        for index, name in self.inputs.items():
            if self.is_float[index]:
                self._open_input(index, self.scheme.inputs.get(name, "float32"))
        if self.scheme.outputs == "float32":
            self._close_output()
        for name in dict.fromkeys(self.names):
            version = VERSIONS.get(name, (1, 1))[self.scheme.bits == 16]
            flatbuffer.operator_code(self.model, name, version)
        return flatbuffer.pack(self.model)

    def _activations(self, operator):
        """Inputs and outputs of an operator that are floats and no constants."""
        every = [int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0]
        return [i for i in every if self.is_float[i] and self.values[i] is None]

    def _choose_scales(self, operators) -> dict[int, Scale]:
        parent: dict[int, int] = {}

        def root(index):
            while parent.setdefault(index, index) != index:
                index = parent[index]
            return index

        sources: dict[int, tuple[str, int]] = {}
        for index in self.inputs:
            if self.is_float[index]:
                sources[index] = ("INPUT", index)
        for name, operator in zip(self.names, operators, strict=True):
            touched = self._activations(operator)
            for index in touched:
                root(index)
            if not touched:
                continue
            if name in MOVES:
                for index in touched[1:]:
                    parent[root(index)] = root(touched[0])
                if not any(int(i) in touched for i in operator.inputs):
                    # A constant table: its own range is that of the rows taken from it.
                    for index in operator.outputs:
                        sources[int(index)] = (name, int(operator.inputs[0]))
            else:
                for index in operator.outputs:
                    sources[int(index)] = (name, int(index))
        groups: dict[int, list[tuple[str, int]]] = {}
        for index, source in sources.items():
            groups.setdefault(root(index), []).append(source)
        scales = {group: self._scale_of(members) for group, members in groups.items()}
        return {index: scales[root(index)] for index in parent}

    def _scale_of(self, members) -> Scale:
        name, _ = members[0]
        if name in FIXED:
            return Scale(*FIXED[name][0]) if self.scheme.bits == 8 else Scale(FIXED[name][1])
        spans = [self._span(name, index) for name, index in members]
        return self._scale(min(low for low, _ in spans), max(high for _, high in spans))

    def _span(self, name, index):
        if name == "INPUT" and self.inputs[index] in self.scheme.known:
            return self.scheme.known[self.inputs[index]]
        if self.values[index] is not None:
            return float(self.values[index].min()), float(self.values[index].max())
        return self.ranges[index]

    def _scale(self, low: float, high: float) -> Scale:
        low, high = min(low, 0.0), max(high, 0.0)
        if high == low:
            return Scale(1.0)
        if self.scheme.bits == 16:
            return Scale(max(-low, high) / self.limit)
        scale = (high - low) / 255
        return Scale(scale, int(np.clip(round(-128 - low / scale), -128, 127)))

    def _rewrite_constants(self, name, operator):
        """Constants get integers of their own for each operator that uses them."""
        places = [(p, int(i)) for p, i in enumerate(operator.inputs) if i >= 0]
        places = [(p, i) for p, i in places if self.is_float[i] and self.values[i] is not None]
        inputs = list(operator.inputs)
        weights = None
        for place, index in places:
            value = self.values[index].astype(np.float64)
            if name in WEIGHTED and place == 1:
                weights = self._weight_scales(value)
                shape = (-1,) + (1,) * (value.ndim - 1)
                integers = np.round(value / weights.reshape(shape)).astype(np.int8)
                inputs[place] = self._new_constant(index, integers, weights)
            elif name in WEIGHTED and place == 2:
                steps = self.scales[int(operator.inputs[0])].scale * weights
                kind = np.int32 if self.scheme.bits == 8 else np.int64
                top = float(np.iinfo(np.int32).max)  # int64 adds room, not range
                integers = np.clip(np.round(value / steps), -top, top).astype(kind)
                inputs[place] = self._new_constant(index, integers, steps)
            else:
                scale = self._constant_scale(name, operator, value)
                low, high = (-128, 127) if self.scheme.bits == 8 else (-self.limit, self.limit)
                integers = np.clip(np.round(value / scale.scale) + scale.zero, low, high)
                integers = integers.astype(np.int8 if self.scheme.bits == 8 else np.int16)
                inputs[place] = self._new_constant(index, integers, [scale.scale], [scale.zero])
        operator.inputs = inputs

    def _constant_scale(self, name, operator, value):
        if name in MOVES:
            return self.scales[int(operator.outputs[0])]
        return self._scale(float(value.min()), float(value.max()))

    def _weight_scales(self, value) -> np.ndarray:
        axes = tuple(range(1, value.ndim)) if self.scheme.per_channel else None
        top = np.atleast_1d(np.abs(value).max(axis=axes))
        return np.where(top > 0, top, 1.0) / 127

    def _new_constant(self, like, integers, scales, zeros=None):
        tensor = schema.TensorT()
        old = self.graph.tensors[like]
        tensor.name, tensor.shape = old.name, list(flatbuffer.shape_of(old))
        tensor.shapeSignature, tensor.hasRank = old.shapeSignature, old.hasRank
        tensor.buffer = flatbuffer.add_buffer(self.model, integers)
        kind = getattr(schema.TensorType, integers.dtype.name.upper())
        zeros = [0] * len(scales) if zeros is None else zeros
        self._set(tensor, kind, scales, zeros)
        return self._append(tensor, integers)

    def _append(self, tensor, value=None) -> int:
        self.graph.tensors.append(tensor)
        self.is_float.append(tensor.type == schema.TensorType.FLOAT32)
        self.values.append(value)
        return len(self.graph.tensors) - 1

    @staticmethod
    def _set(tensor, kind, scales, zeros):
        tensor.type = kind
        quantization = schema.QuantizationParametersT()
        quantization.scale = np.asarray(scales, np.float32)
        quantization.zeroPoint = np.asarray(zeros, np.int64)
        quantization.quantizedDimension = 0
        tensor.quantization = quantization

    def _like(self, index, suffix, kind, scale: Scale | None) -> int:
        old = self.graph.tensors[index]
        tensor = schema.TensorT()
        tensor.name = flatbuffer.text(old.name) + suffix
        tensor.shape = list(flatbuffer.shape_of(old))
        tensor.shapeSignature, tensor.hasRank = old.shapeSignature, old.hasRank
        tensor.type, tensor.buffer = kind, 0
        if scale is not None:
            self._set(tensor, kind, [scale.scale], [scale.zero])
        return self._append(tensor)

    def _convert(self, before: int, source: int, target: int):
        """Puts a QUANTIZE or DEQUANTIZE from source to target before an operator's place."""
        to_float = self.graph.tensors[target].type == schema.TensorType.FLOAT32
        operator = schema.OperatorT()
        name = "DEQUANTIZE" if to_float else "QUANTIZE"
        version = 3 if to_float and self.scheme.bits == 16 else 2
        operator.opcodeIndex = flatbuffer.operator_code(self.model, name, version)
        operator.inputs, operator.outputs = [source], [target]
        self.graph.operators.insert(before, operator)

    def _open_input(self, index: int, wanted: str):
        """Gives an input the type that the outside has; pixels stay bytes while they are moved."""
        if wanted == "int8":
            return
        scale = self.scales[index]
        if wanted == "float32":
            outside = self._like(index, "_float", schema.TensorType.FLOAT32, None)
            self._convert(0, outside, index)
            self._rename_input(index, outside)
            return
        bytes_scale = Scale(1.0, 128)
        moved = {index}
        for operator in list(self.graph.operators):
            name = flatbuffer.op_name(self.model, operator)
            if name in MOVES and int(operator.inputs[0]) in moved:
                moved |= {int(i) for i in operator.outputs}
        for tensor in sorted(moved):
            users = [op for op in self.graph.operators if tensor in [int(i) for i in op.inputs]]
            users = [op for op in users if flatbuffer.op_name(self.model, op) not in MOVES]
            if users:
                inside = self._like(tensor, "_int", self.kind, scale)
                for op in users:
                    op.inputs = [inside if int(i) == tensor else int(i) for i in op.inputs]
                before = min(list(self.graph.operators).index(op) for op in users)
                if self.scheme.bits == 8:
                    self._convert(before, tensor, inside)
                else:
                    middle = self._like(tensor, "_float", schema.TensorType.FLOAT32, None)
                    self._convert(before, tensor, middle)
                    self._convert(before + 1, middle, inside)
        for tensor in moved:
            scales = [bytes_scale.scale], [bytes_scale.zero]
            self._set(self.graph.tensors[tensor], schema.TensorType.UINT8, *scales)

    def _rename_input(self, old: int, new: int):
        self.graph.inputs = [new if int(i) == old else int(i) for i in self.graph.inputs]
        for definition in self.model.signatureDefs:
            for entry in definition.inputs:
                if entry.tensorIndex == old:
                    entry.tensorIndex = new

    def _close_output(self):
        index = int(self.graph.outputs[0])
        outside = self._like(index, "_float", schema.TensorType.FLOAT32, None)
        self._convert(len(self.graph.operators), index, outside)
        self.graph.outputs = [outside]
        for definition in self.model.signatureDefs:
            for entry in definition.outputs:
                entry.tensorIndex = outside
