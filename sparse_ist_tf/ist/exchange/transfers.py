"""How subnets get their neurons from home shards and give them back, once in a round."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange.forms import Rows, bits_to_floats, floats_to_bits
from sparse_ist_tf.ist.exchange.homes import Homes, home_shares, make_homes, own_bounds
from sparse_ist_tf.ist.exchange.parameters import Column, PartitionedParameter
from sparse_ist_tf.ist.exchange.variables import SubnetPartitionedVariable, neuron_axis
from sparse_ist_tf.ist.head import ParameterSpec
from sparse_ist_tf.ist.partition import Partition
from sparse_ist_tf.workers.ledger import Purpose
from sparse_ist_tf.workers.link import Link

Blocks = list[list[tf.Tensor]]  # of each parameter its columns: float32[neurons, inputs]


class Dealt(NamedTuple):
    """Who holds which neuron in a round, as graphs take it.

    Args:
        key: int32, from Link.next_key.
        neurons: of each hidden layer int32[width]: those of subnet 0, of subnet 1, ..., ascending.
    """

    key: tf.Tensor
    neurons: tuple[tf.Tensor, ...]

    @classmethod
    def of(cls, partition: Partition, key: tf.Tensor) -> "Dealt":
        """The same of a partition."""
        layers = (np.concatenate(parts).astype(np.int32) for parts in partition.indices)
        return cls(key, tuple(map(tf.constant, layers)))


class Places:
    """Where the neurons of a round are, worked out once for a graph.

    Args:
        dealt: of the round.
        sizes: sizes[layer][subnet], neurons of each hidden layer.
        homes: of each hidden layer's neurons.
        worker: this worker's index.
    """

    def __init__(
        self, dealt: Dealt, sizes: Sequence[Sequence[int]], homes: Sequence[Homes], worker: int
    ):
        self.dealt, self._homes, self._worker = dealt, homes, worker
        self._neurons = [
            tf.split(neurons, list(layer))
            for neurons, layer in zip(dealt.neurons, sizes, strict=True)
        ]
        self._owners = [
            tf.split(tf.gather(home.owners, neurons), list(layer))
            for home, neurons, layer in zip(homes, dealt.neurons, sizes, strict=True)
        ]
        self._found: dict = {}

    def owned(self, subnet: int, layer: int, worker: int) -> tf.Tensor:
        """Which of a subnet's neurons a worker keeps, as places among them: int32."""
        key = subnet, layer, worker
        if key not in self._found:
            is_owned = self._owners[layer][subnet] == worker
            self._found[key] = tf.cast(tf.where(is_owned)[:, 0], tf.int32)
        return self._found[key]

    def order(self, subnet: int, layer: int, num_workers: int) -> tf.Tensor:
        """Of a subnet's neurons, home by home, the ascending order."""
        key = subnet, layer, None
        if key not in self._found:
            owned = [self.owned(subnet, layer, worker) for worker in range(num_workers)]
            self._found[key] = tf.math.invert_permutation(tf.concat(owned, axis=0))
        return self._found[key]

    def rows(self, subnet: int, variable: SubnetPartitionedVariable, layer: int) -> tf.Tensor:
        """Where a variable keeps the part of a subnet that is here.

        Args:
            subnet: which.
            variable: whose.
            layer: that its neurons are of.
        """
        inputs = variable.input_layer
        key = subnet, layer, (inputs, variable.inputs)
        if key not in self._found:
            neurons = tf.gather(
                self._neurons[layer][subnet], self.owned(subnet, layer, self._worker)
            )
            slots = tf.gather(self._homes[layer].slots, neurons)
            columns = None if inputs is None else self._neurons[inputs][subnet]
            self._found[key] = variable.rows(slots, columns)
        return self._found[key]


class Report(NamedTuple):
    """What every worker gets of a subnet beside its neurons.

    Args:
        shared: float32[entries, columns], its copy of what all subnets share.
        record: float32[n], how its training went.
    """

    shared: tf.Tensor
    record: tf.Tensor


