"""Messages whose length varies, in pieces whose lengths don't.

TensorFlow keeps for ever what a collective's key stands for, the array's shape included, and has
worker 0 say it whenever a key is new. So keys have to be used again: memory stays as it is, and a
message takes one way across a link where it took four. A piece is the one that crosses every time,
or one of doubling sizes that crosses where the message's length, as a binary number, says so.

TensorFlow is imported where graphs are made: who asks for numbers alone doesn't wait for it.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tensorflow as tf

ALIGNED = 16  # words of the 64 bytes at which TensorFlow slices without a copy
NUM_KEYS = 32  # of a channel: one for each piece that there may be
FILLING = 0.03  # of a message, at most, where that takes no more digits than USUAL has
_ABOVE = 2.5  # deviations above the mean that usual digits end


class Usual(NamedTuple):
    """Digits that say usual lengths, and what they cost where lengths are normally distributed.

    Args:
        digits: how many.
        below: how many deviations below the mean begins what they say.
        filling: what fills up a message, in deviations.
        pieces: of a message, the one that always crosses included.
    """

    digits: int
    below: float
    filling: float
    pieces: float


USUAL = (Usual(3, 1.0, 0.30, 2.2), Usual(4, 1.5, 0.155, 2.77), Usual(5, 2.0, 0.08, 3.39))


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
    first: "tf.Tensor"
    crosses: "tf.Tensor | None"

    def run(self, make: Callable[["tf.Tensor"], "tf.Tensor"], given: "tf.Tensor") -> "tf.Tensor":
        """What a part of a graph makes where the piece crosses; elsewhere it isn't run.

        A tf.cond that holds a collective would be run behind all others: TensorFlow orders what has
        effects, unless it is a collective itself.

        Args:
            make: from `given` to int32[n].
            given: of which everything has to come that make runs.

        Returns:
            int32[n], or int32[0].
        """
        import tensorflow as tf

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
    def of(cls, key: int, mean: float, deviation: float, most: int) -> "Channel":
        """A channel for messages of some length.

        A message is 2.2 to 3.4 pieces in the mean. The more lengths differ the more there are, so
        that few words are filled up.

        Args:
            key: as in Channel.
            mean: of the messages' words.
            deviation: of these, the standard one; 0 where all messages have the most.
            most: words that no message has more of.

        Example:
            >>> from sparse_ist_tf.workers.channel import Channel
            >>> Channel.of(1, mean=5000, deviation=400, most=16384)
            Channel(key=1, least=4592, unit=208, usual=3, digits=6)
        """
        if not deviation:
            return cls(key, _aligned(most), ALIGNED, 0, 0)
        few = (usual for usual in USUAL if usual.filling * deviation <= FILLING * mean)
        usual = next(few, USUAL[-1])
        least = int(max(0, mean - usual.below * deviation)) // ALIGNED * ALIGNED
        spanned = (usual.below + _ABOVE) * deviation
        unit = max(ALIGNED, _aligned(spanned / ((1 << usual.digits) - 1)))
        digits = math.ceil(max(0, most - least) / unit).bit_length()
        return cls(key, least, unit, min(usual.digits, digits), digits)

    def length(self, num_words: "tf.Tensor", is_first: "tf.Tensor") -> "tf.Tensor":
        """What crosses of a message: int32, words.

        Args:
            num_words: int32, of the message.
            is_first: bool, whether it is the first one: it has all pieces that are usual, and the
                later ones none with a key that is new.
        """
        import tensorflow as tf

        units = tf.maximum(num_words - self.least + self.unit - 1, 0) // self.unit
        if self.usual:
            usual = (1 << self.usual) - 1
            units = tf.where(is_first, units | usual, units)
        return self.least + self.unit * units

    def pieces(self, length: "tf.Tensor") -> list[Piece]:
        """The pieces that there may be, in their order.

        Args:
            length: as length() has it.
        """
        import tensorflow as tf

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
