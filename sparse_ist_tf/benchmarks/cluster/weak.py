"""Capacities that fit workers of different speeds."""

from collections.abc import Sequence

SHARE = 0.1  # of a core, that a weak worker has
NUM_WORKERS = 4
_ROUNDS = 60  # halvings of an interval


def speeds(cores: int) -> tuple[float, ...]:
    """The part of a core that each worker has, the last one a weak one.

    Args:
        cores: of this machine, which the others share.
    """
    each = min(1.0, (cores - SHARE) / (NUM_WORKERS - 1))
    return (each,) * (NUM_WORKERS - 1) + (SHARE,)


def fitting(speed: Sequence[float], width: int, features: int) -> tuple[float, ...]:
    """Shares of the neurons with which all workers need the same time for a step.

    A subnet of a head with two hidden layers that has a share c of the neurons costs
    features * c * width + (c * width)**2 products for an example; what the output layer costs is
    left out.

    Args:
        speed: of each worker, above 0.
        width: of the hidden layers.
        features: that go into the head.

    Returns:
        Shares in the order of speed, rounded to thousandths; they sum to about 1.
    """

    def share(products: float) -> float:
        return ((features**2 + 4 * products) ** 0.5 - features) / (2 * width)

    low, high = 0.0, (features * width + width**2) / min(speed)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        total = sum(share(middle * each) for each in speed)
        low, high = (low, middle) if total > 1 else (middle, high)
    return tuple(round(share(low * each), 3) for each in speed)
