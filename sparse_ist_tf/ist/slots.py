"""What stays with a subnet from round to round, whatever neurons it holds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange.variables import per_worker_variable
from sparse_ist_tf.ist.head import ParameterSpec
from sparse_ist_tf.ist.state import Weights
from sparse_ist_tf.workers.link import Link, Shape


class SlotStore:
    """Moments and biases that stay in the slot of their subnet instead of travelling.

    Source: paper section 3.2 in the way that its published code realises it.

    Args:
        specs: the head's parameters.
        block_shape: from (parameter, subnet) to the shape of the subnet's block.
        hosted: hosted[worker], the subnets of each worker.
        link: to the other workers.
        num_slots: moments of a weight.
        biases: do bias vectors stay?
        moments: do the moments of every weight stay? Those of a weight that stays do so too.
    """

    def __init__(
        self,
        specs: Sequence[ParameterSpec],
        block_shape: Callable[[ParameterSpec, int], tuple[int, ...]],
        hosted: Sequence[Sequence[int]],
        link: Link,
        num_slots: int,
        biases: bool,
        moments: bool,
    ):
        self.link, self.hosted = link, hosted
        # What stays: names of parameters, and 0 for their weight or 1 and up for a moment.
        self.names: list[tuple[str, int]] = []
        parts = []
        for part in specs:
            stays = biases and len(part.shape) == 1
            count = num_slots * (moments or stays)
            columns = [0] * stays + list(range(1, 1 + count))
            self.names += [(part.name, column) for column in columns]
            parts += [part] * len(columns)
        subnets = sorted(n for some in hosted for n in some)
        self.shapes = {n: [block_shape(part, n) for part in parts] for n in subnets}
        self.sizes = {n: sum(map(_size, shapes)) for n, shapes in self.shapes.items()}
        self.mine = hosted[link.worker]
        # One for all hosted subnets: every worker has to make as many variables as the others.
        self.variable = None
        if self.names:
            self.variable = per_worker_variable((sum(self.sizes[n] for n in self.mine),), "slots")

    def read(self) -> dict[int, dict[tuple[str, int], tf.Tensor]]:
        """What each hosted subnet keeps, as names has it; called inside strategy.run."""
        if not self.names:
            return {n: {} for n in self.mine}
        sizes = [size for n in self.mine for size in self._sizes(n)]
        parts = iter(tf.split(tf.ensure_shape(self.variable, (sum(sizes),)), sizes))
        return {
            n: {
                name: tf.reshape(next(parts), shape)
                for name, shape in zip(self.names, self.shapes[n], strict=True)
            }
            for n in self.mine
        }

    def write(self, values: Mapping[int, Mapping[tuple[str, int], tf.Tensor]]) -> None:
        """Keeps what the hosted subnets have made of it; called inside strategy.run."""
        if self.names:
            flat = [tf.reshape(values[n][name], (-1,)) for n in self.mine for name in self.names]
            self.variable.assign(tf.concat(flat, axis=0))

    def gather(self) -> dict[int, Weights]:
        """What all subnets keep, on the chief; empty elsewhere; called by all workers."""
        out = {}
        for worker, subnets in enumerate(self.hosted if self.names else ()):
            flat = self.variable.numpy() if worker == self.link.worker else None
            if worker and self.link.worker in (0, worker):
                size = sum(self.sizes[n] for n in subnets)
                parcel = Shape((size,)) if flat is None else flat
                flat = self.link.pass_on(parcel, worker, 0, purpose="checkpoint")
            if self.link.chief:
                sizes = [size for n in subnets for size in self._sizes(n)]
                parts = iter(np.split(flat, np.cumsum(sizes)[:-1]))
                for n in subnets:
                    kept = out[n] = Weights()
                    for name, shape in zip(self.names, self.shapes[n], strict=True):
                        kept.set_column(*name, np.ascontiguousarray(next(parts).reshape(shape)))
        return out

    def restore(self, slots: Mapping[int, Weights] | None) -> None:
        """Goes on from what was gathered, whatever the number of workers; called by all workers.

        Args:
            slots: on the chief, as gather returns it; None elsewhere.
        """
        for worker, subnets in enumerate(self.hosted if self.names else ()):
            flat = None
            if self.link.chief:
                kept = [slots[n].column(*name) for n in subnets for name in self.names]
                flat = np.concatenate([array.ravel() for array in kept])
            if worker and self.link.worker in (0, worker):
                size = sum(self.sizes[n] for n in subnets)
                parcel = Shape((size,)) if flat is None else flat
                flat = self.link.pass_on(parcel, 0, worker, purpose="checkpoint")
            if worker == self.link.worker:
                self.variable.assign(flat)

    def _sizes(self, subnet: int) -> list[int]:
        return [_size(shape) for shape in self.shapes[subnet]]


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape))
