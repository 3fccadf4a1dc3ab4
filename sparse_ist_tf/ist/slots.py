"""What stays with a subnet from round to round, whatever neurons it holds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange import Link
from sparse_ist_tf.ist.head import ParameterSpec
from sparse_ist_tf.ist.variables import per_worker_variable
from sparse_ist_tf.reports.ledger import Ledger


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
        ledger: where bytes are counted.

    Example:
        >>> import tensorflow as tf
        >>> from sparse_ist_tf.ist.exchange import Link
        >>> from sparse_ist_tf.ist.head import HeadSpec
        >>> from sparse_ist_tf.ist.slots import SlotStore
        >>> from sparse_ist_tf.reports.ledger import Ledger
        >>> store = SlotStore(HeadSpec(8, (6,), 3).parameters(), lambda part, n: part.shape,
        ...                   [(0,)], Link(tf.distribute.get_strategy(), 0, 1), num_slots=2,
        ...                   biases=True, moments=False, ledger=Ledger())
        >>> store.names
        ['dense_0/bias', 'dense_1/bias']
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
        ledger: Ledger,
    ):
        self.link, self.hosted, self.ledger = link, hosted, ledger
        self.names, parts = [], []
        for part in specs:
            stays = biases and len(part.shape) == 1
            count = num_slots * (moments or stays)
            names = [part.name] * stays + [f"{part.name}/moment_{i}" for i in range(count)]
            self.names += names
            parts += [part] * len(names)
        subnets = sorted(n for some in hosted for n in some)
        self.shapes = {n: [block_shape(part, n) for part in parts] for n in subnets}
        self.sizes = {n: sum(map(_size, shapes)) for n, shapes in self.shapes.items()}
        self.variables = {}
        if self.names:
            self.variables = {
                n: per_worker_variable((self.sizes[n],), f"slot_{n}") for n in hosted[link.worker]
            }

    def read(self, subnet: int) -> dict[str, tf.Tensor]:
        """What a hosted subnet keeps, by name; called inside strategy.run."""
        if not self.names:
            return {}
        flat = tf.convert_to_tensor(self.variables[subnet])
        parts = tf.split(tf.ensure_shape(flat, (self.sizes[subnet],)), self._sizes(subnet))
        shaped = map(tf.reshape, parts, self.shapes[subnet])
        return dict(zip(self.names, shaped, strict=True))

    def write(self, subnet: int, values: Mapping[str, tf.Tensor]) -> None:
        """Keeps what a hosted subnet has made of it; called inside strategy.run."""
        if self.names:
            flat = [tf.reshape(values[name], (-1,)) for name in self.names]
            self.variables[subnet].assign(tf.concat(flat, axis=0))

    def gather(self) -> dict[str, np.ndarray]:
        """What all subnets keep, on the chief; called by all workers.

        Returns:
            {"slots/0/dense_0/bias": ..., ...}; empty on the other workers.
        """
        out = {}
        for worker, subnets in enumerate(self.hosted if self.names else ()):
            for n in subnets:
                mine = self.variables[n].numpy() if worker == self.link.worker else None
                if worker and self.link.worker in (0, worker):
                    mine = self.link.pass_on(mine, (self.sizes[n],), worker, 0)
                    if not self.link.chief:
                        self.ledger.add("checkpoint", mine.nbytes)
                if self.link.chief:
                    parts = np.split(mine, np.cumsum(self._sizes(n))[:-1])
                    for name, shape, part in zip(self.names, self.shapes[n], parts, strict=True):
                        out[f"slots/{n}/{name}"] = np.ascontiguousarray(part.reshape(shape))
        return out

    def restore(self, state: Mapping[str, np.ndarray] | None) -> None:
        """Goes on from a gathered state, whatever the number of workers; called by all workers.

        Args:
            state: on the chief, as gather returns it; None elsewhere.
        """
        for worker, subnets in enumerate(self.hosted if self.names else ()):
            for n in subnets:
                flat = None
                if self.link.chief:
                    flat = [state[f"slots/{n}/{name}"].ravel() for name in self.names]
                    flat = np.concatenate(flat)
                if worker and self.link.worker in (0, worker):
                    flat = self.link.pass_on(flat, (self.sizes[n],), 0, worker)
                    if self.link.chief:
                        self.ledger.add("checkpoint", flat.nbytes)
                if worker == self.link.worker:
                    self.variables[n].assign(flat)

    def _sizes(self, subnet: int) -> list[int]:
        return [_size(shape) for shape in self.shapes[subnet]]


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape))
