"""Arrays of a head of which a worker keeps the neurons that have their home there."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange.homes import Homes
from sparse_ist_tf.ist.head import ParameterSpec
from sparse_ist_tf.ist.wholes import BLOCK_BYTES


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


def neuron_axis(spec: ParameterSpec) -> int:
    """The axis by whose neurons a parameter is kept: the last one of a hidden layer."""
    return max(axis for axis, layer in enumerate(spec.layers) if layer is not None)


class SubnetPartitionedVariable:
    """A parameter of the head, or one of its moments, as one worker keeps it between rounds.

    A neuron lives whole on one worker: its weights from all inputs, its bias and their moments. A
    kernel behind the last hidden layer lives with the neurons that it comes from. In a round
    `Exchange` takes the part of each subnet out of the home shards and writes it back; what no
    subnet holds stays untouched.

    In terms of tf.distribute it is a SyncOnRead variable (synchronization ON_READ, aggregation
    NONE): every worker's component has its own value, and unlike a mirrored variable's its own
    shape. It is created under the strategy's scope, so that all workers create alike, and read and
    assigned by component inside strategy.run; tf.distribute itself never reduces it.

    Args:
        spec: of the array; one of its axes belongs to a hidden layer, by whose neurons it is cut.
        homes: of that layer's neurons.
        worker: this worker's index.

    Example:
        >>> from sparse_ist_tf.ist.exchange.homes import make_homes
        >>> from sparse_ist_tf.ist.exchange.variables import SubnetPartitionedVariable
        >>> from sparse_ist_tf.ist.head import ParameterSpec
        >>> kernel = ParameterSpec("dense_0/kernel", (4, 6), (None, 0))
        >>> variable = SubnetPartitionedVariable(kernel, make_homes(6, (0.5, 0.5)), worker=0)
        >>> variable.home.numpy().shape
        (3, 4)
    """

    def __init__(self, spec: ParameterSpec, homes: Homes, worker: int):
        self.spec, self.homes, self.worker = spec, homes, worker
        self.axis = neuron_axis(spec)
        is_vector = len(spec.shape) == 1
        self.inputs = 1 if is_vector else spec.shape[1 - self.axis]
        # The hidden layer that the inputs are neurons of, None where all subnets share them.
        self.input_layer = None if is_vector else spec.layers[1 - self.axis]
        # A subnet takes some inputs of a neuron, each an entry by itself; or all, as one row.
        rows, self._width = homes.counts[worker], self.inputs
        if self.input_layer is not None:
            rows, self._width = rows * self.inputs, 1
        self._number = tf.int32 if rows < 2**31 else tf.int64
        self.home = per_worker_variable((rows, self._width), spec.name.replace("/", "_"))

    def rows(self, slots: tf.Tensor, inputs: tf.Tensor | None) -> tf.Tensor:
        """Where some neurons' numbers are, for read and write.

        Args:
            slots: int32[n], of neurons of this worker.
            inputs: int32[m], ascending; None where a subnet takes all.
        """
        if inputs is None or self.input_layer is None:
            return slots
        slots, inputs = (tf.cast(index, self._number) for index in (slots, inputs))
        return tf.reshape(slots[:, None] * self.inputs + inputs, (-1,))

    def read(self, rows: tf.Tensor, num_inputs: int) -> tf.Tensor:
        """Some neurons' numbers: float32[neurons, num_inputs].

        Args:
            rows: as rows() gives them.
            num_inputs: of each neuron.
        """
        return tf.reshape(tf.gather(self.home, rows), (-1, num_inputs))

    def write(self, rows: tf.Tensor, values: tf.Tensor, is_difference: bool) -> tf.Operation:
        """Replaces some neurons' numbers, or adds to them.

        Args:
            rows: as rows() gives them.
            values: float32[neurons, inputs].
            is_difference: are they to be added?

        Returns:
            When it has.
        """
        updates = tf.reshape(values, (-1, self._width))
        scatter = tf.raw_ops.ResourceScatterUpdate
        if is_difference:
            scatter = tf.raw_ops.ResourceScatterAdd
        return scatter(resource=self.home.handle, indices=rows, updates=updates)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the whole array; a vector counts as a matrix of one row."""
        shape = self.spec.shape
        return shape if len(shape) == 2 else (1, shape[0])

    def row_blocks(self) -> Iterator[slice]:
        """All rows of the matrix, as many at a time as BLOCK_BYTES have room for."""
        rows, entries = self.matrix_shape
        most = max(1, BLOCK_BYTES // (4 * entries))
        for first in range(0, rows, most):
            yield slice(first, min(rows, first + most))

    def home_rows(self, rows: slice) -> np.ndarray:
        """What this worker keeps of some rows of the matrix: float32, in shape_of's shape."""
        if self._is_by_row:
            return self.read(self._slots_of(rows), self.inputs).numpy()
        if self.input_layer is None:
            mine = self.home[:, rows.start : rows.stop]
        else:
            mine = self.read(self._entries_of(rows), rows.stop - rows.start)
        return np.ascontiguousarray(mine.numpy().T)

    def set_home_rows(self, rows: slice, part: np.ndarray) -> None:
        """Sets what home_rows gives.

        Args:
            rows: of the matrix.
            part: float32, in shape_of's shape.
        """
        if self._is_by_row:
            self.write(self._slots_of(rows), tf.constant(part), is_difference=False)
        elif self.input_layer is None:
            self.home[:, rows.start : rows.stop].assign(part.T)
        else:
            entries = tf.constant(np.ascontiguousarray(part.T))
            self.write(self._entries_of(rows), entries, is_difference=False)

    def shape_of(self, rows: slice, worker: int) -> tuple[int, int]:
        """The shape of what a worker keeps of some rows of the matrix."""
        if self._is_by_row:
            return int((self.homes.owners[rows] == worker).sum()), self.matrix_shape[1]
        return rows.stop - rows.start, self.homes.counts[worker]

    def cut(self, block: np.ndarray, rows: slice, worker: int) -> np.ndarray:
        """What a worker keeps of some rows: of block, float32[rows, entries of a row]."""
        if self._is_by_row:
            return block[self.homes.owners[rows] == worker]
        return np.ascontiguousarray(block[:, self.homes.of(worker)])

    def join(self, parts: Sequence[np.ndarray], rows: slice) -> np.ndarray:
        """The inverse of cut, from all workers' parts: float32[rows, entries of a row]."""
        block = np.empty((rows.stop - rows.start, self.matrix_shape[1]), np.float32)
        for worker, part in enumerate(parts):
            if self._is_by_row:
                block[self.homes.owners[rows] == worker] = part
            else:
                block[:, self.homes.of(worker)] = part
        return block

    @property
    def _is_by_row(self) -> bool:
        """Is a row of the matrix a neuron's?"""
        return len(self.spec.shape) == 2 and self.axis == 0

    def _slots_of(self, rows):
        """Where the neurons are that some rows of the matrix belong to."""
        mine = self.homes.of(self.worker)
        return tf.range(np.sum(mine < rows.start), np.sum(mine < rows.stop))

    def _entries_of(self, rows):
        """Where the inputs are, of all neurons, that some rows of the matrix belong to."""
        slots = tf.range(self.homes.counts[self.worker])
        return self.rows(slots, tf.range(rows.start, rows.stop))
