"""Whole parameters from all home shards, and back: what a checkpoint is made of."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from sparse_ist_tf.ist.exchange.variables import SubnetPartitionedVariable
from sparse_ist_tf.ist.wholes import Wholes
from sparse_ist_tf.workers.link import Link, Shape


def gather(
    link: Link, variables: Iterable[SubnetPartitionedVariable], wholes: Wholes
) -> Iterator[np.ndarray | None]:
    """Whole arrays, on the chief alone; called by all workers.

    Args:
        link: to the other workers.
        variables: of each an array is wanted.
        wholes: where the chief puts them together, a block of rows at a time.

    Yields:
        float32 in the array's shape on the chief; None elsewhere.
    """
    for variable in variables:
        whole = wholes.array(variable.spec.shape) if link.chief else None
        for rows in variable.row_blocks():
            mine = variable.home_rows(rows)
            if whole is None:
                link.pass_on(mine, link.worker, 0, purpose="checkpoint")
                continue
            shapes = (Shape(variable.shape_of(rows, w)) for w in range(1, link.num_workers))
            parts = [
                link.pass_on(shape, w, 0, purpose="checkpoint") for w, shape in enumerate(shapes, 1)
            ]
            whole.write(variable.join([mine, *parts], rows))
        yield whole.array() if whole is not None else None


def scatter(
    link: Link,
    variables: Sequence[SubnetPartitionedVariable],
    wholes: Sequence[np.ndarray] | None,
) -> None:
    """Sends each worker its home shards of what the chief holds; called by all workers.

    Args:
        link: to the other workers.
        variables: that take them.
        wholes: as gather gives them, on the chief; None elsewhere.
    """
    for i, variable in enumerate(variables):
        for rows in variable.row_blocks():
            if wholes is None:
                shape = Shape(variable.shape_of(rows, link.worker))
                part = link.pass_on(shape, 0, link.worker, purpose="checkpoint")
            else:
                block = wholes[i].reshape(variable.matrix_shape)[rows]
                for worker in range(1, link.num_workers):
                    shard = variable.cut(block, rows, worker)
                    link.pass_on(shard, 0, worker, purpose="checkpoint")
                part = variable.cut(block, rows, 0)
            variable.set_home_rows(rows, part)
