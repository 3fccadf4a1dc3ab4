"""Reading and rewriting .tflite files: the model as objects, its operators, and its constants."""

import dataclasses
from collections.abc import Iterable

import flatbuffers
import numpy as np

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files.litert import schema

IDENTIFIER = b"TFL3"

_OPERATORS = {
    number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()
}
_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.BOOL: np.bool_,
}


def parse(content: bytes, name: str = "model"):
    """A .tflite file as objects.

    Args:
        content: the file's bytes.
        name: of the file, for the error.

    Returns:
        A schema ModelT.

    Raises:
        RequestError: if it is no .tflite file.
    """
    if content[4:8] != IDENTIFIER:
        raise RequestError(f"{name}: is not a .tflite file")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        if not model.subgraphs or model.subgraphs[0].operators is None:
            raise ValueError("no operators")
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                model.buffers[tensor.buffer]
            for operator in graph.operators:
                model.operatorCodes[operator.opcodeIndex]
        return model
    except Exception as error:  # a damaged file can break the reader in any way
        raise RequestError(f"{name}: is damaged and can't be read ({error})") from None


def pack(model) -> bytes:
    """The objects as a .tflite file, without buffers that nothing refers to.

    Args:
        model: from parse; what nothing refers to is dropped from it.

    Returns:
        The file's bytes.
    """
    _drop_unused(model)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def op_name(model, operator) -> str:
    """The name of an operator, such as "FULLY_CONNECTED", or "CUSTOM:name".

    Args:
        model: from parse.
        operator: of one of its subgraphs.

    Returns:
        Its name.
    """
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return "CUSTOM:" + (code.customCode or b"").decode()
    return _OPERATORS.get(number, str(number))


def text(value) -> str:
    """A string of the schema, which may be bytes or missing.

    Args:
        value: bytes, a string or None.

    Returns:
        A string.
    """
    return value.decode() if isinstance(value, bytes) else (value or "")


def shape_of(tensor) -> tuple[int, ...]:
    """A tensor's shape.

    Args:
        tensor: of a subgraph.

    Returns:
        Its sizes.
    """
    return tuple(int(n) for n in tensor.shape) if tensor.shape is not None else ()


def dtype_of(tensor) -> str:
    """A tensor's type by numpy's name.

    Args:
        tensor: of a subgraph.

    Returns:
        Such as "int8".
    """
    return np.dtype(_DTYPES[tensor.type]).name if tensor.type in _DTYPES else f"type{tensor.type}"


def constant(model, tensor) -> np.ndarray | None:
    """The value of a constant tensor, None for one that is computed.

    Args:
        model: from parse.
        tensor: of one of its subgraphs.

    Returns:
        An array of the tensor's shape and type, or None.
    """
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    data = np.asarray(data, np.uint8).tobytes()
    return np.frombuffer(data, _DTYPES[tensor.type]).reshape(shape_of(tensor))


def add_buffer(model, values: np.ndarray) -> int:
    """Appends a constant; its index.

    Args:
        model: from parse.
        values: of any type.

    Returns:
        The index of the new buffer.
    """
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def operator_code(model, name: str, version: int) -> int:
    """The index of an operator of at least a version, appended where it is missing.

    Args:
        model: from parse.
        name: of a builtin operator.
        version: the least.

    Returns:
        The index in model.operatorCodes.
    """
    number = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
            code.version = max(code.version, version)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def name_signature(content: bytes, inputs: Iterable[str], output: str) -> bytes:
    """Gives a file with one subgraph its signature, and its inputs and output their names.

    Args:
        content: a .tflite file whose inputs are in order.
        inputs: names of the inputs.
        output: name of the output.

    Returns:
        The same model.
    """
    model = parse(content)
    graph = model.subgraphs[0]
    definition = schema.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = "serving_default", 0
    definition.inputs, definition.outputs = [], []
    pairs = [(definition.inputs, name, i) for name, i in zip(inputs, graph.inputs, strict=True)]
    for entries, name, index in (*pairs, (definition.outputs, output, graph.outputs[0])):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, int(index)
        entries.append(entry)
        graph.tensors[int(index)].name = name
    model.signatureDefs = [definition]
    return pack(model)


