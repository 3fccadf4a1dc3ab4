"""Head parameters of which a worker keeps its home shard and the blocks of its subnets.

Entry (i, j) of a matrix lives on worker (i + j) mod P, entry j of a vector on worker j mod P. As a
subnet takes random rows and columns, every pair of workers then has almost the same number of
entries to exchange, even where a layer is narrow: with whole rows or columns as homes the fullest
pair would carry 15 to 60 % more than the mean.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.head import ParameterSpec
from sparse_ist_tf.ist.partition import Partition
from sparse_ist_tf.ist.wholes import BLOCK_BYTES


@dataclasses.dataclass(frozen=True)
class Skew:
    """Where the entries of one parameter live.

    Args:
        spec: the parameter; a vector counts as a matrix of one row.
        num_workers: P.

    Example:
        >>> from sparse_ist_tf.ist.head import ParameterSpec
        >>> from sparse_ist_tf.ist.exchange.variables import Skew
        >>> Skew(ParameterSpec("k", (4, 6), (None, 0)), num_workers=2).home_size
        12
    """

    spec: ParameterSpec
    num_workers: int

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns."""
        shape = self.spec.shape
        return shape if len(shape) == 2 else (1, shape[0])

    @property
    def stride(self) -> int:
        """Entries of a row that one worker keeps."""
        return -(-self.matrix_shape[1] // self.num_workers)

    @property
    def home_size(self) -> int:
        """Entries of a home shard, padding included."""
        return self.matrix_shape[0] * self.stride

    def row_blocks(self, num_columns: int) -> Iterator[slice]:
        """All rows, some at a time: as many as BLOCK_BYTES have room for, at least one."""
        rows, entries = self.matrix_shape
        most = max(1, BLOCK_BYTES // (4 * entries * num_columns))
        for first in range(0, rows, most):
            yield slice(first, min(rows, first + most))

    def home_of(self, block: np.ndarray, worker: int, first_row: int = 0) -> np.ndarray:
        """What a worker keeps of some rows.

        Args:
            block: float32[rows, entries of a row, columns] of the whole parameter.
            worker: whose home shard.
            first_row: of these.

        Returns:
            float32[rows * stride, columns], zero where a row has no entry.
        """
        rows, _, columns = block.shape
        shard = np.zeros((rows, self.stride, columns), np.float32)
        for here, there in self._alike(worker, first_row):
            some = block[here, there]
            shard[here, : some.shape[1]] = some
        return shard.reshape(-1, columns)

    def whole_of(self, homes: Sequence[np.ndarray], first_row: int = 0) -> np.ndarray:
        """The inverse of home_of, from all workers' parts: float32[rows, entries, columns]."""
        columns, entries = homes[0].shape[1], self.matrix_shape[1]
        rows = len(homes[0]) // self.stride
        block = np.empty((rows, entries, columns), np.float32)
        for worker, home in enumerate(homes):
            shard = home.reshape(rows, self.stride, columns)
            for here, there in self._alike(worker, first_row):
                some = block[here, there]
                some[...] = shard[here, : some.shape[1]]
        return block

    def _alike(self, worker: int, first_row: int) -> Iterator[tuple[slice, slice]]:
        """Rows, counted from a first one, of which a worker keeps the same entries; and these."""
        for residue in range(self.num_workers):
            row = (residue - first_row) % self.num_workers
            entry = (worker - residue) % self.num_workers
            yield slice(row, None, self.num_workers), slice(entry, None, self.num_workers)

    def axes(self, partition: Partition | None, subnet: int) -> list[np.ndarray]:
        """The rows and columns that a subnet takes; all of them where partition is None."""
        layers = self.spec.layers if len(self.spec.shape) == 2 else (None, *self.spec.layers)
        return [
            np.arange(size)
            if layer is None or partition is None
            else partition.indices[layer][subnet]
            for size, layer in zip(self.matrix_shape, layers, strict=True)
        ]

    def counts(self, partition: Partition | None, subnet: int) -> np.ndarray:
        """How many entries of a subnet's block live on each worker: int64[P]."""
        rows, columns = (
            np.bincount(axis % self.num_workers, minlength=self.num_workers)
            for axis in self.axes(partition, subnet)
        )
        spread = [rows @ np.roll(columns[::-1], home + 1) for home in range(self.num_workers)]
        return np.array(spread)

    def in_home(self, partition: Partition | None, subnet: int, home: int) -> np.ndarray:
        """Where in a worker's home shard the entries of a subnet's block are that live there.

        Args:
            partition: of the round, None for the whole parameter.
            subnet: which.
            home: the worker.

        Returns:
            int32[n], in the order of in_block.
        """
        rows, columns = self.axes(partition, subnet)
        starts = (rows * self.stride).astype(np.int32)
        places = (columns // self.num_workers).astype(np.int32)
        return self._sums(starts, places, rows, columns, home)

    def in_block(self, partition: Partition | None, subnet: int, home: int) -> np.ndarray:
        """Where in a subnet's flat block the entries are that live on a worker; as in_home."""
        rows, columns = self.axes(partition, subnet)
        starts = np.arange(len(rows), dtype=np.int32) * np.int32(len(columns))
        places = np.arange(len(columns), dtype=np.int32)
        return self._sums(starts, places, rows, columns, home)

    def _sums(self, starts, places, rows, columns, home):
        """starts[i] + places[j] of the entries (i, j) that live on a worker, by residue of i."""
        rows, columns = rows % self.num_workers, columns % self.num_workers
        sums = []
        for residue in range(self.num_workers):
            here = starts[rows == residue]
            partner = (home - residue) % self.num_workers
            sums.append(np.add.outer(here, places[columns == partner]).ravel())
        return np.concatenate(sums)


def per_worker_variable(shape: tuple[int, ...], name: str) -> tf.Variable:
    """A float32 variable, zero at first, of which every worker has a value of its own.

    Returns:
        This worker's component of the distributed variable: unlike its container it can be
        updated entry by entry.
    """
    # Under a strategy the chief's initial value is broadcast: one row, as sizes may differ.
    variable = tf.Variable(
        tf.zeros((1, *shape[1:])),
        shape=(None, *shape[1:]),
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.NONE,
    )
    mine = tf.distribute.get_strategy().experimental_local_results(variable)[0]
    mine.assign(tf.zeros(shape))
    return mine


class SubnetPartitionedVariable:
    """One head parameter with its optimizer moments, as one worker keeps it.

    Between rounds there is the home shard; `Exchange.dispatch` fills the blocks of the hosted
    subnets and `Exchange.collect` writes them back. Entries that no subnet held stay untouched.
    Both are the exchange's, since all parameters of a head cross in one buffer, one all-to-all
    each way; a variable by itself would need a collective of its own.

    In terms of tf.distribute it is two SyncOnRead variables (synchronization ON_READ, aggregation
    NONE): every worker's component has its own value, and unlike a mirrored variable's its own
    shape. They are created under the strategy's scope, so that all workers create alike, and read
    and assigned by component inside strategy.run; tf.distribute itself never reduces them.

    Args:
        spec: the parameter.
        num_columns: 1 for the weight, plus one per optimizer moment that travels with it.
        worker: this worker's index.
        num_workers: P.
        block_sizes: entries of the block of each hosted subnet.

    Example:
        >>> from sparse_ist_tf.ist.head import ParameterSpec
        >>> from sparse_ist_tf.ist.exchange.variables import SubnetPartitionedVariable
        >>> kernel = ParameterSpec("dense_0/kernel", (4, 6), (None, 0))
        >>> variable = SubnetPartitionedVariable(kernel, 3, worker=0, num_workers=2,
        ...                                      block_sizes=(12,))
        >>> variable.home.numpy().shape, variable.blocks.numpy().shape
        ((12, 3), (12, 3))
    """

    def __init__(
        self,
        spec: ParameterSpec,
        num_columns: int,
        worker: int,
        num_workers: int,
        block_sizes: Sequence[int],
    ):
        self.spec, self.worker, self.num_columns = spec, worker, num_columns
        self.skew = Skew(spec, num_workers)
        self.block_sizes = tuple(block_sizes)
        name = spec.name.replace("/", "_")
        self.home = per_worker_variable((self.skew.home_size, num_columns), f"{name}_home")
        self.blocks = per_worker_variable((sum(block_sizes), num_columns), f"{name}_blocks")

    def home_rows(self, rows: slice) -> np.ndarray:
        """A part of this worker's home shard: float32[rows * stride, columns].

        Args:
            rows: of the parameter's matrix.
        """
        stride = self.skew.stride
        return tf.convert_to_tensor(self.home)[rows.start * stride : rows.stop * stride].numpy()

    def set_home_rows(self, rows: slice, shard: np.ndarray) -> None:
        """Sets what home_rows gives, or its first columns.

        Args:
            rows: of the parameter's matrix.
            shard: float32[rows * stride, columns].
        """
        stride = self.skew.stride
        part = self.home[rows.start * stride : rows.stop * stride, : shard.shape[1]]
        part.assign(shard)
