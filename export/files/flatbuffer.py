"""Reading and rewriting .tflite files as the schema's objects, by LiteRT's flatbuffer_utils."""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from sparse_ist_tf.errors import RequestError


def parse(content: bytes, name: str = "model") -> schema.ModelT:
    """A .tflite file as objects; the indices of its graphs' and operators' tensors are lists.

    Raises:
        RequestError: if it is no .tflite file.
    """
    if content[4:8] != b"TFL3":
        raise RequestError(f"{name}: is not a .tflite file")
    try:
        model = flatbuffer_utils.convert_bytearray_to_object(content)
        model.subgraphs[0]
        for graph in model.subgraphs:
            for part in (graph, *graph.operators):
                part.inputs, part.outputs = _indices(part.inputs), _indices(part.outputs)
            for operator in graph.operators:
                operator.intermediates = _indices(operator.intermediates)
                model.operatorCodes[operator.opcodeIndex]
            for tensor in graph.tensors:
                model.buffers[tensor.buffer]
        return model
    except Exception as error:  # a damaged file can break the reader in any way
        raise RequestError(f"{name}: is damaged and can't be read ({error})") from None


def read(content: bytes, name: str = "model") -> schema.ModelT:
    """As parse, of objects that nobody may change: they are kept for who looks next.

    Raises:
        RequestError: as parse.
    """
    try:
        return _read(content)
    except RequestError:
        return parse(content, name)


@functools.lru_cache(maxsize=2)
def _read(content: bytes) -> schema.ModelT:
    return parse(content)


def read_file(path: str | Path) -> bytes:
    """A .tflite file's bytes.

    Raises:
        RequestError: if there is none, or it is damaged.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}") from None
    read(content, str(path))
    return content


def pack(model: schema.ModelT) -> bytes:
    """The objects as a .tflite file.

    Args:
        model: from parse; tensors and buffers that nothing refers to are dropped from it.
    """
    for index in range(len(model.subgraphs)):
        _drop_unused_tensors(model, index)
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    order = {0: 0}
    for holder in (*tensors, *(model.metadata or [])):
        holder.buffer = order.setdefault(holder.buffer, len(order))
    model.metadataBuffer = None
    model.buffers = [model.buffers[index] for index in order]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def part(model: schema.ModelT, start: int, operators: Iterable[int]) -> bytes:
    """A file of some operators alone; tensors keep their indices.

    Args:
        model: from parse, with one subgraph; is taken apart.
        start: the tensor that is the input.
        operators: in order, which take this, constants and each other's outputs.
    """
    graph = model.subgraphs[0]
    graph.operators = [graph.operators[place] for place in operators]
    graph.inputs, graph.outputs = [start], list(graph.operators[-1].outputs)
    used = {i for operator in graph.operators for i in operator.inputs if i >= 0}
    for index, tensor in enumerate(graph.tensors):
        if index not in used:
            tensor.buffer = 0  # the empty one
    model.signatureDefs = model.metadata = None
    kept = {tensor.buffer for tensor in graph.tensors}
    for index, buffer in enumerate(model.buffers):
        if index not in kept:
            buffer.data = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def op_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """The name of an operator, such as "FULLY_CONNECTED", or "CUSTOM:name"."""
    name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
    code = model.operatorCodes[operator.opcodeIndex]
    return f"CUSTOM:{text(code.customCode)}" if name == "CUSTOM" else str(name)


def text(value: bytes | str | None) -> str:
    """A string of the schema, which may be bytes or missing."""
    return value.decode() if isinstance(value, bytes) else (value or "")


def shape_of(tensor: schema.TensorT) -> tuple[int, ...]:
    """A tensor's shape."""
    return tuple(_indices(tensor.shape))


def dtype_of(tensor: schema.TensorT) -> str:
    """A tensor's type, such as "int8": numpy's name where numpy has the type."""
    return flatbuffer_utils.type_to_name(tensor.type).lower()