def inputs_first(content: bytes) -> bytes:
    """Reorders operators so that those that need an input come before those that don't.

    The converter puts the unpacking of float16 constants first, ahead of the picking of patches; a
    delegate that can't pick then runs twice, once on either side.

    Args:
        content: a .tflite file.

    Returns:
        The same model.
    """
    model = parse(content)
    for graph in model.subgraphs:
        known = {int(i) for i in graph.inputs}
        ready = {i for i, t in enumerate(graph.tensors) if constant(model, t) is not None}
        front, rest = [], []
        for operator in graph.operators:
            needs = {int(i) for i in operator.inputs if i >= 0} - ready
            if needs and needs <= known and not rest_needs(operator, rest):
                known |= {int(i) for i in operator.outputs}
                front.append(operator)
            else:
                rest.append(operator)
        graph.operators = front + rest
    return pack(model)


def rest_needs(operator, rest: Iterable) -> bool:
    """Whether an operator reads what one of the others makes.

    Args:
        operator: of a subgraph.
        rest: other operators of it.

    Returns:
        True if one of them has to come first.
    """
    made = {int(i) for other in rest for i in other.outputs}
    return any(int(i) in made for i in operator.inputs)


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
    options: object

    @property
    def macs(self) -> int:
        """Multiply-accumulates, counted for matrix products and convolutions; else outputs."""
        shape = self.outputs[0][0] if self.outputs else ()
        count = int(np.prod(shape))
        if self.name == "FULLY_CONNECTED":
            return count * self.inputs[1][0][-1]
        if self.name == "CONV_2D":
            return count * int(np.prod(self.inputs[1][0][1:]))
        if self.name == "BATCH_MATMUL":
            return count * self.inputs[0][0][-1]
        return 0

    @property
    def work(self) -> int:
        """Multiply-accumulates, or elements written where an operator has none."""
        return self.macs or sum(int(np.prod(shape)) for shape, _ in self.outputs)


def operators(content: bytes, name: str = "model") -> list[Op]:
    """The operators of a file, in order, over all its subgraphs.

    Args:
        content: the file's bytes.
        name: of the file, for errors.

    Returns:
        One Op an operator.

    Raises:
        RequestError: if it is no .tflite file.
    """
    model = parse(content, name)
    out = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            inputs = [graph.tensors[i] for i in operator.inputs if i >= 0]
            outputs = [graph.tensors[i] for i in operator.outputs if i >= 0]
            out.append(
                Op(
                    op_name(model, operator),
                    tuple((shape_of(t), dtype_of(t), constant(model, t)) for t in inputs),
                    tuple((shape_of(t), dtype_of(t)) for t in outputs),
                    operator.builtinOptions,
                )
            )
    return out


def _drop_unused(model) -> None:
    used: dict[int, int] = {0: 0}

    def renumber(index):
        return used.setdefault(index, len(used))

    for graph in model.subgraphs:
        _drop_unused_tensors(model, graph)
        for tensor in graph.tensors:
            tensor.buffer = renumber(tensor.buffer)
    for entry in model.metadata or []:
        entry.buffer = renumber(entry.buffer)
    model.metadataBuffer = None
    order = sorted(used, key=used.get)
    model.buffers = [model.buffers[index] for index in order]


def _drop_unused_tensors(model, graph) -> None:
    used = {int(i) for i in (*graph.inputs, *graph.outputs)}
    for operator in graph.operators:
        used |= {int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0}
        used |= {int(i) for i in (*_list(operator.intermediates),)}
    order = sorted(used)
    place = {old: new for new, old in enumerate(order)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in order]
    graph.inputs = [place[int(i)] for i in graph.inputs]
    graph.outputs = [place[int(i)] for i in graph.outputs]
    for operator in graph.operators:
        operator.inputs = [place[int(i)] for i in operator.inputs]
        operator.outputs = [place[int(i)] for i in operator.outputs]
        operator.intermediates = [place[int(i)] for i in _list(operator.intermediates)]
    index = list(model.subgraphs).index(graph)
    for definition in model.signatureDefs or []:
        if definition.subgraphIndex == index:
            for entry in (*definition.inputs, *definition.outputs):
                entry.tensorIndex = place[entry.tensorIndex]


def _list(values) -> list:
    return [] if values is None else list(values)
