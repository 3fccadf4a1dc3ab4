"""The merged head between rounds, in one process: dealt in blocks, and put together again."""

from collections.abc import Mapping, Sequence

import numpy as np

from sparse_ist_tf.devices.wire.blocks import Columns, lowered
from sparse_ist_tf.devices.wire.records import Block, Layout
from sparse_ist_tf.ist.head import HeadSpec, ParameterSpec
from sparse_ist_tf.ist.partition import Partition
from sparse_ist_tf.ist.state import Weights


class MergedHead:
    """The head's parameters and the moments that travel with its neurons.

    Args:
        spec: its shape.
        weights: float32 by name; moments that are kept once per neuron have one axis.
        shares: of each subnet, numbers that add up to 1.
    """

    def __init__(self, spec: HeadSpec, weights: Weights, shares: Sequence[float]):
        self.spec, self.weights = spec, weights
        self.shares = np.asarray(shares, np.float32)

    @classmethod
    def zero_moments(
        cls, spec: HeadSpec, values: Mapping[str, np.ndarray], moments: Sequence[str]
    ) -> Weights:
        """A head at its beginning.

        Args:
            spec: its shape.
            values: its parameters.
            moments: forms of those that travel.
        """
        weights = Weights()
        for part in spec.parameters():
            neurons = (part.shape[_neuron_axis(part)],)
            shapes = [
                neurons if form == "neuron" and len(part.shape) == 2 else part.shape
                for form in moments
            ]
            columns = [np.zeros(shape, np.float32) for shape in shapes]
            weights.set_columns(part.name, [np.array(values[part.name], np.float32), *columns])
        return weights

    def deal(self, partition: Partition, subnet: int, layout: Layout) -> Block:
        """What a device gets of its neurons.

        Args:
            partition: of the round.
            subnet: which.
            layout: of the subnet.
        """
        columns = {
            part.name: [array[_places(part, array, partition, subnet)] for array in arrays]
            for part in self.spec.parameters()
            for arrays in [self.weights.columns(part.name)]
        }
        return lowered(layout, columns)

    def merge(self, partition: Partition, learnt: Mapping[int, Columns]) -> None:
        """Takes what subnets learnt; what nobody gives back stays as it is.

        The output bias, which all have, moves by the mean of its differences, by capacity.

        Args:
            partition: of the round.
            learnt: of each subnet that gave something back differences of weights, and moments.
        """
        *specs, last = self.spec.parameters()
        for subnet in sorted(learnt):
            for part in specs:
                weight, *moments = self.weights.columns(part.name)
                difference, *now = learnt[subnet][part.name]
                weight[_places(part, weight, partition, subnet)] += difference
                for moment, value in zip(moments, now, strict=True):
                    moment[_places(part, moment, partition, subnet)] = value
        if learnt:
            self._merge_shared(last.name, learnt)

    def _merge_shared(self, name: str, learnt: Mapping[int, Columns]) -> None:
        columns, order = self.weights.columns(name), sorted(learnt)
        shares = self.shares[order] / self.shares[order].sum()
        for column, array in enumerate(columns):
            total = np.zeros_like(array)
            for share, subnet in zip(shares, order, strict=True):
                total += share * learnt[subnet][name][column]
            array[...] = array + total if column == 0 else total


def _neuron_axis(part: ParameterSpec) -> int:
    """As ist.exchange.variables.neuron_axis; of what all subnets share the only one."""
    return max((axis for axis, layer in enumerate(part.layers) if layer is not None), default=0)


def _places(part: ParameterSpec, array: np.ndarray, partition: Partition, subnet: int) -> tuple:
    """Where a subnet's entries of an array are, as an index."""
    axes = list(zip(part.shape, part.layers, strict=True))
    if array.ndim < len(axes):  # one number per neuron
        axes = [axes[_neuron_axis(part)]]
    found = (
        np.arange(size) if layer is None else partition.indices[layer][subnet]
        for size, layer in axes
    )
    return np.ix_(*found)
