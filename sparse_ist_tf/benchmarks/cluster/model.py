"""What a round costs, predicted: bytes that a worker sends, and seconds of the exchange.

The seconds are bytes / rate and delays that follow one another. A message between two workers is
not a delay but four of them: TensorFlow has worker 0 say what a message's key stands for, and a
receiver asks for what it gets. Both ends call worker 0, which answers once it has heard of the
sender, the receiver asks the sender, the sender sends. One of the four falls away where one end is
worker 0 itself, as it always is with two workers.

A message costs bytes beside its own, too: its ends' calls, all of which worker 0 gets. With many
workers these are more than its subnets' neurons. The time that its processor needs for them is not
part of the model.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.config import LinkSetting
from sparse_ist_tf.ist.exchange.homes import home_shares
from sparse_ist_tf.ist.partition import hosted_subnets, subnet_sizes

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
MESSAGE_DELAYS, PAIR_DELAYS = 4, 3  # one way, from a message's sender to its receiver
# On the wire, with headers, for each end of a message: its call to worker 0, the answer, and what
# goes with the message itself. From what 4 and 8 hosts' kernels counted of all but empty rounds.
CALL_BYTES, ANSWER_BYTES, MESSAGE_BYTES = 300, 120, 230
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
        ends: of messages at each worker, each with a key that worker 0 is asked for.
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
        # Worker 0 gets more than it answers.
        got = self._with_headers(shape)[0] + self.called_bytes
        whole = 8 * max(float(self.wire_bytes(shape).max()), got) / shape.rate + delays
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
        """What each worker sends with all headers and calls, as its kernel counts them.

        Args:
            shape: of the links.
        """
        sent = self._with_headers(shape)
        sent[0] += ANSWER_BYTES * self.ends[1:].sum()
        sent[1:] += CALL_BYTES * self.ends[1:]
        return sent

    @property
    def called_bytes(self) -> float:
        """What the others ask worker 0 in."""
        return CALL_BYTES * float(self.ends[1:].sum())

    def _with_headers(self, shape):
        return self.sent * _frames(shape) + self.ends * MESSAGE_BYTES


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
        ends = 2 * (mine * (workers - 1) + count - mine)
        delays = 2 * (MESSAGE_DELAYS if workers > 2 else PAIR_DELAYS)
        return Cost(sent, ends, delays, (1 - homes) * back / mine, mine)

    def diloco(self) -> Cost:
        """Of DiLoCo: every worker gets a slice of all differences, and tells its mean."""
        others = self.num_workers - 1
        slice_blocks = -(-self._blocks() // self.num_workers)
        a_slice = slice_blocks * _neuron_bytes(self.link.differences, _BLOCK)
        hosted = -(-self.num_subnets // self.num_workers)
        sent = others * (hosted * (a_slice + _REPLICA_RECORD * FLOAT) + a_slice)
        return self._alike(sent, 2, 2 * MESSAGE_DELAYS)

    def local_sgd(self) -> Cost:
        """Of local SGD: the weights and moments of whole heads are summed up around a ring."""
        return self._all_reduce(1 + len(self.moments))

    def data_parallel(self) -> Cost:
        """Of data parallel training: gradients are summed up at every step."""
        cost = self._all_reduce(1)
        return Cost(cost.sent * self.steps, cost.ends * self.steps, cost.delays * self.steps)

    def _all_reduce(self, columns: int) -> Cost:
        """Two ways around a ring, whose first message is asked for."""
        others = self.num_workers - 1
        entries = self.head.num_parameters * columns + _ALL_REDUCED * self.num_subnets
        sent = 2 * entries * others / self.num_workers * FLOAT
        return self._alike(sent, 1, 3 + 2 * others)

    def _alike(self, sent: float, ends: float, delays: int) -> Cost:
        count = self.num_workers
        return Cost(np.full(count, float(sent)), np.full(count, float(ends)), delays)

    def _blocks(self) -> int:
        return -(-self.head.num_parameters // _BLOCK)

    def _form(self, kind: str) -> str:
        return self.link.first_moment if kind == "first" else self.link.second_moment

    def _subnet_bytes(self, way: str) -> np.ndarray:
        """What each subnet's neurons take one way.

        Args:
            way: "weights", which go out, or "differences", which come back.
        """
        kept = [form for form in map(self._form, self.moments) if form != "reset"]
        forms = [getattr(self.link, way), *kept]
        layers = [np.array(subnet_sizes(w, self.num_subnets)) for w in self.head.hidden]
        inputs = [np.full(self.num_subnets, self.head.feature_dim), *layers[:-1]]
        # The output layer's kernel goes with the neurons of the last hidden one.
        blocks = [*zip(layers, inputs, strict=True)]
        blocks.append((layers[-1], np.full(self.num_subnets, self.head.num_classes)))
        kernels = sum(
            neurons * _neuron_bytes(form, some) for neurons, some in blocks for form in forms
        )
        biases = sum(layers) * len(forms) * FLOAT
        return kernels + biases


def _neuron_bytes(form: str, inputs: np.ndarray | int) -> np.ndarray:
    each, once = NEURON_BYTES[form]
    return each * np.asarray(inputs, float) + once
