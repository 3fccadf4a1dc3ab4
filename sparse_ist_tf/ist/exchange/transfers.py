"""How blocks travel between home shards and subnets: one all-to-all each way in a round."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange.variables import Skew, SubnetPartitionedVariable
from sparse_ist_tf.ist.partition import Partition
from sparse_ist_tf.ist.wholes import Wholes
from sparse_ist_tf.workers.ledger import Purpose
from sparse_ist_tf.workers.link import Link, Shape


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which entries travel in a round, as index vectors; the same partition gives the same plan.

    Args:
        serve: serve[variable][worker], places in this worker's home shard that the worker needs.
        hold: hold[variable][home], places in this worker's blocks whose entries live there; empty
            with one worker, which serves in the order of its blocks.
        chunk: rows of the fullest pair, for which the buffer has room from every worker.
    """

    serve: list[list[np.ndarray | tf.Tensor]]
    hold: list[list[np.ndarray | tf.Tensor]]
    chunk: int | tf.Tensor


def make_plan(
    skews: Sequence[Skew],
    partition: Partition,
    hosted: Sequence[Sequence[int]],
    worker: int,
) -> Plan:
    """Works out what one worker sends and receives in a round.

    Args:
        skews: of the partitioned parameters.
        partition: of the round.
        hosted: hosted[worker], the subnets of each worker.
        worker: this worker.

    Example:
        >>> from sparse_ist_tf.ist.exchange.transfers import make_plan
        >>> from sparse_ist_tf.ist.head import ParameterSpec
        >>> from sparse_ist_tf.ist.partition import make_partition
        >>> from sparse_ist_tf.ist.exchange.variables import Skew
        >>> skew = Skew(ParameterSpec("k", (4, 6), (None, 0)), num_workers=2)
        >>> make_plan([skew], make_partition(0, 0, (6,), 2), [(0,), (1,)], worker=0).chunk
        6
    """
    workers = range(len(hosted))
    pairs = np.zeros((len(hosted), len(hosted)), np.int64)
    for skew in skews:
        for w in workers:
            pairs[w] += sum(skew.counts(partition, n) for n in hosted[w])
    chunk = int(pairs.max())
    serve, hold = [], []
    for skew in skews:
        serve.append(
            [
                np.concatenate([skew.in_home(partition, n, worker) for n in hosted[w]])
                for w in workers
            ]
        )
        if len(hosted) == 1:
            continue
        starts = np.cumsum([0] + [skew.counts(partition, n).sum() for n in hosted[worker]])
        hold.append(
            [
                np.concatenate(
                    [
                        skew.in_block(partition, n, home) + np.int32(start)
                        for n, start in zip(hosted[worker], starts[:-1], strict=True)
                    ]
                )
                for home in workers
            ]
        )
    return Plan(serve, hold, chunk)


