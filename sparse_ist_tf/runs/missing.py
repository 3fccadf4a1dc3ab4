"""What is left of a head when workers are missing: k of its N subnets."""

import functools
import itertools
import math
from collections.abc import Mapping

import numpy as np

from sparse_ist_tf.ist.head import HeadSpec, accuracy, extract, logits, probabilities
from sparse_ist_tf.ist.partition import Partition
from sparse_ist_tf.streams import Stream

MOST_SUBSETS = 28  # all 2 of 8
_DRAWN = 10  # where there are more


def subsets_of(num_subnets: int, kept: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Which subnets may be left: every choice, or a draw of 10 where there are more than 28.

    Args:
        num_subnets: N.
        kept: k, from 1 to N.
        seed: of the draw.

    Returns:
        Tuples of k subnets, ascending, each once.
    """
    if math.comb(num_subnets, kept) <= MOST_SUBSETS:
        return list(itertools.combinations(range(num_subnets), kept))
    rng = Stream.SUBSETS.rng(seed, num_subnets, kept)
    drawn: set[tuple[int, ...]] = set()
    while len(drawn) < _DRAWN:
        chosen = rng.choice(num_subnets, kept, replace=False)
        drawn.add(tuple(sorted(int(subnet) for subnet in chosen)))
    return sorted(drawn)


def joined(partition: Partition, subnets: tuple[int, ...]) -> Partition:
    """The neurons of some subnets as those of a single one.

    Args:
        partition: of a round.
        subnets: which, at least one.

    Returns:
        A partition of the same layers with one subnet.
    """
    layers = [np.sort(np.concatenate([layer[i] for i in subnets])) for layer in partition.indices]
    return Partition(partition.widths, tuple((layer,) for layer in layers))


def missing_workers(
    parameters: Mapping[str, np.ndarray],
    spec: HeadSpec,
    partition: Partition,
    features: np.ndarray,
    labels: np.ndarray,
    scale_inputs: bool = True,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Accuracy when only k of the N subnets can be reached, for every k.

    Args:
        parameters: the merged head.
        spec: its shape.
        partition: of the last round.
        features: float32[n, feature_dim].
        labels: int[n].
        scale_inputs: as in training.
        seed: of the draw where the choices of k are many.

    Returns:
        By k as text, means over subsets_of: "ensemble", the mean of the k subnets' probabilities,
        and "merged", the merged head with the neurons of these k alone, where inputs that come
        from a hidden layer are multiplied by (layer width / what is left of it), as in training;
        and "subsets", how many.
    """
    count = partition.num_subnets

    def cut(subnets):
        return extract(parameters, spec, joined(partition, subnets), 0, scale_inputs)

    alone = [probabilities(cut((subnet,)), features) for subnet in range(count)]
    table = {}
    for kept in range(1, count + 1):
        subsets = subsets_of(count, kept, seed)
        ensembles = [
            accuracy(functools.reduce(np.add, (alone[i] for i in subset)), labels)
            for subset in subsets
        ]
        merged = [accuracy(logits(cut(subset), features), labels) for subset in subsets]
        table[str(kept)] = {
            "ensemble": float(np.mean(ensembles)),
            "merged": float(np.mean(merged)),
            "subsets": len(subsets),
        }
    return table
