"""The forms of ist.exchange.forms in NumPy, bit for bit, as devices take and send them.

A block is neuron by neuron, float32[neurons, inputs of each]. `lower` makes of it the arrays that
cross, `lift` undoes it.
"""

import abc
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.devices.wire import philox
from sparse_ist_tf.devices.wire.philox import Seed

_MOST_HALVINGS, _MANTISSA, _BIAS = 15, 23, 127  # as ist.exchange.forms


class Shape(NamedTuple):
    """What an array that crosses must be."""

    dtype: str
    shape: tuple[int, ...]


class Form(abc.ABC):
    """A form of numbers while they cross."""

    @abc.abstractmethod
    def lower(self, block: np.ndarray, seed: Seed | None = None) -> list[np.ndarray]:
        """The arrays that cross.

        Args:
            block: float32[neurons, inputs].
            seed: of the rounding; to the nearest where None.
        """

    @abc.abstractmethod
    def lift(self, arrays: Sequence[np.ndarray], inputs: int) -> np.ndarray:
        """What they say: float32[neurons, inputs]."""

    @abc.abstractmethod
    def shapes(self, neurons: int, inputs: int) -> list[Shape]:
        """What must cross of so many neurons."""


class Float32(Form):
    """As it is."""

    def lower(self, block: np.ndarray, seed: Seed | None = None) -> list[np.ndarray]:
        """As Form.lower."""
        return [block]

    def lift(self, arrays: Sequence[np.ndarray], inputs: int) -> np.ndarray:
        """As Form.lift."""
        return arrays[0]

    def shapes(self, neurons: int, inputs: int) -> list[Shape]:
        """As Form.shapes."""
        return [Shape("float32", (neurons, inputs))]


class Float16(Float32):
    """IEEE's, rounded to the nearest."""

    def lower(self, block: np.ndarray, seed: Seed | None = None) -> list[np.ndarray]:
        """As Form.lower."""
        with np.errstate(over="ignore"):
            return [block.astype(np.float16)]

    def lift(self, arrays: Sequence[np.ndarray], inputs: int) -> np.ndarray:
        """As Form.lift."""
        return arrays[0].astype(np.float32)

    def shapes(self, neurons: int, inputs: int) -> list[Shape]:
        """As Form.shapes."""
        return [Shape("float16", (neurons, inputs))]


class BFloat16(Form):
    """The upper half of float32, as uint16."""

    def lower(self, block: np.ndarray, seed: Seed | None = None) -> list[np.ndarray]:
        """As Form.lower; a block that isn't finite may become anything that isn't."""
        bits = np.ascontiguousarray(block, np.float32).view(np.uint32)
        if seed is None:  # to the nearest, ties to even
            bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        else:
            bits = bits + philox.integers(seed, block.shape, 1 << 16)
        return [(bits >> np.uint32(16)).astype(np.uint16)]

    def lift(self, arrays: Sequence[np.ndarray], inputs: int) -> np.ndarray:
        """As Form.lift."""
        return (arrays[0].astype(np.uint32) << np.uint32(16)).view(np.float32)

    def shapes(self, neurons: int, inputs: int) -> list[Shape]:
        """As Form.shapes."""
        return [Shape("uint16", (neurons, inputs))]


class Integer(Form):
    """Integers of 8 or 4 bits, and a float32 scale per neuron.

    Args:
        bits: 8, or 4: two to a byte.
    """

    def __init__(self, bits: int):
        self.bits, self.most = bits, np.float32(2 ** (bits - 1) - 1)

    def lower(self, block: np.ndarray, seed: Seed | None = None) -> list[np.ndarray]:
        """As Form.lower."""
        scales = np.abs(block).max(axis=1, keepdims=True) / self.most
        scaled = _divided(block, scales)
        if seed is None:
            rounded = np.rint(scaled)
        else:
            rounded = np.floor(scaled + philox.uniform(seed, block.shape))
        found = np.clip(rounded, -self.most, self.most).astype(np.int8)
        return [_paired(found) if self.bits == 4 else found, scales]

    def lift(self, arrays: Sequence[np.ndarray], inputs: int) -> np.ndarray:
        """As Form.lift."""
        found, scales = arrays
        if self.bits == 4:
            found = _unpaired(found, len(scales), inputs)
        return found.astype(np.float32) * scales

    def shapes(self, neurons: int, inputs: int) -> list[Shape]:
        """As Form.shapes."""
        wide = Shape("int8", (neurons, inputs))
        return [wide if self.bits == 8 else _pairs(neurons, inputs), _one_each(neurons)]


