"""Where the neurons of a round are: which subnet holds them, and which worker keeps them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange.homes import Homes
from sparse_ist_tf.ist.exchange.parameters import RowsOf
from sparse_ist_tf.ist.exchange.variables import SubnetPartitionedVariable
from sparse_ist_tf.ist.partition import Partition


class Dealt(NamedTuple):
    """Who holds which neuron in a round, as graphs take it.

    Args:
        is_first: bool, whether it is the first round that an Exchange makes.
        neurons: of each hidden layer int32[width]: those of subnet 0, of subnet 1, ..., ascending.
    """

    is_first: tf.Tensor
    neurons: tuple[tf.Tensor, ...]

    @classmethod
    def of(cls, partition: Partition, is_first: bool = False) -> "Dealt":
        """The same of a partition."""
        layers = (np.concatenate(parts).astype(np.int32) for parts in partition.indices)
        return cls(tf.constant(is_first), tuple(map(tf.constant, layers)))


class Places:
    """Where the neurons of a round are, worked out once for a graph.

    Args:
        dealt: of the round.
        sizes: sizes[layer][subnet], neurons of each hidden layer.
        homes: of each hidden layer's neurons.
        worker: this worker's index.
    """

    def __init__(
        self, dealt: Dealt, sizes: Sequence[Sequence[int]], homes: Sequence[Homes], worker: int
    ):
        self.dealt, self._worker = dealt, worker
        self._neurons = [
            tf.split(neurons, list(layer))
            for neurons, layer in zip(dealt.neurons, sizes, strict=True)
        ]
        self._owners = [
            tf.split(tf.gather(home.owners, neurons), list(layer))
            for home, neurons, layer in zip(homes, dealt.neurons, sizes, strict=True)
        ]
        self._slots = [
            tf.split(tf.gather(home.slots, neurons), list(layer))
            for home, neurons, layer in zip(homes, dealt.neurons, sizes, strict=True)
        ]
        self._found: dict = {}

    def owned(self, subnet: int, layer: int, worker: int, some: slice) -> tf.Tensor:
        """Which of some neurons of a subnet a worker keeps, as places among these: int32."""
        key = subnet, layer, worker, some.start, some.stop
        if key not in self._found:
            is_owned = self._owners[layer][subnet][some] == worker
            self._found[key] = tf.cast(tf.where(is_owned)[:, 0], tf.int32)
        return self._found[key]

    def order(self, subnet: int, layer: int, num_workers: int, some: slice) -> tf.Tensor:
        """Of some neurons of a subnet, home by home, the ascending order."""
        key = subnet, layer, None, some.start, some.stop
        if key not in self._found:
            owned = [self.owned(subnet, layer, worker, some) for worker in range(num_workers)]
            self._found[key] = tf.math.invert_permutation(tf.concat(owned, axis=0))
        return self._found[key]

    def rows_of(self, subnet: int, layer: int, some: slice) -> RowsOf:
        """Where variables keep the part of some neurons of a subnet that is here.

        Args:
            subnet: which.
            layer: that its neurons are of.
            some: of them.
        """
        found: dict = {}  # indices of single numbers are as many as these: gone with their piece

        def rows(variable: SubnetPartitionedVariable) -> tf.Tensor:
            inputs = variable.input_layer
            key = inputs, variable.inputs
            if key not in found:
                owned = self.owned(subnet, layer, self._worker, some)
                slots = tf.gather(self._slots[layer][subnet][some], owned)
                columns = None if inputs is None else self._neurons[inputs][subnet]
                found[key] = variable.rows(slots, columns)
            return found[key]

        return rows