def constant(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """The value of a constant tensor, of its shape and type; None for one that is computed."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    data = np.asarray(data, np.uint8).tobytes()
    return np.frombuffer(data, dtype_of(tensor)).reshape(shape_of(tensor))


def add_buffer(model: schema.ModelT, values: np.ndarray) -> int:
    """Appends a constant; returns the index of its buffer."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def operator_code(model: schema.ModelT, name: str, version: int) -> int:
    """The index of an operator of at least a version, appended where it is missing."""
    number = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if flatbuffer_utils.get_builtin_code_from_operator_code(code) == number:
            code.version = max(code.version, version)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def name_signature(content: bytes, inputs: Iterable[str], output: str) -> bytes:
    """Gives a file with one subgraph its signature, and its inputs, in order, and output names."""
    model = parse(content)
    graph = model.subgraphs[0]
    definition = schema.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = "serving_default", 0
    definition.inputs, definition.outputs = [], []
    pairs = [(definition.inputs, name, i) for name, i in zip(inputs, graph.inputs, strict=True)]
    for entries, name, index in (*pairs, (definition.outputs, output, graph.outputs[0])):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        entries.append(entry)
        graph.tensors[index].name = name
    model.signatureDefs = [definition]
    return pack(model)


def append_softmax(content: bytes) -> bytes:
    """Lets a file with one subgraph and float32 logits give their softmax, "probabilities".

    Behind whatever made them float: integers would round probabilities, and draw equal what is not.
    """
    model = parse(content)
    graph = model.subgraphs[0]
    (index,) = graph.outputs
    tensor = schema.TensorT()
    tensor.name, tensor.type = "probabilities", graph.tensors[index].type
    tensor.shape, tensor.buffer = graph.tensors[index].shape, 0
    graph.tensors.append(tensor)
    operator = schema.OperatorT()
    operator.opcodeIndex = operator_code(model, "SOFTMAX", 1)
    operator.inputs, operator.outputs, operator.intermediates = (
        [index],
        [len(graph.tensors) - 1],
        [],
    )
    operator.builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
    operator.builtinOptions = schema.SoftmaxOptionsT()
    operator.builtinOptions.beta = 1.0
    graph.operators.append(operator)
    graph.outputs = list(operator.outputs)
    for definition in model.signatureDefs:
        (entry,) = definition.outputs
        entry.name, entry.tensorIndex = "probabilities", graph.outputs[0]
    return pack(model)


def inputs_first(content: bytes) -> bytes:
    """Reorders operators so that those that need an input come before those that don't.

    The converter puts the unpacking of float16 constants first, ahead of the picking of patches; a
    delegate that can't pick then runs twice, once on either side.
    """
    model = parse(content)
    for graph in model.subgraphs:
        known = set(graph.inputs)
        ready = {i for i, t in enumerate(graph.tensors) if constant(model, t) is not None}
        front, rest = [], []
        for operator in graph.operators:
            needs = set(operator.inputs) - ready - {-1}
            if needs and needs <= known:
                known |= set(operator.outputs)
                front.append(operator)
            else:
                rest.append(operator)
        graph.operators = front + rest
    return pack(model)


def _drop_unused_tensors(model: schema.ModelT, index: int) -> None:
    graph = model.subgraphs[index]
    lists = [graph.inputs, graph.outputs]
    for operator in graph.operators:
        operator.intermediates = operator.intermediates or []
        lists += [operator.inputs, operator.outputs, operator.intermediates]
    used = sorted({i for indices in lists for i in indices if i >= 0})
    moved = {old: new for new, old in enumerate(used)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in used]
    for indices in lists:
        indices[:] = [moved[i] for i in indices]
    for definition in model.signatureDefs or []:
        if definition.subgraphIndex == index:
            for entry in (*definition.inputs, *definition.outputs):
                entry.tensorIndex = moved[entry.tensorIndex]


def _indices(values: np.ndarray | None) -> list[int]:
    return [] if values is None else [int(value) for value in values]
