"""What stays with a subnet from round to round, whatever neurons it holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.head import ParameterSpec
from sparse_ist_tf.ist.state import Weights
from sparse_ist_tf.ist.wholes import BLOCK_BYTES
from sparse_ist_tf.workers.link import Link, Shape


class Stay(NamedTuple):
    """An array that stays.

    Args:
        name: of the parameter.
        column: 0 for its weight, 1 and up for a moment.
    """

    name: str
    column: int


def staying(
    specs: Sequence[ParameterSpec], num_slots: int, biases: bool, moments: bool
) -> list[Stay]:
    """What stays of each subnet.

    Args:
        specs: the head's parameters.
        num_slots: moments of a weight.
        biases: do bias vectors stay?
        moments: do the moments of every weight stay? Those of a weight that stays do so too.
    """
    found = []
    for part in specs:
        stays = biases and len(part.shape) == 1
        found += [Stay(part.name, 0)] * stays
        found += [Stay(part.name, 1 + i) for i in range(num_slots * (moments or stays))]
    return found


class SlotStore:
    """Moments and biases that stay in the slot of their subnet instead of travelling.

    Source: paper section 3.2 in the way that its published code realises it.

    Args:
        names: what stays of each subnet.
        shape_of: from (parameter, subnet) to the shape of its arrays.
        hosted: hosted[worker], the subnets of each worker.
        link: to the other workers.
        variable_of: from (parameter, column, subnet) to where a hosted subnet's is; new variables
            where None.
    """

    def __init__(
        self,
        names: Sequence[Stay],
        shape_of: Callable[[str, int], tuple[int, ...]],
        hosted: Sequence[Sequence[int]],
        link: Link,
        variable_of: Callable[[str, int, int], tf.Variable] | None = None,
    ):
        self.link, self.hosted, self.names = link, hosted, list(names)
        subnets = [n for some in hosted for n in some]
        self.shapes = {n: [shape_of(name, n) for name, _ in names] for n in subnets}

        def made(name, column, n):
            return tf.Variable(tf.zeros(shape_of(name, n)), trainable=False)

        find = variable_of or made
        self.variables = {n: [find(*name, n) for name in names] for n in hosted[link.worker]}

    def read(self) -> dict[int, dict[Stay, tf.Tensor]]:
        """What each hosted subnet keeps; called inside strategy.run."""
        return {
            n: {
                name: variable.read_value()
                for name, variable in zip(self.names, variables, strict=True)
            }
            for n, variables in self.variables.items()
        }

    def write(self, values: Mapping[int, Mapping[Stay, tf.Tensor]]) -> None:
        """Keeps what the hosted subnets have made of it; called inside strategy.run."""
        for n, variables in self.variables.items():
            for name, variable in zip(self.names, variables, strict=True):
                variable.assign(values[n][name])

    def gather(self) -> dict[int, Weights]:
        """What all subnets keep, on the chief; empty elsewhere; called by all workers."""
        out = {}
        for worker, subnets in enumerate(self.hosted if self.names else ()):
            arrays = self._empty(subnets) if self.link.chief else []
            mine = [variable for n in subnets for variable in self.variables.get(n, ())]
            for some in self._blocks(subnets):
                block = None
                if worker == self.link.worker:
                    block = np.concatenate([_flat(mine[i])[part] for i, part in some])
                if worker and self.link.worker in (0, worker):
                    parcel = Shape((_count(some),)) if block is None else block
                    block = self.link.pass_on(parcel, worker, 0, purpose="checkpoint")
                if self.link.chief:
                    _fill(arrays, some, block)
            for n in subnets if self.link.chief else ():
                kept = out[n] = Weights()
                for name in self.names:
                    kept.set_column(*name, arrays.pop(0))
        return out

    def restore(self, slots: Mapping[int, Weights] | None) -> None:
        """Goes on from what was gathered, whatever the number of workers; called by all workers.

        Args:
            slots: on the chief, as gather returns it; None elsewhere.
        """
        for worker, subnets in enumerate(self.hosted if self.names else ()):
            kept, arrays = [], self._empty(subnets) if worker == self.link.worker else []
            if self.link.chief:
                kept = [slots[n].column(*name) for n in subnets for name in self.names]
            for some in self._blocks(subnets):
                block = None
                if self.link.chief:
                    block = np.concatenate([kept[i].ravel()[part] for i, part in some])
                if worker and self.link.worker in (0, worker):
                    parcel = Shape((_count(some),)) if block is None else block
                    block = self.link.pass_on(parcel, 0, worker, purpose="checkpoint")
                if worker == self.link.worker:
                    _fill(arrays, some, block)
            if worker == self.link.worker:
                for variable in (v for n in subnets for v in self.variables[n]):
                    variable.assign(arrays.pop(0))

    def _empty(self, subnets) -> list[np.ndarray]:
        """Arrays for all that a worker's subnets keep."""
        return [np.empty(shape, np.float32) for n in subnets for shape in self.shapes[n]]

    def _blocks(self, subnets) -> Iterator[list[tuple[int, slice]]]:
        """Of all that a worker's subnets keep, flat, as much at a time as BLOCK_BYTES hold.

        Yields:
            Which arrays, and which part of each.
        """
        some, room = [], BLOCK_BYTES // 4
        for i, size in enumerate(int(np.prod(s)) for n in subnets for s in self.shapes[n]):
            first = 0
            while first < size:
                stop = min(size, first + room)
                some.append((i, slice(first, stop)))
                room, first = room - (stop - first), stop
                if not room:
                    yield some
                    some, room = [], BLOCK_BYTES // 4
        if some:
            yield some


def _flat(variable: tf.Variable) -> np.ndarray:
    return variable.numpy().reshape(-1)


def _count(some: Sequence[tuple[int, slice]]) -> int:
    return sum(part.stop - part.start for _, part in some)


def _fill(
    arrays: Sequence[np.ndarray], some: Sequence[tuple[int, slice]], block: np.ndarray
) -> None:
    first = 0
    for i, part in some:
        count = part.stop - part.start
        arrays[i].reshape(-1)[part] = block[first : first + count]
        first += count
