"""How the neurons of the hidden layers are dealt to the subnets, round after round."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.streams import Stream


def subnet_sizes(width: int, num_subnets: int, capacities: Sequence[float] = ()) -> tuple[int, ...]:
    """How many of a layer's neurons each subnet gets; the same in every round.

    Args:
        width: neurons of the layer, at least num_subnets.
        num_subnets: N, at least 1.
        capacities: one positive number per subnet; equal where empty.

    Returns:
        num_subnets integers of at least 1 that add up to width; with equal capacities they differ
        by at most one.

    Raises:
        RequestError: if width < num_subnets, or capacities don't fit.

    Example:
        >>> from sparse_ist_tf.ist.partition import subnet_sizes
        >>> subnet_sizes(10, 4), subnet_sizes(16, 4, (4, 2, 1, 1))
        ((3, 3, 2, 2), (8, 4, 2, 2))
    """
    if num_subnets < 1:
        raise RequestError(f"ist.num_subnets={num_subnets}: must be at least 1")
    if width < num_subnets:
        raise RequestError(
            f"head.hidden has a layer of {width} neurons: must be at least "
            f"ist.num_subnets={num_subnets}"
        )
    if len(capacities) and (len(capacities) != num_subnets or not min(capacities) > 0):
        raise RequestError(
            f"ist.capacities={tuple(capacities)}: must be {num_subnets} positive numbers, "
            "one per subnet"
        )
    shares = np.array(capacities if len(capacities) else [1] * num_subnets, np.float64)
    # One neuron is everyone's; the rest goes by largest remainder.
    exact = np.maximum(width * shares / shares.sum(), 1.0)
    while exact.sum() > width + 1e-9:
        above = exact > 1.0
        exact[above] = np.maximum(1.0, exact[above] * (width - (~above).sum()) / exact[above].sum())
    sizes = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(-(exact - sizes), kind="stable")
    sizes[order[: width - sizes.sum()]] += 1
    return tuple(int(size) for size in sizes)


@dataclasses.dataclass(frozen=True)
class Partition:
    """Who holds which neuron in a round.

    Args:
        widths: neurons of each hidden layer.
        indices: indices[layer][subnet], int64 ascending: the neurons that the subnet holds.
    """

    widths: tuple[int, ...]
    indices: tuple[tuple[np.ndarray, ...], ...]

    @property
    def num_subnets(self) -> int:
        """N."""
        return len(self.indices[0])

    def scales(self, subnet: int) -> tuple[float, ...]:
        """Layer width over subnet width, for each hidden layer."""
        pairs = zip(self.widths, self.indices, strict=True)
        return tuple(width / len(parts[subnet]) for width, parts in pairs)


@functools.lru_cache(maxsize=8)
def make_partition(
    seed: int,
    round_index: int,
    widths: tuple[int, ...],
    num_subnets: int,
    capacities: tuple[float, ...] = (),
) -> Partition:
    """Deals each hidden layer's neurons to the subnets, uniformly and without replacement.

    A function of its arguments alone: every worker computes it, no index is ever sent.

    Source: paper section 3.2; "Distributed Learning of Deep Neural Networks using Independent
    Subnet Training" (Yuan et al., 2022), algorithm 1.

    Args:
        seed: at least 0.
        round_index: counted from 0.
        widths: neurons of each hidden layer.
        num_subnets: N.
        capacities: as subnet_sizes.

    Raises:
        RequestError: as subnet_sizes.

    Example:
        >>> from sparse_ist_tf.ist.partition import make_partition
        >>> sorted(n for part in make_partition(0, 7, (5,), 2).indices[0] for n in part.tolist())
        [0, 1, 2, 3, 4]
    """
    indices = []
    for layer, width in enumerate(widths):
        sizes = subnet_sizes(width, num_subnets, capacities)
        order = Stream.PARTITION.rng(seed, round_index, layer).permutation(width)
        parts = np.split(order, np.cumsum(sizes)[:-1])
        indices.append(tuple(np.sort(part) for part in parts))
    return Partition(tuple(widths), tuple(indices))


def hosted_subnets(
    num_subnets: int, num_workers: int, capacities: Sequence[float] = ()
) -> tuple[tuple[int, ...], ...]:
    """Which subnets each worker hosts: in a row, at least one, loads as even as that allows.

    Args:
        num_subnets: N.
        num_workers: P, at most N.
        capacities: loads of the subnets; equal where empty.

    Raises:
        RequestError: if num_subnets < num_workers.

    Example:
        >>> from sparse_ist_tf.ist.partition import hosted_subnets
        >>> hosted_subnets(4, 2), hosted_subnets(4, 2, (4, 2, 1, 1))
        (((0, 1), (2, 3)), ((0,), (1, 2, 3)))
    """
    if num_subnets < num_workers:
        raise RequestError(
            f"ist.num_subnets={num_subnets}: must be at least num_workers={num_workers}"
        )
    loads = list(capacities) or [1] * num_subnets
    hosts, start = [], 0
    for worker in range(num_workers):
        left = num_workers - worker
        aim = sum(loads[start:]) / left
        stop, load = start + 1, loads[start]
        last = num_subnets - (left - 1)
        while stop < last and (left == 1 or abs(load + loads[stop] - aim) <= abs(load - aim)):
            load += loads[stop]
            stop += 1
        hosts.append(tuple(range(start, stop)))
        start = stop
    return tuple(hosts)
