"""Running .tflite files where they will run: LiteRT here, TFLite Micro in micro.py."""

import collections
import ctypes
import dataclasses
import itertools
import os
import queue
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate

from sparse_ist_tf.errors import RequestError, RunError, quiet
from sparse_ist_tf.export.files import flatbuffer

_SIDE_BY_SIDE = 4  # of a file in memory, at most
_PART = 16  # examples that a thread takes at a time


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or the output of a file.

    Args:
        name: in the signature.
        index: of the tensor.
        shape: with the batch axis, which is 1.
        dtype: numpy's name.
        scale: 0 where the numbers stand for themselves.
        zero: the integer that stands for 0.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero: int

    def encode(self, value: np.ndarray) -> np.ndarray:
        """An example in the file's own numbers, of this port's dtype and shape.

        Args:
            value: uint8 pixels, int32 positions or float32 features, without or with batch axis.

        Raises:
            RequestError: if the shape doesn't fit.
        """
        value = np.asarray(value)
        if self.name == "positions" and self.dtype != "int32":
            value = np.eye(self.shape[-1], dtype=np.float32)[value]
        if value.size != np.prod(self.shape):
            raise RequestError(
                f"{self.name}: is of shape {value.shape}, the file takes {self.shape[1:]}"
            )
        value = value.reshape(self.shape)
        if value.dtype.name == self.dtype:
            return value
        if value.dtype == np.uint8:  # pixels: an int8 pixel is its byte less 128
            return (value.astype(np.int16) - 128).astype(np.int8)
        if not self.scale:
            return value.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        integers = np.round(value / np.float32(self.scale)) + self.zero
        return np.clip(integers, limits.min, limits.max).astype(self.dtype)

    def decode(self, value: np.ndarray) -> np.ndarray:
        """The file's numbers as float32."""
        if not self.scale:
            return value.astype(np.float32)
        return (value.astype(np.float32) - self.zero) * np.float32(self.scale)


def ports(content: bytes, name: str = "model") -> tuple[list[Port], Port]:
    """The inputs and the output of a file of this library, by its signature.

    Raises:
        RequestError: if it is damaged, or has no signature with one output.
    """
    model = flatbuffer.read(content, name)
    graph = model.subgraphs[0]
    definitions = model.signatureDefs or []
    if len(definitions) != 1 or len(definitions[0].outputs) != 1:
        raise RequestError(f"{name}: has no signature with one output; export writes one")

    def port(entry):
        tensor = graph.tensors[entry.tensorIndex]
        q = tensor.quantization
        has = q is not None and q.scale is not None and len(q.scale) == 1
        dtype = flatbuffer.dtype_of(tensor)
        scale, zero = (float(q.scale[0]), int(q.zeroPoint[0])) if has else (0.0, 0)
        label, shape = flatbuffer.text(entry.name), flatbuffer.shape_of(tensor)
        return Port(label, entry.tensorIndex, shape, dtype, scale, zero)

    return [port(entry) for entry in definitions[0].inputs], port(definitions[0].outputs[0])


class LiteRT:
    """A .tflite file in LiteRT.

    Args:
        content: the file's bytes.
        name: of the file, for errors.
        threads: at least 1; None for as many as there are processors.
        reference: run the reference kernels, those that microcontrollers are compared with.
        delegate: path of a delegate's library, such as libedgetpu.so.1.

    Raises:
        RequestError: if the file is damaged, or the delegate can't be loaded.
    """

    def __init__(
        self,
        content: bytes,
        name: str = "model",
        *,
        threads: int | None = 1,
        reference: bool = False,
        delegate: str = "",
    ):
        self.inputs, self.output = ports(content, name)
        kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
        try:
            if delegate:
                ctypes.CDLL(delegate)  # load_delegate prints a trace where it isn't there
            delegates = [load_delegate(delegate)] if delegate else None
        except (ValueError, OSError) as error:
            raise RequestError(f"delegate={delegate!r}: can't be loaded: {error}") from None
        try:
            with quiet():
                self._interpreter = Interpreter(
                    model_content=content,
                    num_threads=threads or os.cpu_count(),
                    experimental_op_resolver_type=kind,
                    experimental_delegates=delegates,
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise RequestError(f"{name}: LiteRT can't load it: {error}") from None

    @property
    def partitions(self) -> int:
        """In how many pieces a delegate, XNNPACK where none is given, took the graph."""
        names = [op["op_name"] for op in self._interpreter._get_ops_details()]
        return sum(name == "DELEGATE" for name in names)

    def run_raw(self, example: Mapping[str, np.ndarray]) -> np.ndarray:
        """One example through the file.

        Args:
            example: by input name: uint8 pixels, int32 positions, float32 features.

        Returns:
            The output in the file's own numbers, without the batch axis.

        Raises:
            RequestError: if a shape doesn't fit.
            RunError: if LiteRT fails.
        """
        for port in self.inputs:
            self._interpreter.set_tensor(port.index, port.encode(example[port.name]))
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise RunError(f"LiteRT failed: {error}") from None
        return self._interpreter.get_tensor(self.output.index)[0]

    def run(self, example: Mapping[str, np.ndarray]) -> np.ndarray:
        """As run_raw, the output as float32."""
        return self.output.decode(self.run_raw(example))

    def latency(self, example: Mapping[str, np.ndarray], repeats: int = 100) -> tuple[float, float]:
        """How long one inference takes.

        Args:
            example: as run.
            repeats: measured inferences, after a tenth as many to warm up.

        Returns:
            (median, 95th percentile) in milliseconds.
        """
        self.run_raw(example)
        times = []
        for _ in range(repeats + repeats // 10):
            started = time.perf_counter()
            self._interpreter.invoke()
            times.append(1e3 * (time.perf_counter() - started))
        median, slow = np.percentile(times[repeats // 10 :], (50, 95))
        return float(median), float(slow)


def run_all(
    content: bytes, examples: Iterable[Mapping[str, np.ndarray]], name: str = "model"
) -> np.ndarray:
    """Every example through a file, side by side on the processors that there are.

    Args:
        content: the file's bytes.
        examples: as LiteRT.run.
        name: of the file, for errors.

    Returns:
        float32[n, ...], what LiteRT.run gives of each, in order, on however many processors.

    Raises:
        RequestError: if the file is damaged, or a shape doesn't fit.
        RunError: if LiteRT fails.
    """
    count = min(_SIDE_BY_SIDE, os.cpu_count() or 1)
    idle: queue.SimpleQueue[LiteRT] = queue.SimpleQueue()
    for _ in range(count):
        idle.put(LiteRT(content, name))

    def run(part: list[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
        runtime = idle.get()
        try:
            return [runtime.run(example) for example in part]
        finally:
            idle.put(runtime)

    coming, found = iter(examples), []
    parts = iter(lambda: list(itertools.islice(coming, _PART)), [])
    with ThreadPoolExecutor(count) as pool:  # LiteRT lets other threads go on
        waiting: collections.deque[Future] = collections.deque()
        for part in parts:
            waiting.append(pool.submit(run, part))
            if len(waiting) > 2 * count:
                found += waiting.popleft().result()
        for future in waiting:
            found += future.result()
    return np.array(found)
