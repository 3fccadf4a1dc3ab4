"""Messages whose length varies, in pieces whose lengths don't.

TensorFlow keeps for ever what a collective's key stands for, the array's shape included, and has
worker 0 say it whenever a key is new. So keys have to be used again: memory stays as it is, and a
message takes one way across a link where it took four. A piece is the one that crosses every time,
or one of doubling sizes that crosses where the message's length, as a binary number, says so.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

ALIGNED = 16  # words of the 64 bytes at which TensorFlow slices without a copy
NUM_KEYS = 32  # of a channel: one for each piece that there may be
_USUAL = 3  # digits


class Piece(NamedTuple):
    """A part of a message.

    Args:
        key: of the collective that it crosses by.
        size: words.
        first: int32[1], the first word.
        crosses: bool, whether the message has it; None of one that every message has.
    """

    key: int
    size: int
    first: tf.Tensor
    crosses: tf.Tensor | None

    def run(self, make: Callable[[tf.Tensor], tf.Tensor], given: tf.Tensor) -> tf.Tensor:
        """What a part of a graph makes where the piece crosses; elsewhere it isn't run.

        A tf.cond that holds a collective would be run behind all others: TensorFlow orders what has
        effects, unless it is a collective itself.

        Args:
            make: from `given` to int32[n].
            given: of which everything has to come that make runs.

        Returns:
            int32[n], or int32[0].
        """
        if self.crosses is None:
            return make(given)
        nothing, _ = tf.raw_ops.Switch(data=tf.zeros((0,), tf.int32), pred=self.crosses)
        _, begun = tf.raw_ops.Switch(data=given, pred=self.crosses)
        return tf.raw_ops.Merge(inputs=[nothing, make(begun)]).output


class Channel(NamedTuple):
    """What crosses from one worker to another again and again; both know it alike.

    Args:
        key: the first of NUM_KEYS that are its own among those of the two.
        least: words that always cross, a multiple of ALIGNED.
        unit: words that lengths are rounded up to a multiple of, behind these.
        usual: digits, of units, that are used often.
        digits: digits that the longest message takes.
    """

    key: int
    least: int
    unit: int
    usual: int
    digits: int

    @classmethod
    def of(cls, key: int, least: int, usual: int, most: int) -> "Channel":
        """A channel for messages of some length.

        Three digits are what is between least and usual: with lengths that are normally
        distributed, from a deviation below the mean to two and a half above it, a message is 2.2
        pieces, and 0.3 deviations more than it has to be.

        Args:
            key: as in Channel.
            least: words that few messages have fewer of.
            usual: words that few messages have more of.
            most: words that none has more of.

        Example:
            >>> from sparse_ist_tf.workers.channel import Channel
            >>> Channel.of(1, least=4000, usual=7500, most=16384)
            Channel(key=1, least=4000, unit=512, usual=3, digits=5)
        """
        if most == least:
            return cls(key, _aligned(most), ALIGNED, 0, 0)
        least = least // ALIGNED * ALIGNED
        unit = max(ALIGNED, _aligned((usual - least) / ((1 << _USUAL) - 1)))
        digits = math.ceil((most - least) / unit).bit_length()
        return cls(key, least, unit, min(_USUAL, digits), digits)

    def length(self, num_words: tf.Tensor, is_first: tf.Tensor) -> tf.Tensor:
        """What crosses of a message: int32, words.

        Args:
            num_words: int32, of the message.
            is_first: bool, whether it is the first one: it has all pieces that are usual, and the
                later ones none with a key that is new.
        """
        units = tf.maximum(num_words - self.least + self.unit - 1, 0) // self.unit
        if self.usual:
            usual = (1 << self.usual) - 1
            units = tf.where(is_first, units | usual, units)
        return self.least + self.unit * units

    def pieces(self, length: tf.Tensor) -> list[Piece]:
        """The pieces that there may be, in their order.

        Args:
            length: as length() has it.
        """
        pieces = [Piece(self.key, self.least, tf.constant([0]), None)] if self.least else []
        if not self.digits:
            return pieces
        units = (length - self.least) // self.unit
        digits = list(reversed(range(self.digits)))
        crosses = tf.bitwise.bitwise_and(units, [1 << digit for digit in digits]) > 0
        sizes = tf.where(crosses, [self.unit << digit for digit in digits], 0)
        firsts = self.least + tf.cumsum(sizes, exclusive=True)
        each = zip(digits, tf.split(firsts, self.digits), tf.unstack(crosses), strict=True)
        return pieces + [Piece(self.key + 1 + i, self.unit << i, *found) for i, *found in each]


def _aligned(words: float) -> int:
    return math.ceil(words / ALIGNED) * ALIGNED
