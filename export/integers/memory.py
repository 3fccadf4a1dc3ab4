"""What files of one export have in common is measured and rounded once.

A tensor's origin is a digest of all that it is computed from: operators, constants and samples.
Tensors of the same origin hold the same numbers, in whichever file.
"""

import hashlib
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.files.runtimes import ports

# What makes an iterator of inputs, of batch 1 by their names in the signature.
Samples = Callable[[], Iterable[Mapping[str, np.ndarray]]]
_KEPT_BYTES = 1 << 26  # of tensors' values, for a second look at them
_VECTORS = "vectors"
_Found = TypeVar("_Found")


class Memory(dict[Hashable, Any]):
    """What was found out before, by what it depends on."""

    def once(self, key: Hashable, find: Callable[[], _Found]) -> _Found:
        """What is known by a key, found out where nothing is."""
        if key not in self:
            self[key] = find()
        return self[key]


class Recording:
    """A float file run on samples, and what its tensors hold then.

    Args:
        content: the file.
        samples: of its inputs.
        memory: of the files before.

    Attributes:
        origins: by tensor index of the first graph.
    """

    def __init__(self, content: bytes, samples: Samples, memory: Memory | None = None):
        self.content, self.samples = content, samples
        self.memory = Memory() if memory is None else memory
        self.model = flatbuffer.read(content)
        self.inputs, self.output = ports(content)
        self.origins = self._origins()
        self._kept: dict[int, list[np.ndarray]] = {}

    def of(self, watched: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Tells what some inputs and computed tensors hold: (index, value), for each sample.

        The file is run for it, unless they were all watched before and are small.
        """
        if not watched:
            return
        if self._kept and set(watched) <= self._kept.keys():
            for values in zip(*(self._kept[index] for index in watched), strict=True):
                yield from zip(watched, values, strict=True)
            return
        kept: dict[int, list[np.ndarray]] | None = {index: [] for index in watched}
        size = 0
        for index, value in self._run(watched):
            size += value.nbytes
            if size > _KEPT_BYTES:
                kept = None
            if kept is not None:
                kept[index].append(value)
            yield index, value
        self._kept = kept or {}

    def _run(self, watched):
        """Runs the file, or what is behind a vector that is known where that is enough."""
        for vector in reversed(self._vectors()):
            known = (_VECTORS, self.origins[vector])
            needed = self._needed(watched, vector) if known in self.memory else None
            if needed is not None:
                content = flatbuffer.part(flatbuffer.parse(self.content), vector, needed)
                yield from _look_ahead(content, [{vector: v} for v in self.memory[known]], watched)
                return
        feeds = ({p.index: sample[p.name] for p in self.inputs} for sample in self.samples())
        vectors: dict[int, list[np.ndarray]] = {index: [] for index in self._vectors()}
        more = [index for index in vectors if index not in watched]
        for index, value in _look_ahead(self.content, feeds, [*watched, *more]):
            if index in vectors:
                vectors[index].append(value)
            if index not in more:
                yield index, value
        for index, values in vectors.items():
            self.memory[_VECTORS, self.origins[index]] = values

    def _vectors(self) -> list[int]:
        """Computed tensors that are one vector, such as a feature, and go into a product."""
        graph = self.model.subgraphs[0]
        sources = [
            operator.inputs[0]
            for operator in graph.operators
            if flatbuffer.op_name(self.model, operator) in ("FULLY_CONNECTED", "CONV_2D")
        ]
        shapes = {index: flatbuffer.shape_of(graph.tensors[index]) for index in sources}
        computed = shapes.keys() - {port.index for port in self.inputs}
        return [i for i in shapes if i in computed and np.prod(shapes[i]) == shapes[i][-1]]

    def _needed(self, watched, start) -> list[int] | None:
        """The operators that make what is watched of one tensor; None if that is not enough."""
        graph, wanted, needed = self.model.subgraphs[0], {*watched}, []
        for place in reversed(range(len(graph.operators))):
            operator = graph.operators[place]
            if start not in operator.outputs and not wanted.isdisjoint(operator.outputs):
                needed.append(place)
                wanted.update(i for i in operator.inputs if i >= 0)
        enough = start not in watched and wanted.isdisjoint(port.index for port in self.inputs)
        return needed[::-1] if enough else None

    def _origins(self) -> dict[int, bytes]:
        graph = self.model.subgraphs[0]
        found = self._origins_of_inputs()
        for operator in graph.operators:
            parts: list[object] = [flatbuffer.op_name(self.model, operator), _options(operator)]
            for index in operator.inputs:
                if index >= 0 and index not in found:
                    tensor = graph.tensors[index]
                    data = self.model.buffers[tensor.buffer].data
                    data = b"" if data is None else np.asarray(data, np.uint8).tobytes()
                    found[index] = digest(tensor.type, flatbuffer.shape_of(tensor), data)
                parts.append(found[index] if index >= 0 else b"")
            for place, index in enumerate(operator.outputs):
                found[index] = digest(place, flatbuffer.shape_of(graph.tensors[index]), *parts)
        return found

    def _origins_of_inputs(self) -> dict[int, bytes]:
        digests = {port.name: hashlib.sha256(port.name.encode()) for port in self.inputs}
        for sample in self.samples():
            for name, digest in digests.items():
                digest.update(np.ascontiguousarray(sample[name]).tobytes())
        return {port.index: digests[port.name].digest() for port in self.inputs}


def _look_ahead(
    content: bytes, feeds: Iterable[Mapping[int, np.ndarray]], watched: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Runs a file on inputs by tensor; the next ones run while what these gave is looked at."""
    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()

    def run(feed):
        for index, value in feed.items():
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [(index, interpreter.get_tensor(index)) for index in watched]

    with ThreadPoolExecutor(1) as thread:
        coming = None
        for feed in feeds:
            before, coming = coming, thread.submit(run, feed)
            if before is not None:
                yield from before.result()
        if coming is not None:
            yield from coming.result()


def _options(operator: schema.OperatorT) -> str:
    """What an operator is told beside its inputs."""
    options = operator.builtinOptions
    plain = {} if options is None else {name: repr(value) for name, value in vars(options).items()}
    custom = operator.customOptions
    return repr((type(options).__name__, sorted(plain.items()), bytes(custom or b"")))


def digest(*parts: object) -> bytes:
    """Of bytes, and of what else has a text that tells all of it."""
    found = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.digest()
