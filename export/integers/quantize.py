"""Float .tflite files to fully integer ones, by ranges measured on real inputs.

Every tensor of the file becomes int8 (or int16 with int8 weights), so nothing is converted back
and forth inside. TensorFlow's own post-training quantizer makes float islands of what it has no
rule for, ties the ranges of neighbouring tensors, and keeps every outlier; here a range is what
loses least, and an operator without a rule is an error.

Source: "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (Jacob et al., 2018), section 2; TensorFlow Lite's 8-bit quantization specification.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.files.runtimes import ports
from sparse_ist_tf.export.integers.memory import Memory, digest
from sparse_ist_tf.export.integers.rounding import Inputs, round_weights

# Operators that only move numbers: their inputs and outputs share one scale.
MOVES = frozenset(
    ("RESHAPE", "GATHER", "TRANSPOSE", "SPLIT", "PAD", "STRIDED_SLICE", "SLICE", "CONCATENATION",
     "SQUEEZE")
)  # fmt: skip
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


@dataclasses.dataclass(frozen=True)
class Scale:
    """How the numbers of a tensor are written: value = scale * (integer - zero).

    Args:
        scale: above 0.
        zero: the integer that stands for 0.
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
    """

    bits: int = 8
    per_channel: bool = True
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    outputs: str = "float32"
    known: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


def to_integers(
    content: bytes,
    ranges: Mapping[int, tuple[float, float]],
    scheme: Scheme,
    inputs: Mapping[int, Inputs] | None = None,
    memory: Memory | None = None,
) -> bytes:
    """Makes a float file fully integer.

    Args:
        content: a float .tflite file with one subgraph and one signature.
        ranges: by tensor index, of ranges.calibrate().
        scheme: the types wanted.
        inputs: by operator index, of rounding.measure_inputs(); the weights of other operators are
            rounded to the nearest integer.
        memory: of the files before.

    Raises:
        RunError: if an operator has no rule.
    """
    memory = Memory() if memory is None else memory
    return _Rewriter(content, ranges, scheme, inputs or {}, memory).run()


class _Rewriter:
    def __init__(self, content, ranges, scheme, measured, memory):
        self.model = flatbuffer.parse(content)
        self.graph = self.model.subgraphs[0]
        self.ranges, self.scheme, self.measured = ranges, scheme, measured
        self.memory = memory
        self.inputs = {port.index: port.name for port in ports(content)[0]}
        self.kind = {8: schema.TensorType.INT8, 16: schema.TensorType.INT16}[scheme.bits]
        self.limit = 2 ** (scheme.bits - 1) - 1
        self.is_float = [t.type == schema.TensorType.FLOAT32 for t in self.graph.tensors]
        self.values = [flatbuffer.constant(self.model, t) for t in self.graph.tensors]

    def run(self) -> bytes:
        operators = list(self.graph.operators)
        self.names = [flatbuffer.op_name(self.model, op) for op in operators]
        for name in self.names:
            if name not in MOVES | VERSIONS.keys():
                raise RunError(f"quantization: operator {name} has no rule")
        self.scales = self._choose_scales(operators)
        for place, (name, operator) in enumerate(zip(self.names, operators, strict=True)):
            self._rewrite_constants(name, operator, self.measured.get(place))
        for index, scale in self.scales.items():
            self._set(self.graph.tensors[index], self.kind, [scale.scale], [scale.zero])
        for index, name in self.inputs.items():
            if self.is_float[index]:
                self._open_input(index, self.scheme.inputs.get(name, "float32"))
        if self.scheme.outputs == "float32":
            index = self.graph.outputs[0]
            outside = self._like(index, "_float")
            self._convert(len(self.graph.operators), index, outside)
            self._expose(outside, index)
        for name in dict.fromkeys(self.names):
            version = VERSIONS.get(name, (1, 1))[self.scheme.bits == 16]
            flatbuffer.operator_code(self.model, name, version)
        return flatbuffer.pack(self.model)

    def _activations(self, operator):
        """Inputs and outputs of an operator that are floats and no constants."""
        every = [i for i in (*operator.inputs, *operator.outputs) if i >= 0]
        return [i for i in every if self.is_float[i] and self.values[i] is None]

    def _constants(self, operator):
        """(place among an operator's inputs, tensor) of those that are floats and constants."""
        every = [(place, i) for place, i in enumerate(operator.inputs) if i >= 0]
        return [(p, i) for p, i in every if self.is_float[i] and self.values[i] is not None]

    def _choose_scales(self, operators) -> dict[int, Scale]:
        parent: dict[int, int] = {}

        def root(index):
            while parent.setdefault(index, index) != index:
                index = parent[index]
            return index

        # Where the range of a group comes from: (a tensor of the group, (operator, tensor)).
        sources = [(index, ("INPUT", index)) for index in self.inputs if self.is_float[index]]
        for name, operator in zip(self.names, operators, strict=True):
            touched = self._activations(operator)
            for index in touched:
                root(index)
            if not touched:
                continue
            if name in MOVES:
                for index in touched[1:]:
                    parent[root(index)] = root(touched[0])
                # A constant among the inputs, such as a table, brings its own range.
                sources += [(touched[0], (name, i)) for _, i in self._constants(operator)]
            else:
                sources += [(index, (name, index)) for index in operator.outputs]
        groups: dict[int, list[tuple[str, int]]] = {}
        for index, source in sources:
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

    def _rewrite_constants(self, name, operator, measured: Inputs | None):
        """Constants get integers of their own for each operator that uses them."""
        inputs = list(operator.inputs)
        weights, shift = None, 0.0
        for place, index in self._constants(operator):
            value = self.values[index].astype(np.float64)
            if name in WEIGHTED and place == 1:
                weights = self._weight_scales(value)
                integers, shift = self._round_weights(value, weights, measured)
                inputs[place] = self._new_constant(index, integers, weights)
            elif name in WEIGHTED and place == 2:
                value = value + shift
                steps = self.scales[operator.inputs[0]].scale * weights
                kind = np.int32 if self.scheme.bits == 8 else np.int64
                top = float(np.iinfo(np.int32).max)  # int64 adds room, not range
                integers = np.clip(np.round(value / steps), -top, top).astype(kind)
                inputs[place] = self._new_constant(index, integers, steps)
            else:
                scale = self._scale(float(value.min()), float(value.max()))
                if name in MOVES:
                    scale = self.scales[operator.outputs[0]]
                low, high = (-128, 127) if self.scheme.bits == 8 else (-self.limit, self.limit)
                integers = np.clip(np.round(value / scale.scale) + scale.zero, low, high)
                integers = integers.astype(np.int8 if self.scheme.bits == 8 else np.int16)
                inputs[place] = self._new_constant(index, integers, [scale.scale], [scale.zero])
        operator.inputs = inputs

    def _weight_scales(self, value) -> np.ndarray:
        axes = tuple(range(1, value.ndim)) if self.scheme.per_channel else None
        top = np.atleast_1d(np.abs(value).max(axis=axes))
        return np.where(top > 0, top, 1.0) / 127

    def _round_weights(self, value, scales, measured: Inputs | None):
        rows, shift = value.reshape(len(value), -1), 0.0
        scales = np.broadcast_to(scales, len(value))
        if measured is None:
            integers = np.round(rows / scales[:, None])
        else:
            of = rows, scales, measured.mean, measured.covariance
            key = digest(rows.shape, measured.count, *(array.tobytes() for array in of))

            def rounded():
                found, shift = round_weights(rows, scales, measured)
                return found.astype(np.int8), shift

            integers, shift = self.memory.once(key, rounded)
        return integers.astype(np.int8).reshape(value.shape), shift

    def _new_constant(self, like, integers, scales, zeros=None) -> int:
        index = self._like(like)
        tensor = self.graph.tensors[index]
        tensor.buffer = flatbuffer.add_buffer(self.model, integers)
        kind = getattr(schema.TensorType, integers.dtype.name.upper())
        self._set(tensor, kind, scales, [0] * len(scales) if zeros is None else zeros)
        return index

    @staticmethod
    def _set(tensor, kind, scales, zeros):
        tensor.type = kind
        quantization = schema.QuantizationParametersT()
        quantization.scale = np.asarray(scales, np.float32)
        quantization.zeroPoint = np.asarray(zeros, np.int64)
        quantization.quantizedDimension = 0
        tensor.quantization = quantization

    def _like(self, index, suffix="", scale: Scale | None = None) -> int:
        """A computed tensor as another one: of integers with a scale, of floats without."""
        tensor, old = schema.TensorT(), self.graph.tensors[index]
        tensor.name = flatbuffer.text(old.name) + suffix
        tensor.shape = list(flatbuffer.shape_of(old))
        tensor.shapeSignature, tensor.hasRank = old.shapeSignature, old.hasRank
        tensor.type, tensor.buffer = schema.TensorType.FLOAT32, 0
        if scale is not None:
            self._set(tensor, self.kind, [scale.scale], [scale.zero])
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

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
            outside = self._like(index, "_float")
            self._convert(0, outside, index)
            self._expose(outside, index)
            return
        moved = {index}
        for operator in self.graph.operators:
            name = flatbuffer.op_name(self.model, operator)
            if name in MOVES and operator.inputs[0] in moved:
                moved.update(operator.outputs)
        for tensor in sorted(moved):
            users = [op for op in self.graph.operators if tensor in op.inputs]
            users = [op for op in users if flatbuffer.op_name(self.model, op) not in MOVES]
            if users:
                inside = self._like(tensor, "_int", scale)
                for op in users:
                    op.inputs = [inside if i == tensor else i for i in op.inputs]
                before = min(self.graph.operators.index(op) for op in users)
                source = tensor
                if self.scheme.bits == 16:
                    source = self._like(tensor, "_float")
                    self._convert(before, tensor, source)
                    before += 1
                self._convert(before, source, inside)
        for tensor in moved:
            self._set(self.graph.tensors[tensor], schema.TensorType.UINT8, [1.0], [128])

    def _expose(self, outside: int, index: int):
        """Puts a tensor in another's place among the file's inputs and outputs."""
        for indices in (self.graph.inputs, self.graph.outputs):
            indices[:] = [outside if i == index else i for i in indices]
        for definition in self.model.signatureDefs:
            for entry in (*definition.inputs, *definition.outputs):
                if entry.tensorIndex == index:
                    entry.tensorIndex = outside
