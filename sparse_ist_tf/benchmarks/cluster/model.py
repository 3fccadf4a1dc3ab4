"""What a round costs, predicted: bytes that a worker sends, and seconds of the exchange.

The seconds are bytes / rate and delays that follow one another. A receiver asks for what it gets:
on the way out, with which a round begins, that is a delay before the message's own, on the way back
it has asked long before. The first rounds take more, in which TensorFlow has worker 0 say what keys
stand for.

A message is filled up to one of few lengths and crosses in pieces, each of which costs bytes beside
its own.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.ist.exchange.homes import home_shares
from sparse_ist_tf.ist.partition import hosted_subnets, subnet_sizes
from sparse_ist_tf.registry import LinkSetting
from sparse_ist_tf.workers.channel import FILLING, USUAL

FLOAT = 4  # bytes
# Of a neuron with some inputs: bytes of an input, and of what is there once.
NEURON_BYTES: Mapping[str, tuple[float, float]] = {
    "float32": (4, 0),
    "bfloat16": (2, 0),
    "float16": (2, 0),
    "int8": (1, FLOAT),
    "int4": (0.5, FLOAT),
    "halvings": (0.5, FLOAT),
    "neuron": (0, FLOAT),
}
OUT_DELAYS, BACK_DELAYS = 2, 1
# On the wire for each end of a piece: what asks for it, what goes with it, and acknowledgements.
# From what 4 and 8 hosts' kernels counted.
PIECE_BYTES = 220
_ROUNDING = 13  # bytes that a message is filled up by beside, as lengths are whole
_HEADERS, _ETHERNET = 52, 14  # of IP and TCP with time stamps; of a frame
_RECORD, _REPLICA_RECORD, _ALL_REDUCED = 4, 4, 3  # numbers that are told of a subnet or a replica
_BLOCK = 512  # entries of a whole head that share a scale


class HeadShape(NamedTuple):
    """A head.

    Args:
        feature_dim: inputs.
        hidden: neurons of each hidden layer.
        num_classes: outputs.
    """

    feature_dim: int
    hidden: tuple[int, ...]
    num_classes: int

    @property
    def num_parameters(self) -> int:
        """Entries of all kernels and biases."""
        sizes = (self.feature_dim, *self.hidden, self.num_classes)
        return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


class Cost(NamedTuple):
    """What the exchange of a round takes.

    Args:
        sent: bytes that each worker sends, as its ledger counts them.
        ends: of messages' pieces at each worker.
        delays: one way, that follow one another.
        back: of IST, bytes that a worker sends of each subnet that it has trained.
        trained: of IST, how many each worker trains, one after another.
    """

    sent: np.ndarray
    ends: np.ndarray
    delays: int
    back: np.ndarray | None = None
    trained: np.ndarray | None = None

    @property
    def busiest(self) -> float:
        """Bytes of the worker that sends most."""
        return float(self.sent.max())

    def seconds(self, shape: LinkShape, computing: float = 0.0) -> float:
        """What the exchange adds to a round where every host has such a link, in both directions.

        Args:
            shape: of the links; what is lost is not part of the model.
            computing: seconds of the round without it. While a worker trains its next subnet, the
                one before goes back.
        """
        delays = self.delays * shape.delay_s
        if not shape.rate:
            return delays
        whole = 8 * float(self.wire_bytes(shape).max()) / shape.rate + delays
        return whole - self._hidden(shape, computing)

    def _hidden(self, shape, computing):
        """Seconds of the busiest worker in which it both sends and trains."""
        if self.back is None or self.trained is None:
            return 0.0
        busiest = int(self.sent.argmax())
        count = int(self.trained[busiest])
        crossing = 8 * float(self.back[busiest]) * _frames(shape) / shape.rate
        return (count - 1) * min(crossing, computing / count)

    def wire_bytes(self, shape: LinkShape) -> np.ndarray:
        """What each worker sends with all headers, as its kernel counts them.

        Args:
            shape: of the links.
        """
        return self.sent * _frames(shape) + self.ends * PIECE_BYTES


def _frames(shape: LinkShape) -> float:
    """Bytes on the wire for one that is sent: with headers, and empty frames that acknowledge."""
    size = shape.mtu + _ETHERNET + (_HEADERS + _ETHERNET) / 2  # one for every second frame
    return size / (shape.mtu - _HEADERS)


@dataclasses.dataclass(frozen=True)
class Round:
    """A round of some workers.

    Args:
        head: that is trained.
        num_subnets: N, subnets of IST or replicas of the others.
        num_workers: P, at least 2.
        link: what ist.link stands for, or other forms.
        moments: of the optimizer, each "first" or "second".
        steps: of the round, which only data parallel asks for.
    """

    head: HeadShape
    num_subnets: int
    num_workers: int
    link: LinkSetting
    moments: tuple[str, ...] = ("first", "second")
    steps: int = 1

    def ist(self) -> Cost:
        """Of IST: a subnet's neurons come from all homes, are trained, and go back there.

        Expected over random partitions: of a subnet's neurons each home has its share.
        """
        count, workers = self.num_subnets, self.num_workers
        hosted = [len(mine) for mine in hosted_subnets(count, workers)]
        mine = np.array(hosted, float)
        starts = np.cumsum([0, *hosted[:-1]])
        out, back = (
            np.add.reduceat(self._subnet_bytes(way), starts) for way in ("weights", "differences")
        )
        homes = np.array(home_shares(out.tolist(), back.tolist()))
        carried = 1 + sum(self._form(kind) != "reset" for kind in self.moments)
        report = (self.head.num_classes * carried + _RECORD) * FLOAT
        sent = homes * (out.sum() - out) + (1 - homes) * back + mine * (workers - 1) * report
        is_host = np.repeat(np.arange(workers), hosted)[:, None] == np.arange(workers)
        ends = np.zeros(workers)
        for way in ("weights", "differences"):
            filling, pieces = (np.where(is_host, 0, some) for some in self.messages(homes, way))
            at_homes, at_hosts = filling.sum(axis=0), is_host.T @ filling.sum(axis=1)
            sent += at_homes if way == "weights" else at_hosts
            ends += pieces.sum(axis=0) + is_host.T @ pieces.sum(axis=1)
        return Cost(sent, ends, OUT_DELAYS + BACK_DELAYS, (1 - homes) * back / mine, mine)

    def messages(self, homes: np.ndarray, way: str) -> tuple[np.ndarray, np.ndarray]:
        """Of a message between each subnet's host and each home, as if no home were the host's.

        How many of a subnet's neurons are at a home has a hypergeometric distribution.

        Args:
            homes: shares of all neurons, float[P].
            way: as _layer_bytes.

        Returns:
            Bytes that it is filled up by, pieces; both float[N, P].
        """
        mean, deviation = np.zeros((2, self.num_subnets, len(homes)))
        for width, each in zip(self.head.hidden, self._layer_bytes(way), strict=True):
            held = np.array(subnet_sizes(width, self.num_subnets), float)[:, None]
            variance = held * homes * (1 - homes) * (width - held) / max(width - 1, 1)
            mean += each[:, None] * homes
            deviation += each[:, None] / held * np.sqrt(variance)
        few = [usual.filling * deviation <= FILLING * mean for usual in USUAL[:-1]]
        filling = np.select(few, [u.filling for u in USUAL[:-1]], USUAL[-1].filling)
        pieces = np.select(few, [u.pieces for u in USUAL[:-1]], USUAL[-1].pieces)
        return filling * deviation + _ROUNDING, np.where(deviation > 0, pieces, 1.0)

    def diloco(self) -> Cost:
        """Of DiLoCo: every worker gets a slice of all differences, and tells its mean."""
        others = self.num_workers - 1
        slice_blocks = -(-self._blocks() // self.num_workers)
        a_slice = slice_blocks * _neuron_bytes(self.link.differences, _BLOCK)
        hosted = -(-self.num_subnets // self.num_workers)
        sent = others * (hosted * (a_slice + _REPLICA_RECORD * FLOAT) + a_slice)
        return self._alike(sent, 4 * others, 2 * OUT_DELAYS)

    def local_sgd(self) -> Cost:
        """Of local SGD: the weights and moments of whole heads are summed up around a ring."""
        return self._all_reduce(1 + len(self.moments))

    def data_parallel(self) -> Cost:
        """Of data parallel training: gradients are summed up at every step."""
        cost = self._all_reduce(1)
        return Cost(cost.sent * self.steps, cost.ends * self.steps, cost.delays * self.steps)

    def _all_reduce(self, columns: int) -> Cost:
        """Two ways around a ring, whose first message is asked for; each cuts its chunks in two."""
        others = self.num_workers - 1
        entries = self.head.num_parameters * columns + _ALL_REDUCED * self.num_subnets
        sent = 2 * entries * others / self.num_workers * FLOAT
        return self._alike(sent, 4 * others, 1 + 2 * others)

    def _alike(self, sent: float, ends: float, delays: int) -> Cost:
        count = self.num_workers
        return Cost(np.full(count, float(sent)), np.full(count, float(ends)), delays)

    def _blocks(self) -> int:
        return -(-self.head.num_parameters // _BLOCK)

    def _form(self, kind: str) -> str:
        return self.link.first_moment if kind == "first" else self.link.second_moment

    def _subnet_bytes(self, way: str) -> np.ndarray:
        """What each subnet's neurons take one way; as _layer_bytes, of all layers."""
        return np.sum(self._layer_bytes(way), axis=0)

    def _layer_bytes(self, way: str) -> list[np.ndarray]:
        """What each subnet's neurons of each hidden layer take one way.

        Args:
            way: "weights", which go out, or "differences", which come back.
        """
        kept = [form for form in map(self._form, self.moments) if form != "reset"]
        forms = [getattr(self.link, way), *kept]
        layers = [np.array(subnet_sizes(w, self.num_subnets)) for w in self.head.hidden]
        inputs = [np.full(self.num_subnets, self.head.feature_dim), *layers[:-1]]
        found = [
            neurons * (sum(_neuron_bytes(form, some) for form in forms) + len(forms) * FLOAT)
            for neurons, some in zip(layers, inputs, strict=True)
        ]
        # The output layer's kernel goes with the neurons of the last hidden one.
        found[-1] += layers[-1] * sum(_neuron_bytes(form, self.head.num_classes) for form in forms)
        return found


def _neuron_bytes(form: str, inputs: np.ndarray | int) -> np.ndarray:
    each, once = NEURON_BYTES[form]
    return each * np.asarray(inputs, float) + once
