"""How a subnet's neurons are cut into parcels of bounded size, and how many are on the way."""

import collections
import contextlib
import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

# Of float32, in a parcel of a subnet and on the way at once. A message to or from each home takes
# a round trip, and a parcel some hundred nodes of a graph: what fits goes as one.
PARCEL_BYTES = 1 << 24
_M_MMAP_THRESHOLD, _LEAST_BYTES = -3, 1 << 18  # of glibc's mallopt


class Piece(NamedTuple):
    """Some of a subnet's neurons, of one parameter, with all columns that travel.

    Args:
        parameter: which.
        first: the first neuron, counted among those of the subnet.
        stop: behind the last one.
    """

    parameter: int
    first: int
    stop: int


Parcel = list[Piece]


def make_parcels(neurons: Sequence[int], sizes: Sequence[int]) -> list[Parcel]:
    """Cuts a subnet, parameter after parameter.

    Args:
        neurons: of each parameter those that the subnet holds.
        sizes: of each parameter bytes of a neuron, as float32 with all columns.

    Returns:
        Parcels of at most PARCEL_BYTES, or of one neuron that is larger by itself.

    Example:
        >>> from sparse_ist_tf.ist.exchange.parcels import make_parcels
        >>> [len(parcel) for parcel in make_parcels([3, 5], [1 << 23, 1 << 23])]
        [1, 2, 1, 1]
    """
    parcels: list[Parcel] = [[]]
    room = PARCEL_BYTES
    for i, (count, size) in enumerate(zip(neurons, sizes, strict=True)):
        first = 0
        while first < count:
            fits = room // size
            if not fits and parcels[-1]:
                parcels.append([])
                room = PARCEL_BYTES
                continue
            stop = min(count, first + max(1, fits))
            parcels[-1].append(Piece(i, first, stop))
            room -= (stop - first) * size
            first = stop
    return parcels


class Window:
    """Lets transfers begin, in the order of a graph's making, when earlier ones have ended.

    Args:
        most: bytes of those that are on the way at once; one that is larger goes alone.
    """

    def __init__(self, most: float):
        self.most = most
        self._open: collections.deque = collections.deque()
        self._gate: list[tf.Operation] = []

    def before(self, size: float) -> list[tf.Operation]:
        """What has to end before the next transfer of so many bytes begins."""
        ended = []
        while self._open and sum(each for each, _ in self._open) + size > self.most:
            ended += self._open.popleft()[1]
        if ended:
            with tf.control_dependencies([*self._gate, *ended]):
                self._gate = [tf.no_op()]
        return self._gate

    def add(self, size: float, ends: Sequence[tf.Operation | tf.Tensor]) -> None:
        """Tells that a transfer has begun, and when it ends."""
        self._open.append((size, list(ends)))


def return_what_is_freed() -> None:
    """Makes large arrays that are freed memory of the system's again, at once, where glibc can.

    It keeps them for others of up to 32 MiB, of which few fit into what is between others' places:
    at a width of 4,000 a third of a worker's memory was of this kind. New memory costs time, so
    this is for heads of which a subnet takes several parcels.

    Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library, or none by this name
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _LEAST_BYTES)
