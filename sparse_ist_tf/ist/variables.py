"""Head parameters of which a worker keeps its home shard and the blocks of its subnets.

Entry (i, j) of a matrix lives on worker (i + j) mod P, entry j of a vector on worker j mod P. As a
subnet takes random rows and columns, every pair of workers then has almost the same number of
entries to exchange, even where a layer is narrow: with whole rows or columns as homes the fullest
pair would carry 15 to 60 % more than the mean.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.head import ParameterSpec
from sparse_ist_tf.ist.partition import Partition


@dataclasses.dataclass(frozen=True)
class Skew:
    """Where the entries of one parameter live.

    Args:
        spec: the parameter; a vector counts as a matrix of one row.
        num_workers: P.

    Example:
        >>> from sparse_ist_tf.ist.head import ParameterSpec
        >>> from sparse_ist_tf.ist.variables import Skew
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
        >>> from sparse_ist_tf.ist.variables import SubnetPartitionedVariable
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

    def home_of(self, whole: np.ndarray, worker: int) -> np.ndarray:
        """A worker's home shard of a whole parameter.

        Args:
            whole: float32[entries, columns], row-major.
            worker: whose.

        Returns:
            float32[home_size, columns].
        """
        shard = np.zeros((self.skew.home_size, whole.shape[1]), np.float32)
        places = self.skew.in_block(None, 0, worker)
        shard[self.skew.in_home(None, 0, worker)] = whole[places]
        return shard

    def whole_of(self, homes: Sequence[np.ndarray]) -> np.ndarray:
        """The whole parameter from the home shards of all workers: float32[entries, columns]."""
        whole = np.empty((int(np.prod(self.spec.shape)), self.num_columns), np.float32)
        for worker, shard in enumerate(homes):
            places = self.skew.in_block(None, 0, worker)
            whole[places] = shard[self.skew.in_home(None, 0, worker)]
        return whole