class Exchange:
    """Moves all parameters of a head between home shards and blocks.

    Everything is packed into one buffer: one all-to-all each way; one worker packs and sends
    nothing. `shared` parameters (the output bias) belong to all subnets; their copies travel with
    collect to every worker, which averages them by capacity in the order of the subnets.

    Args:
        link: to the other workers.
        variables: the partitioned parameters.
        hosted: hosted[worker], the subnets of each worker.
        shared_size: entries of all shared parameters together.
        num_columns: weight and travelling moments.
    """

    def __init__(
        self,
        link: Link,
        variables: Sequence[SubnetPartitionedVariable],
        hosted: Sequence[Sequence[int]],
        shared_size: int,
        num_columns: int,
    ):
        self.link, self.variables, self.hosted = link, list(variables), hosted
        self.shared_size, self.num_columns = shared_size, num_columns
        self._purpose: dict[Purpose, int] = {"weights": 1, "moments": num_columns - 1}
        self.most_hosted = max(len(subnets) for subnets in hosted)

    def plan(self, partition: Partition) -> Plan:
        """The plan of a round; needs no other worker."""
        skews = [variable.skew for variable in self.variables]
        return make_plan(skews, partition, self.hosted, self.link.worker)

    def dispatch(self, plan: Plan, key: tf.Tensor) -> None:
        """Fills the blocks from the home shards; called inside strategy.run.

        Args:
            plan: of the round, its arrays as tensors.
            key: from Link.next_key.
        """
        rows = [
            [tf.gather(v.home, places) for v, places in zip(self.variables, row, strict=True)]
            for row in zip(*plan.serve, strict=True)
        ]
        if self.link.num_workers == 1:
            for variable, block in zip(self.variables, rows[0], strict=True):
                variable.blocks.assign(block)
            return
        got = self.link.all_to_all(self._pack(rows, plan.chunk), key, self._purpose)
        blocks = [variable.blocks for variable in self.variables]
        self._unpack(got, blocks, plan.hold, [0] * len(self.hosted))

    def collect(self, plan: Plan, shared: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Writes the blocks back to the home shards; called inside strategy.run.

        Args:
            plan: as for dispatch.
            shared: float32[hosted subnets, shared_size, columns], this worker's copies.
            key: from Link.next_key.

        Returns:
            float32[N, shared_size, columns], the copies of all subnets.
        """
        if self.link.num_workers == 1:
            for variable, (places,) in zip(self.variables, plan.serve, strict=True):
                blocks = tf.convert_to_tensor(variable.blocks)
                variable.home.scatter_update(tf.IndexedSlices(blocks, places))
            return shared
        rows = [
            [tf.gather(v.blocks, places) for v, places in zip(self.variables, row, strict=True)]
            for row in zip(*plan.hold, strict=True)
        ]
        missing = self.most_hosted - shared.shape[0]
        copies = tf.pad(shared, [[0, missing], [0, 0], [0, 0]])
        copies = tf.reshape(copies, (-1, self.num_columns))
        rows = [[copies, *row] for row in rows]
        extra = self.most_hosted * self.shared_size
        packed = self._pack(rows, plan.chunk + extra)
        got = self.link.all_to_all(packed, key, self._purpose)
        homes = [variable.home for variable in self.variables]
        self._unpack(got, homes, plan.serve, [extra] * len(self.hosted))
        shape = (-1, self.most_hosted, self.shared_size, self.num_columns)
        copies = tf.reshape(got[:, :extra], shape)
        return tf.concat([copies[w, : len(s)] for w, s in enumerate(self.hosted)], axis=0)

    def _pack(self, rows, chunk) -> tf.Tensor:
        """[P, chunk, columns] from a list of pieces per worker, copied once."""
        padded = []
        for pieces in rows:
            room = chunk - tf.add_n([tf.shape(piece)[0] for piece in pieces])
            padded += [*pieces, tf.zeros((room, self.num_columns))]
        return tf.reshape(tf.concat(padded, axis=0), (len(rows), chunk, self.num_columns))

    def _unpack(self, got, targets, places, starts) -> None:
        """Writes what each worker sent, from its start on, to places[target][worker]."""
        for target, row in zip(targets, places, strict=True):
            for worker, those in enumerate(row):
                stop = starts[worker] + tf.size(those)
                piece = got[worker, starts[worker] : stop]
                target.scatter_update(tf.IndexedSlices(piece, those))
                starts[worker] = stop

    def lower_bound_bytes(self) -> float:
        """The least that this worker has to send in a round: 2 S (P - 1) / P, times 4 bytes."""
        workers = self.link.num_workers
        entries = sum(sum(variable.block_sizes) for variable in self.variables)
        return 2 * entries * (workers - 1) / workers * 4 * self.num_columns

    def gather(self, wholes: Wholes) -> list[list[np.ndarray]] | None:
        """Whole parameters, on the chief alone; called by all workers.

        Args:
            wholes: where the chief puts them together, a block of rows at a time.

        Returns:
            Of each parameter its weight and travelling moments, float32 in its shape.
        """
        found = []
        for variable in self.variables:
            skew, columns = variable.skew, range(self.num_columns)
            made = [wholes.array(skew.spec.shape) for _ in columns if self.link.chief]
            for rows in skew.row_blocks(self.num_columns):
                parts = self._gather_rows(variable, rows)
                if parts:
                    block = skew.whole_of(parts, rows.start)
                    for column, array in enumerate(made):
                        array.write(block[..., column])
            found.append([array.array() for array in made])
        return found if self.link.chief else None

    def _gather_rows(self, variable, rows) -> list[np.ndarray] | None:
        """What all workers keep of some rows, on the chief."""
        mine = variable.home_rows(rows)
        if not self.link.chief:
            self.link.pass_on(mine, self.link.worker, 0, purpose="checkpoint")
            return None
        like, others = Shape(mine.shape), range(1, self.link.num_workers)
        parts = (self.link.pass_on(like, w, 0, purpose="checkpoint") for w in others)
        return [mine, *parts]

    def set_homes(self, parameters: Iterable[Iterable[np.ndarray]]) -> None:
        """Cuts this worker's home shards out of whole parameters; sends nothing.

        Args:
            parameters: each as blocks of its rows, one behind the other: float32[rows, entries of
                a row, columns]; columns that it lacks keep their values.
        """
        for variable, blocks in zip(self.variables, parameters, strict=True):
            first = 0
            for block in blocks:
                rows = slice(first, first + len(block))
                shard = variable.skew.home_of(block, self.link.worker, first)
                variable.set_home_rows(rows, shard)
                first = rows.stop

    def scatter(self, wholes: Sequence[Sequence[np.ndarray]] | None) -> None:
        """Sends each worker its home shards of what the chief holds; called by all workers.

        Args:
            wholes: as gather returns them, on the chief; None elsewhere.
        """
        for i, variable in enumerate(self.variables):
            for rows in variable.skew.row_blocks(self.num_columns):
                shard = self._scatter_rows(variable.skew, rows, wholes and wholes[i])
                variable.set_home_rows(rows, shard)

    def _scatter_rows(self, skew, rows, whole) -> np.ndarray:
        """This worker's part of some rows; the chief, who has them, sends the others theirs."""
        if not self.link.chief:
            shape = Shape(((rows.stop - rows.start) * skew.stride, self.num_columns))
            return self.link.pass_on(shape, 0, self.link.worker, purpose="checkpoint")
        block = np.stack([column.reshape(skew.matrix_shape)[rows] for column in whole], axis=-1)
        for worker in range(1, self.link.num_workers):
            shard = skew.home_of(block, worker, rows.start)
            self.link.pass_on(shard, 0, worker, purpose="checkpoint")
        return skew.home_of(block, 0, rows.start)
