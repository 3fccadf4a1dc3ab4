"""Which worker keeps which neurons between rounds: their weights, biases and moments."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

# What a worker may send over what its own subnets ask for, before its home shards get smaller.
_SLACK = 1.02


@dataclasses.dataclass(frozen=True, eq=False)
class Homes:
    """The homes of a layer's neurons.

    Args:
        owners: int32[width], the worker that keeps each.
        slots: int32[width], its place among those that its worker keeps, in ascending order.
        counts: how many each worker keeps.
    """

    owners: np.ndarray
    slots: np.ndarray
    counts: tuple[int, ...]

    def of(self, worker: int) -> np.ndarray:
        """The neurons that a worker keeps, ascending."""
        return np.flatnonzero(self.owners == worker)


def make_homes(width: int, shares: Sequence[float]) -> Homes:
    """Deals a layer's neurons to workers, one after the other where the shares are equal.

    Args:
        width: neurons.
        shares: of each worker, numbers of at least 0 that add up to 1.

    Example:
        >>> from sparse_ist_tf.ist.exchange.homes import make_homes
        >>> make_homes(6, (0.5, 0.5)).owners.tolist(), make_homes(4, (0.75, 0.25)).counts
        ([0, 1, 0, 1, 0, 1], (3, 1))
    """
    exact = width * np.asarray(shares, np.float64)
    counts = np.floor(exact + 1e-9).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: width - counts.sum()]] += 1
    # Each worker's neurons lie as evenly as they can between all others.
    workers = np.repeat(np.arange(len(counts)), counts)
    at = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
    owners = workers[np.argsort(at, kind="stable")].astype(np.int32)
    slots = np.empty(width, np.int32)
    for worker, count in enumerate(counts):
        slots[owners == worker] = np.arange(count)
    return Homes(owners, slots, tuple(int(count) for count in counts))


def home_shares(out: Sequence[float], back: Sequence[float]) -> tuple[float, ...]:
    """The shares of all neurons that workers keep, so that none sends much more than it has to.

    A worker with the share h whose subnets take `out` bytes of the A that all take, and give back
    `back`, sends (1 - h) back + h (A - out): what it trained to other homes, and what it keeps to
    other workers' subnets. Equal shares are best where loads are equal. A worker with little to
    train would serve the others more than it trains; it keeps less, until it sends at most 1.02
    times what it would with equal loads, (out + back) (P - 1) / P.

    Args:
        out: bytes that each worker's subnets take in a round.
        back: bytes that they give back.

    Returns:
        P numbers that add up to 1.

    Example:
        >>> from sparse_ist_tf.ist.exchange.homes import home_shares
        >>> home_shares([4.0, 4.0], [4.0, 4.0])
        (0.5, 0.5)
    """
    workers = len(out)
    taken, given = np.asarray(out, np.float64), np.asarray(back, np.float64)
    bounds = own_bounds(out, back)
    slopes = taken.sum() - taken - given  # of what is sent, over the share

    def most(slack):
        room = slack * bounds - given
        found = np.where(slopes > 0, room / np.where(slopes > 0, slopes, 1), 1.0)
        return np.clip(found, 0, 1)

    slack = _SLACK
    while most(slack).sum() < 1:
        slack *= 1.01
    limits, shares, open_ = most(slack), np.zeros(workers), np.ones(workers, bool)
    while True:  # equal shares, but for those that have reached their limit
        shares[open_] = (1 - shares[~open_].sum()) / open_.sum()
        above = open_ & (shares > limits + 1e-12)
        if not above.any():
            return tuple(shares.tolist())
        shares[above], open_ = limits[above], open_ & ~above


def own_bounds(out: Sequence[float], back: Sequence[float]) -> np.ndarray:
    """The bytes that each worker's own subnets ask of it in a round: float64[P].

    All that they take comes from P homes and goes back there, of which one is the worker's; it
    serves as much as it is served.

    Args:
        out: bytes that each worker's subnets take in a round.
        back: bytes that they give back.
    """
    workers = len(out)
    return (np.asarray(out, np.float64) + np.asarray(back, np.float64)) * (workers - 1) / workers


def kept_counts(homes: Homes, worker: int, drawn: int) -> tuple[float, float, int]:
    """How many of some neurons drawn at random a worker keeps: mean, standard deviation, most.

    Source: the hypergeometric distribution's mean and variance.

    Args:
        homes: of the layer's neurons.
        worker: its index.
        drawn: how many of the layer's neurons are drawn.

    Example:
        >>> from sparse_ist_tf.ist.exchange.homes import kept_counts, make_homes
        >>> mean, deviation, most = kept_counts(make_homes(1000, [0.25] * 4), 0, 250)
        >>> mean, round(deviation, 1), most
        (62.5, 5.9, 250)
    """
    width, kept = len(homes.owners), homes.counts[worker]
    mean = drawn * kept / width
    variance = mean * (1 - kept / width) * (width - drawn) / max(width - 1, 1)
    return mean, math.sqrt(variance), min(drawn, kept)
