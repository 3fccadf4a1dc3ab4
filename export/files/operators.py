"""What a .tflite file computes: its operators, their work, and the memory that they need."""

import dataclasses
import math
from typing import Any

import numpy as np

from sparse_ist_tf.export.files import flatbuffer


@dataclasses.dataclass(frozen=True)
class Op:
    """One operator of a file, as the checks of targets see it.

    Args:
        name: such as "FULLY_CONNECTED".
        inputs: (shape, dtype, constant value or None) of each input.
        outputs: (shape, dtype) of each output.
        options: the operator's builtin options, None where it has none.
    """

    name: str
    inputs: tuple[tuple[tuple[int, ...], str, np.ndarray | None], ...]
    outputs: tuple[tuple[tuple[int, ...], str], ...]
    options: Any

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a matrix product or convolution; 0 of others."""
        if self.name not in ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL"):
            return 0
        each = self.inputs[0][0][-1:] if self.name == "BATCH_MATMUL" else self.inputs[1][0][1:]
        return math.prod(self.outputs[0][0]) * math.prod(each)

    @property
    def work(self) -> int:
        """Multiply-accumulates, or elements written where an operator has none."""
        return self.macs or sum(math.prod(shape) for shape, _ in self.outputs)


def operators(content: bytes, name: str = "model") -> list[Op]:
    """The operators of a file, in order, over all its subgraphs.

    Raises:
        RequestError: if it is no .tflite file.
    """
    model = flatbuffer.read(content, name)
    type_of = lambda t: (flatbuffer.shape_of(t), flatbuffer.dtype_of(t))  # noqa: E731
    out = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            inputs = [graph.tensors[i] for i in operator.inputs if i >= 0]
            outputs = [graph.tensors[i] for i in operator.outputs if i >= 0]
            out.append(
                Op(
                    flatbuffer.op_name(model, operator),
                    tuple((*type_of(t), flatbuffer.constant(model, t)) for t in inputs),
                    tuple(type_of(t) for t in outputs),
                    operator.builtinOptions,
                )
            )
    return out


def peak_bytes(content: bytes) -> int:
    """Most bytes of computed tensors that are alive at once: a lower bound of any arena.

    What is computed of constants alone, such as float16 weights as float32, counts as a weight.

    Raises:
        RequestError: if it is no .tflite file.
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    fixed = {i for i, t in enumerate(graph.tensors) if flatbuffer.constant(model, t) is not None}
    for operator in graph.operators:
        if fixed.issuperset(i for i in operator.inputs if i >= 0):
            fixed.update(operator.outputs)
    born = dict.fromkeys(graph.inputs, 0)
    last = dict.fromkeys(graph.outputs, len(graph.operators))
    for step, operator in enumerate(graph.operators):
        for i in operator.outputs:
            born.setdefault(i, step)
        for i in (*operator.inputs, *operator.outputs):
            last[i] = max(step, last.get(i, 0))
    alive = np.zeros(len(graph.operators) + 2, np.int64)
    for index in born.keys() - fixed:
        tensor = graph.tensors[index]
        size = np.dtype(flatbuffer.dtype_of(tensor)).itemsize
        size *= math.prod(flatbuffer.shape_of(tensor))
        alive[born[index]] += size
        alive[last.get(index, 0) + 1] -= size
    return int(np.cumsum(alive).max())
