"""Which examples a subnet sees at which step, and in which pass over its shard."""

import numpy as np

from sparse_ist_tf.streams import Stream


class BatchStream:
    """The batches of one subnet: its shard, shuffled anew in each pass, cut as it comes.

    A function of (seed, subnet, step) alone, so the number of workers changes nothing.

    Args:
        shard: int64[n], the examples that the subnet draws from.
        batch_size: at least 1.
        seed: at least 0.
        subnet: which.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.inputs.batches import BatchStream
        >>> BatchStream(np.arange(10), 4, seed=0, subnet=0).rows(first_step=5, steps=2).shape
        (2, 4)
    """

    def __init__(self, shard: np.ndarray, batch_size: int, seed: int, subnet: int):
        self.shard, self.batch_size = np.asarray(shard), batch_size
        self.seed, self.subnet = seed, subnet
        self._pass, self._order = -1, self.shard

    def rows(self, first_step: int, steps: int) -> np.ndarray:
        """The examples of some steps.

        Args:
            first_step: counted from 0 over the whole run.
            steps: how many.

        Returns:
            int32[steps, batch_size].
        """
        start = first_step * self.batch_size
        left, out = steps * self.batch_size, []
        while left:
            index, offset = divmod(start, len(self.shard))
            piece = self.pass_rows(index)[offset : offset + left]
            out.append(piece)
            start += len(piece)
            left -= len(piece)
        return np.concatenate(out).astype(np.int32).reshape(steps, self.batch_size)

    def passes(self, first_step: int, steps: int) -> np.ndarray:
        """The passes over the shard that these examples belong to, counted from 0.

        Args:
            first_step: counted from 0 over the whole run.
            steps: how many.

        Returns:
            int64[steps, batch_size], in the order of rows().
        """
        drawn = np.arange(first_step * self.batch_size, (first_step + steps) * self.batch_size)
        return (drawn // len(self.shard)).reshape(steps, self.batch_size)

    def pass_rows(self, index: int) -> np.ndarray:
        """The shard in the order of a pass, int64[n]; passes count from 0."""
        if index != self._pass:
            rng = Stream.BATCHES.rng(self.seed, self.subnet, index)
            self._pass, self._order = index, rng.permutation(self.shard)
        return self._order