class Halvings(Form):
    """Of numbers that aren't negative 4 bits, two to a byte: halvings of a neuron's greatest."""

    def lower(self, block: np.ndarray, seed: Seed | None = None) -> list[np.ndarray]:
        """As Form.lower."""
        greatest = block.max(axis=1, keepdims=True)
        least = np.float32(2.0**-_MOST_HALVINGS)
        shares = np.clip(_divided(block, greatest), least, np.float32(1))
        bits = shares.view(np.int32)
        below = (bits & ((1 << _MANTISSA) - 1) > 0).astype(np.int32)
        halvings = _BIAS - (bits >> _MANTISSA) - below
        above = _power(halvings)
        draws = np.float32(0.5) if seed is None else philox.uniform(seed, block.shape)
        halvings = halvings + (draws * above < np.float32(2) * (above - shares))
        return [_paired(halvings.astype(np.int8)), greatest]

    def lift(self, arrays: Sequence[np.ndarray], inputs: int) -> np.ndarray:
        """As Form.lift."""
        pairs, greatest = arrays
        halvings = _unpaired(pairs, len(greatest), inputs) & 15
        return _power(halvings.astype(np.int32)) * greatest

    def shapes(self, neurons: int, inputs: int) -> list[Shape]:
        """As Form.shapes."""
        return [_pairs(neurons, inputs), _one_each(neurons)]


class PerNeuron(Form):
    """One float32 per neuron, the mean over its inputs; alone among these it may differ from
    TensorFlow's in the last bit.
    """

    def lower(self, block: np.ndarray, seed: Seed | None = None) -> list[np.ndarray]:
        """As Form.lower; of a block that has one number per neuron these."""
        return [block.mean(axis=1, keepdims=True, dtype=np.float32)]

    def lift(self, arrays: Sequence[np.ndarray], inputs: int) -> np.ndarray:
        """As Form.lift."""
        return np.repeat(arrays[0], inputs, axis=1)

    def shapes(self, neurons: int, inputs: int) -> list[Shape]:
        """As Form.shapes."""
        return [_one_each(neurons)]


FORMS: dict[str, Form] = {
    "float32": Float32(),
    "bfloat16": BFloat16(),
    "float16": Float16(),
    "int8": Integer(8),
    "int4": Integer(4),
    "halvings": Halvings(),
    "neuron": PerNeuron(),
}


def _divided(block: np.ndarray, by: np.ndarray) -> np.ndarray:
    """0 where it is divided by 0."""
    return np.divide(block, by, out=np.zeros_like(block), where=by != 0)


def _power(halvings: np.ndarray) -> np.ndarray:
    return ((_BIAS - halvings).astype(np.int32) << _MANTISSA).view(np.float32)


def _pairs(neurons: int, inputs: int) -> Shape:
    return Shape("uint8", (math.ceil(neurons * inputs / 2),))


def _one_each(neurons: int) -> Shape:
    return Shape("float32", (neurons, 1))


def _paired(found: np.ndarray) -> np.ndarray:
    """The lower 4 bits of int8 numbers, two to a byte: uint8, flat."""
    flat = found.reshape(-1).view(np.uint8) & 15
    flat = np.pad(flat, (0, len(flat) % 2))
    return flat[::2] | (flat[1::2] << 4)


def _unpaired(pairs: np.ndarray, neurons: int, inputs: int) -> np.ndarray:
    """The inverse: int8[neurons, inputs] in [-8, 7]."""
    both = np.stack([pairs << 4, pairs & 0xF0], axis=1).reshape(-1).view(np.int8) >> 4
    return both[: neurons * inputs].reshape(neurons, inputs)
