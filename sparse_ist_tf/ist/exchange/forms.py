"""Forms in which numbers cross a link: floats, integers with a scale per neuron, one per neuron.

A block is neuron by neuron, [neurons, inputs of each]. `lower` makes of it what the form keeps,
tensors with a row per neuron, so that any neurons' rows can be taken; `pack` makes of some rows the
32-bit words that cross, `unpack` and `lift` undo both. A form with integers rounds
stochastically: what it gives is right in the mean, however often it is rounded.
"""

import abc
from collections.abc import Callable, Sequence

import tensorflow as tf

Seed = Callable[[], tf.Tensor]
Rows = list[tf.Tensor]  # what a form keeps of a block: tensors with a row per neuron
_INT32 = 4  # bytes of a word
_MOST_HALVINGS = 15  # in 4 bits
_MANTISSA, _BIAS = 23, 127  # of float32


class Form(abc.ABC):
    """A form of numbers while they cross."""

    @abc.abstractmethod
    def lower(self, block: tf.Tensor, seed: Seed | None = None) -> Rows:
        """What the form keeps.

        Args:
            block: float32[neurons, inputs].
            seed: gives int32[2], of its rounding; to the nearest where None.
        """

    @abc.abstractmethod
    def lift(self, rows: Rows, inputs: int) -> tf.Tensor:
        """What the form says of a block: float32[neurons, inputs]."""

    @abc.abstractmethod
    def pack(self, rows: Rows) -> list[tf.Tensor]:
        """Some neurons' rows as words: int32 vectors."""

    @abc.abstractmethod
    def unpack(self, words: tf.Tensor, neurons: tf.Tensor, inputs: int) -> Rows:
        """The inverse of pack.

        Args:
            words: int32[num_words(neurons, inputs)].
            neurons: int32, how many.
            inputs: of each.
        """

    @abc.abstractmethod
    def num_words(self, neurons: tf.Tensor, inputs: int) -> tf.Tensor:
        """How many words some neurons take: int32."""

    @abc.abstractmethod
    def neuron_bytes(self, inputs: int) -> float:
        """Bytes of one neuron, without what fills up a word."""


class Float(Form):
    """Floats of 32 or 16 bits."""

    def __init__(self, dtype: tf.DType):
        self.dtype = dtype

    def lower(self, block: tf.Tensor, seed: Seed | None = None) -> Rows:
        """As Form.lower; with a seed bfloat16 is rounded stochastically, float16 never is."""
        if seed is not None and self.dtype == tf.bfloat16:
            noise = tf.random.stateless_uniform(tf.shape(block), seed(), 0, 1 << 16, tf.int32)
            bits = (tf.bitcast(block, tf.int32) + noise) & tf.constant(-1 << 16)
            block = tf.bitcast(bits, tf.float32)
        return [tf.cast(block, self.dtype)]

    def lift(self, rows: Rows, inputs: int) -> tf.Tensor:
        """As Form.lift."""
        return tf.cast(rows[0], tf.float32)

    def pack(self, rows: Rows) -> list[tf.Tensor]:
        """As Form.pack."""
        return [_to_words(rows[0])]

    def unpack(self, words: tf.Tensor, neurons: tf.Tensor, inputs: int) -> Rows:
        """As Form.unpack."""
        return [_of_words(words, self.dtype, neurons, inputs)]

    def num_words(self, neurons: tf.Tensor, inputs: int) -> tf.Tensor:
        """As Form.num_words."""
        return _words_of(neurons * inputs, self.dtype.size)

    def neuron_bytes(self, inputs: int) -> float:
        """As Form.neuron_bytes."""
        return self.dtype.size * inputs