class Exchange:
    """Moves a head's partitioned parameters between home shards and subnets.

    A subnet's neurons come in one message from each worker that keeps some, and go back in one.
    Nothing is filled up to the size of another, so that a worker with little to train sends little.
    A message goes as soon as it is ready, whatever the worker's other subnets still do.

    Args:
        link: to the other workers.
        specs: the partitioned parameters.
        columns: of each, what travels.
        hosted: hosted[worker], the subnets of each worker.
        sizes: sizes[layer][subnet], neurons of each hidden layer.
        report: shapes of a subnet's report.
    """

    def __init__(
        self,
        link: Link,
        specs: Sequence[ParameterSpec],
        columns: Sequence[Sequence[Column]],
        hosted: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
        report: tuple[tuple[int, int], tuple[int]],
    ):
        self.link, self.sizes, self.report = link, sizes, report
        self.mine = hosted[link.worker]
        self.hosts = {n: worker for worker, subnets in enumerate(hosted) for n in subnets}
        kinds = list(zip(specs, columns, strict=True))
        out, back = (
            [sum(self._bytes(kinds, n, way) for n in subnets) for subnets in hosted]
            for way in ("out", "back")
        )
        self._bound = own_bounds(out, back)[link.worker]
        shares = home_shares(out, back)
        self.homes = [make_homes(sum(layer), shares) for layer in sizes]
        self.parameters = [
            PartitionedParameter(spec, some, self.homes, link.worker) for spec, some in kinds
        ]

    def _bytes(self, kinds, subnet, way):
        """What crosses of a subnet in all, as if no home were its own worker's."""
        return sum(
            getattr(column, way).neuron_bytes(self._num_inputs(spec, subnet))
            * self.sizes[spec.layers[neuron_axis(spec)]][subnet]
            for spec, columns in kinds
            for column in columns
        )

    def _num_inputs(self, spec, subnet) -> int:
        """Of each neuron that a subnet holds."""
        if len(spec.shape) == 1:
            return 1
        axis = 1 - neuron_axis(spec)
        layer = spec.layers[axis]
        return spec.shape[axis] if layer is None else self.sizes[layer][subnet]

    def lower_bound_bytes(self) -> float:
        """What this worker's subnets ask of it in a round: their bytes, (P - 1) / P of them."""
        return float(self._bound)

    def places(self, dealt: Dealt) -> Places:
        """Where the neurons of a round are; called inside strategy.run, once."""
        return Places(dealt, self.sizes, self.homes, self.link.worker)

    def dispatch(self, places: Places) -> dict[int, Blocks]:
        """The hosted subnets' neurons; called inside strategy.run, by all workers.

        Args:
            places: of the round.

        Returns:
            What the forms leave of their blocks, by subnet.
        """
        kept = {n: self._kept_here(places, n) for n in self.hosts}
        for subnet, host in self.hosts.items():
            if subnet not in self.mine:
                self._send(places, subnet, host, kept[subnet], None)
        return {n: self._assembled(places, n, kept[n]) for n in self.mine}

    def give_back(
        self, places: Places, subnet: int, blocks: Blocks, seed: tf.Tensor, report: Report
    ) -> None:
        """Sends what a hosted subnet made of its neurons; as dispatch.

        Args:
            places: of the round.
            subnet: which.
            blocks: what comes back, differences where a column says so.
            seed: int32[2], of its rounding.
            report: for every worker.
        """
        lowered = [
            [
                column.back.lower(block, partial(_fold, seed, i, j))
                for j, (column, block) in enumerate(zip(parameter.columns, found, strict=True))
            ]
            for i, (parameter, found) in enumerate(zip(self.parameters, blocks, strict=True))
        ]
        for worker in range(self.link.num_workers):
            rows = self._of_home(places, subnet, worker, lowered)
            if worker == self.link.worker:
                self._write(places, subnet, rows)
            else:
                self._send(places, subnet, worker, rows, report)

    def take_back(self, places: Places, subnet: int) -> Report:
        """Receives what another worker's subnet made of the neurons of this home; as dispatch."""
        rows, report = self._receive(places, subnet, self.hosts[subnet], is_back=True)
        self._write(places, subnet, rows)
        return report

    def _kept_here(self, places, subnet) -> list[list[Rows]]:
        """The part of a subnet that is here, as it goes out."""
        return [
            p.lowered(partial(places.rows, subnet), self._num_inputs(p.spec, subnet))
            for p in self.parameters
        ]

    def _write(self, places, subnet, rows) -> None:
        """Takes what came back of the part of a subnet that is here."""
        for p, found in zip(self.parameters, rows, strict=True):
            p.write(partial(places.rows, subnet), self._num_inputs(p.spec, subnet), found)

    def _of_home(self, places, subnet, worker, lowered) -> list[list[Rows]]:
        """Of a subnet's blocks the rows that a worker keeps."""
        if self.link.num_workers == 1:
            return lowered
        return [
            [
                [tf.gather(t, places.owned(subnet, p.layer, worker)) for t in rows]
                for rows in columns
            ]
            for p, columns in zip(self.parameters, lowered, strict=True)
        ]

    def _assembled(self, places, subnet, here) -> Blocks:
        """A hosted subnet's blocks, of what all workers keep of it."""
        workers = range(self.link.num_workers)
        parts = [
            here if w == self.link.worker else self._receive(places, subnet, w, is_back=False)[0]
            for w in workers
        ]
        blocks: Blocks = []
        for i, parameter in enumerate(self.parameters):
            num_inputs = self._num_inputs(parameter.spec, subnet)
            shape = self.sizes[parameter.layer][subnet], num_inputs
            blocks.append([])
            for j, column in enumerate(parameter.columns):
                rows = parts[0][i][j]
                if len(parts) > 1:
                    order = places.order(subnet, parameter.layer, len(parts))
                    pieces = zip(*(part[i][j] for part in parts), strict=True)
                    rows = [tf.gather(tf.concat(piece, axis=0), order) for piece in pieces]
                blocks[-1].append(tf.ensure_shape(column.out.lift(rows, num_inputs), shape))
        return blocks

    def _send(self, places, subnet, worker, rows, report) -> None:
        """Sends a subnet's rows; on their way back, with a report."""
        words: list[tf.Tensor] = []
        counts: dict[Purpose, tf.Tensor] = {"weights": 0, "moments": 0, "control": 0}
        way = "out" if report is None else "back"
        for parameter, found in zip(self.parameters, rows, strict=True):
            for column, some in zip(parameter.columns, found, strict=True):
                packed = getattr(column, way).pack(some)
                words += packed
                counts[column.purpose] += tf.add_n([tf.size(vector) for vector in packed])
        if report is not None:
            entries, columns = self.report[0]
            words += map(floats_to_bits, report)
            counts["weights"] += entries
            counts["moments"] += entries * (columns - 1)
            counts["control"] += self.report[1][0]
        key = self._message(places, subnet, is_back=report is not None)
        self.link.send(tf.concat(words, axis=0), worker, key, counts)

    def _receive(self, places, subnet, worker, is_back):
        """What _send sends: rows, and where they are on their way back a report."""
        home = self.link.worker if is_back else worker
        way, sizes, forms = "back" if is_back else "out", [], []
        for parameter in self.parameters:
            neurons = tf.size(places.owned(subnet, parameter.layer, home))
            num_inputs = self._num_inputs(parameter.spec, subnet)
            for column in parameter.columns:
                forms.append((getattr(column, way), neurons, num_inputs))
                sizes.append(forms[-1][0].num_words(neurons, num_inputs))
        entries = [int(np.prod(shape)) for shape in self.report] if is_back else []
        key = self._message(places, subnet, is_back)
        words = self.link.receive(tf.add_n([*sizes, *entries]), worker, key)
        parts = tf.split(words, [*sizes, *entries], num=len(sizes) + len(entries))
        unpacked = iter(
            [form.unpack(some, *of) for (form, *of), some in zip(forms, parts, strict=False)]
        )
        rows = [[next(unpacked) for _ in parameter.columns] for parameter in self.parameters]
        told = zip(parts[len(sizes) :], self.report if is_back else (), strict=True)
        report = [bits_to_floats(part, shape) for part, shape in told]
        return rows, Report(*report) if is_back else None

    def _message(self, places, subnet, is_back):
        """A number that no other message between two workers has."""
        return (places.dealt.key * len(self.hosts) + subnet) * 2 + is_back


def _fold(seed: tf.Tensor, *counters: int) -> tf.Tensor:
    for counter in counters:
        seed = tf.random.experimental.stateless_fold_in(seed, counter)
    return seed