class Integer(Form):
    """Integers of 8 or 4 bits, and a float32 scale per neuron.

    Args:
        bits: 8, or 4: two to a byte.
    """

    def __init__(self, bits: int):
        self.bits, self.most = bits, 2 ** (bits - 1) - 1

    def lower(self, block: tf.Tensor, seed: Seed | None = None) -> Rows:
        """As Form.lower: int8 in [-most, most], and the scales."""
        scales = tf.reduce_max(tf.abs(block), axis=1, keepdims=True) / self.most
        scaled = tf.math.divide_no_nan(block, scales)
        if seed is None:
            rounded = tf.round(scaled)
        else:
            rounded = tf.floor(scaled + tf.random.stateless_uniform(tf.shape(block), seed()))
        limit = float(self.most)
        return [tf.cast(tf.clip_by_value(rounded, -limit, limit), tf.int8), scales]

    def lift(self, rows: Rows, inputs: int) -> tf.Tensor:
        """As Form.lift."""
        integers, scales = rows
        return tf.cast(integers, tf.float32) * scales

    def pack(self, rows: Rows) -> list[tf.Tensor]:
        """As Form.pack."""
        integers, scales = rows
        flat = tf.reshape(integers, (-1,))
        return [_to_words(scales), _to_words(_paired(flat) if self.bits == 4 else flat)]

    def unpack(self, words: tf.Tensor, neurons: tf.Tensor, inputs: int) -> Rows:
        """As Form.unpack."""
        scales = _of_words(words[:neurons], tf.float32, neurons, 1)
        if self.bits == 8:
            return [_of_words(words[neurons:], tf.int8, neurons, inputs), scales]
        return [_unpaired(words[neurons:], neurons, inputs), scales]

    def num_words(self, neurons: tf.Tensor, inputs: int) -> tf.Tensor:
        """As Form.num_words."""
        count = neurons * inputs
        return neurons + _words_of(count if self.bits == 8 else (count + 1) // 2, 1)

    def neuron_bytes(self, inputs: int) -> float:
        """As Form.neuron_bytes."""
        return inputs * self.bits / 8 + _INT32


class Halvings(Form):
    """Of numbers that aren't negative 4 bits, two to a byte: halvings of a neuron's greatest.

    The smallest that there is is 2^-15 of the greatest, and none becomes 0, by whose root Adam
    would divide.
    """

    def lower(self, block: tf.Tensor, seed: Seed | None = None) -> Rows:
        """As Form.lower: int8 in [0, 15], and the greatest."""
        greatest = tf.reduce_max(block, axis=1, keepdims=True)
        shares = tf.clip_by_value(tf.math.divide_no_nan(block, greatest), 2.0**-_MOST_HALVINGS, 1.0)
        # By their bits: logarithms differ in the last one by how many there are.
        bits = tf.bitcast(shares, tf.int32)
        below = tf.cast(bits & ((1 << _MANTISSA) - 1) > 0, tf.int32)
        halvings = _BIAS - tf.bitwise.right_shift(bits, _MANTISSA) - below
        above = _power(halvings)
        draws = 0.5 if seed is None else tf.random.stateless_uniform(tf.shape(block), seed())
        halvings += tf.cast(draws * above < 2.0 * (above - shares), tf.int32)
        return [tf.cast(halvings, tf.int8), greatest]

    def lift(self, rows: Rows, inputs: int) -> tf.Tensor:
        """As Form.lift."""
        halvings, greatest = rows
        return _power(tf.cast(halvings, tf.int32)) * greatest

    def pack(self, rows: Rows) -> list[tf.Tensor]:
        """As Form.pack."""
        halvings, greatest = rows
        return [_to_words(greatest), _to_words(_paired(tf.reshape(halvings, (-1,))))]

    def unpack(self, words: tf.Tensor, neurons: tf.Tensor, inputs: int) -> Rows:
        """As Form.unpack."""
        greatest = _of_words(words[:neurons], tf.float32, neurons, 1)
        return [_unpaired(words[neurons:], neurons, inputs) & 15, greatest]

    def num_words(self, neurons: tf.Tensor, inputs: int) -> tf.Tensor:
        """As Form.num_words."""
        return neurons + _words_of((neurons * inputs + 1) // 2, 1)

    def neuron_bytes(self, inputs: int) -> float:
        """As Form.neuron_bytes."""
        return inputs / 2 + _INT32


class PerNeuron(Form):
    """One float32 per neuron, the mean over its inputs.

    Source: "Adam-mini: Use Fewer Learning Rates To Gain More" (Zhang et al., 2024), algorithm 1.
    """

    def lower(self, block: tf.Tensor, seed: Seed | None = None) -> Rows:
        """As Form.lower; of a block that has one number per neuron these."""
        return [tf.reduce_mean(block, axis=1, keepdims=True)]

    def lift(self, rows: Rows, inputs: int) -> tf.Tensor:
        """As Form.lift."""
        return tf.repeat(rows[0], inputs, axis=1)

    def pack(self, rows: Rows) -> list[tf.Tensor]:
        """As Form.pack."""
        return [_to_words(rows[0])]

    def unpack(self, words: tf.Tensor, neurons: tf.Tensor, inputs: int) -> Rows:
        """As Form.unpack."""
        return [_of_words(words, tf.float32, neurons, 1)]

    def num_words(self, neurons: tf.Tensor, inputs: int) -> tf.Tensor:
        """As Form.num_words."""
        return neurons

    def neuron_bytes(self, inputs: int) -> float:
        """As Form.neuron_bytes."""
        return _INT32


FORMS: dict[str, Form] = {
    "float32": Float(tf.float32),
    "bfloat16": Float(tf.bfloat16),
    "float16": Float(tf.float16),
    "int8": Integer(8),
    "int4": Integer(4),
    "halvings": Halvings(),
    "neuron": PerNeuron(),
}


def bits_to_floats(words: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """float32 in a shape of as many words."""
    return tf.reshape(tf.bitcast(words, tf.float32), shape)


def floats_to_bits(floats: tf.Tensor) -> tf.Tensor:
    """The words of float32 numbers: int32[entries]."""
    return tf.bitcast(tf.reshape(floats, (-1,)), tf.int32)


def _words_of(count: tf.Tensor, size: int) -> tf.Tensor:
    """Words that so many numbers of a size in bytes take."""
    each = _INT32 // size
    return (count + each - 1) // each


def _filled(flat: tf.Tensor, multiple: int) -> tf.Tensor:
    return tf.pad(flat, [[0, -tf.size(flat) % multiple]])


def _power(halvings: tf.Tensor) -> tf.Tensor:
    """2^-halvings, exactly."""
    return tf.bitcast(tf.bitwise.left_shift(_BIAS - halvings, _MANTISSA), tf.float32)


def _paired(flat: tf.Tensor) -> tf.Tensor:
    """The lower 4 bits of int8 numbers, two to a byte."""
    low, high = tf.unstack(tf.reshape(_filled(flat, 2), (-1, 2)), axis=1)
    return (low & 15) | tf.bitwise.left_shift(high, tf.constant(4, tf.int8))


def _unpaired(words: tf.Tensor, neurons: tf.Tensor, inputs: int) -> tf.Tensor:
    """The inverse: int8[neurons, inputs] in [-8, 7]."""
    pairs = tf.reshape(tf.bitcast(words, tf.int8), (-1,))
    four = tf.constant(4, tf.int8)
    low = tf.bitwise.right_shift(tf.bitwise.left_shift(pairs, four), four)
    both = tf.stack([low, tf.bitwise.right_shift(pairs, four)], axis=1)
    return tf.reshape(tf.reshape(both, (-1,))[: neurons * inputs], (neurons, inputs))


def _to_words(tensor: tf.Tensor) -> tf.Tensor:
    each = _INT32 // tensor.dtype.size
    if each == 1:
        return floats_to_bits(tensor)
    return tf.bitcast(tf.reshape(_filled(tf.reshape(tensor, (-1,)), each), (-1, each)), tf.int32)


def _of_words(words: tf.Tensor, dtype: tf.DType, neurons: tf.Tensor, inputs: int) -> tf.Tensor:
    flat = tf.reshape(tf.bitcast(words, dtype), (-1,))
    return tf.reshape(flat[: neurons * inputs], (neurons, inputs))
