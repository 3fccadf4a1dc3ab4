"""How subnets get their neurons from home shards and give them back, once in a round."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange.forms import Rows, bits_to_floats, floats_to_bits
from sparse_ist_tf.ist.exchange.homes import home_shares, kept_counts, make_homes, own_bounds
from sparse_ist_tf.ist.exchange.parameters import Column, PartitionedParameter
from sparse_ist_tf.ist.exchange.parcels import PARCEL_BYTES, Parcel, Window, make_parcels
from sparse_ist_tf.ist.exchange.places import Dealt, Places
from sparse_ist_tf.ist.exchange.variables import neuron_axis
from sparse_ist_tf.ist.head import ParameterSpec
from sparse_ist_tf.workers.channel import NUM_KEYS, Channel
from sparse_ist_tf.workers.ledger import Purpose
from sparse_ist_tf.workers.link import Link

# Of each parameter its columns, with the parameter's axes, as a subnet trains them.
Arrays = Sequence[Sequence[tf.Variable | tf.Tensor]]


class Report(NamedTuple):
    """What every worker gets of a subnet beside its neurons.

    Args:
        shared: float32[entries, columns], its copy of what all subnets share.
        record: float32[n], how its training went.
    """

    shared: tf.Tensor
    record: tf.Tensor


class Learnt(NamedTuple):
    """What a hosted subnet gives back.

    Args:
        arrays: what it made of its neurons.
        start: as dispatch returns it.
        seed: int32[2], of its rounding.
        report: from whether all that goes home is finite, bool, to what every worker gets.
    """

    arrays: Arrays
    start: list[Rows]
    seed: tf.Tensor
    report: Callable[[tf.Tensor], Report]


class Exchange:
    """Moves a head's partitioned parameters between home shards and subnets.

    A subnet's neurons come in one message from each worker that keeps some, and go back in one, or
    in several where they are more than a parcel holds: parcels come one behind the other. None is
    filled up to the size of another, so that a worker with little to train sends little; each
    crosses by a channel, filled up to one of few lengths. A message goes as soon as it is ready and
    others are through, whatever the worker's other subnets still do.

    Beside home shards and subnets a worker has at most one parcel on each way, and what is made of
    it: indices, another order, words. All workers make their transfers in one order, so none waits
    for another that waits for it.

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
        self.hosted, self.mine = hosted, hosted[link.worker]
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
        self.parcels = {n: self._cut(n) for n in sorted(self.hosts)}
        self._channels = self._make_channels()

    def _cut(self, subnet) -> list[Parcel]:
        neurons = [self.sizes[p.layer][subnet] for p in self.parameters]
        return make_parcels(neurons, [self._neuron_bytes(p, subnet) for p in self.parameters])

    def _neuron_bytes(self, parameter, subnet) -> int:
        """Of float32, all columns."""
        return 4 * self._num_inputs(parameter.spec, subnet) * len(parameter.columns)

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

    def _make_channels(self) -> dict[tuple, Channel]:
        """Of each subnet and parcel, home and way: what its messages cross by."""
        workers, channels = self.link.num_workers, {}
        messages = [(n, k) for n, parcels in self.parcels.items() for k in range(len(parcels))]
        first = self.link.reserve(2 * NUM_KEYS * len(messages)) if workers > 1 else 0
        for (subnet, k), is_back in itertools.product(messages, (False, True)):
            for home in set(range(workers)) - {self.hosts[subnet]}:
                lengths = self._lengths(subnet, k, home, is_back)
                channels[subnet, k, home, is_back] = Channel.of(first, *lengths)
            first += NUM_KEYS
        return channels

    def _lengths(self, subnet, k, home, is_back) -> tuple[float, float, int]:
        """Of a message's words mean, deviation and most: all layers' deviations together."""
        told = sum(self._report_sizes(subnet, k, is_back))
        mean, deviation, most = float(told), 0.0, told
        for p, some, num_inputs in self._pieces(subnet, k):
            drawn = some.stop - some.start
            kept = kept_counts(self.homes[p.layer], home, drawn)
            for column in p.columns:
                form = column.back if is_back else column.out
                each = form.num_words(drawn, num_inputs) / drawn
                mean += each * kept[0]
                deviation += each * kept[1]
                most += form.num_words(kept[2], num_inputs)
        return mean, deviation, most

    def _report_sizes(self, subnet, k, is_back) -> list[int]:
        """Words of what goes home beside a subnet's last parcel; elsewhere nothing does."""
        is_told = is_back and k == len(self.parcels[subnet]) - 1
        return [int(np.prod(shape)) for shape in self.report] if is_told else []

    def places(self, dealt: Dealt) -> Places:
        """Where the neurons of a round are; called inside strategy.run, once."""
        return Places(dealt, self.sizes, self.homes, self.link.worker)

    def turns(self) -> list[list[int]]:
        """Subnets that train at the same time: the first of each worker, the second, ..."""
        most = max(map(len, self.hosted))
        return [[some[i] for some in self.hosted if i < len(some)] for i in range(most)]

    def _transfers(self, subnets):
        """Of some subnets all parcels, in turn: the order in which all workers make them."""
        for k in range(max(len(self.parcels[n]) for n in subnets)):
            yield from ((n, k) for n in subnets if k < len(self.parcels[n]))

    def dispatch(self, places: Places, arrays: Mapping[int, Arrays]) -> dict[int, list[Rows]]:
        """Sets the hosted subnets' arrays; called inside strategy.run, by all workers.

        Args:
            places: of the round.
            arrays: of each hosted subnet variables.

        Returns:
            What differences are taken from, by subnet: of each piece and column that comes back as
            one what came, in its form.
        """
        kept: dict[int, list[Rows]] = {n: [] for n in self.mine}
        sent, came = Window(PARCEL_BYTES), Window(PARCEL_BYTES)
        for subnet, k in (transfer for turn in self.turns() for transfer in self._transfers(turn)):
            size = self._parcel_bytes(subnet, k)
            if subnet in self.mine:
                with tf.control_dependencies(came.before(size)):
                    ends, rows = self._put(places, subnet, k, arrays[subnet])
                kept[subnet] += rows
                came.add(size, ends)
                continue
            size /= self.link.num_workers
            with tf.control_dependencies(sent.before(size)):
                rows = self._kept_here(places, subnet, k)
                end = self._send(places, (subnet, k), self.hosts[subnet], rows, None)
            sent.add(size, [end])
        return kept

    def collect(
        self, places: Places, subnets: Sequence[int], learnt: Mapping[int, Learnt]
    ) -> dict[int, Report]:
        """Brings home what subnets made of their neurons; as dispatch.

        Args:
            places: of the round.
            subnets: one of turns().
            learnt: by those of them that are hosted here.

        Returns:
            Of each its report.
        """
        reports, finite = {}, []
        most = PARCEL_BYTES, PARCEL_BYTES / self.link.num_workers
        windows = {n: Window(most[n not in self.mine]) for n in subnets}
        for subnet, k in self._transfers(subnets):
            is_last = k == len(self.parcels[subnet]) - 1
            size = self._parcel_bytes(subnet, k)
            if subnet not in self.mine:
                size /= self.link.num_workers
            with tf.control_dependencies(windows[subnet].before(size)):
                if subnet in self.mine:
                    found = learnt[subnet]
                    rows, is_finite = self._lowered(subnet, k, found)
                    finite.append(is_finite)
                    report = found.report(tf.reduce_all(finite)) if is_last else None
                    ends = self._give(places, (subnet, k), rows, report)
                else:
                    host = self.hosts[subnet]
                    rows, report = self._receive(places, (subnet, k), host, is_back=True)
                    ends = self._write(places, subnet, k, rows)
            windows[subnet].add(size, ends)
            if is_last:
                reports[subnet] = report
        return reports

    def _parcel_bytes(self, subnet, k) -> float:
        return sum(
            (stop - first) * self._neuron_bytes(self.parameters[i], subnet)
            for i, first, stop in self.parcels[subnet][k]
        )

    def _pieces(self, subnet, k):
        """A parcel's pieces: parameter, which neurons, inputs of each."""
        for i, first, stop in self.parcels[subnet][k]:
            p = self.parameters[i]
            yield p, slice(first, stop), self._num_inputs(p.spec, subnet)

    def _kept_here(self, places, subnet, k) -> list[list[Rows]]:
        """The part of a parcel that is here, as it goes out."""
        return [
            p.lowered(places.rows_of(subnet, p.layer, some), num_inputs)
            for p, some, num_inputs in self._pieces(subnet, k)
        ]

    def _write(self, places, subnet, k, rows) -> list[tf.Operation]:
        """Takes what came back of the part of a parcel that is here."""
        ends = []
        for (p, some, num_inputs), found in zip(self._pieces(subnet, k), rows, strict=True):
            ends += p.write(places.rows_of(subnet, p.layer, some), num_inputs, found)
        return ends

    def _put(self, places, subnet, k, arrays):
        """Sets what a parcel holds, of what all workers keep of it; and what is a start."""
        workers, ends, kept = range(self.link.num_workers), [], []
        parts = [
            self._kept_here(places, subnet, k)
            if w == self.link.worker
            else self._receive(places, (subnet, k), w, is_back=False)[0]
            for w in workers
        ]
        pieces = zip(self.parcels[subnet][k], self._pieces(subnet, k), *parts, strict=True)
        for (i, first, stop), (p, some, num_inputs), *columns_of in pieces:
            shape = stop - first, num_inputs
            for column, variable, *found in zip(p.columns, arrays[i], *columns_of, strict=True):
                rows = found[0]
                if len(workers) > 1:
                    order = places.order(subnet, p.layer, len(workers), some)
                    together = zip(*found, strict=True)
                    rows = [tf.gather(tf.concat(parts, axis=0), order) for parts in together]
                block = tf.ensure_shape(column.out.lift(rows, num_inputs), shape)
                ends.append(p.put(variable, block, first))
                if column.is_difference:
                    kept.append(rows)
        return ends, kept

    def _lowered(self, subnet, k, learnt):
        """What a parcel gives back, in its forms, and whether all of it is finite."""
        starts = iter(learnt.start[self._num_starts(subnet, k) :])
        lowered, finite = [], []
        for piece, (p, _, num_inputs) in zip(
            self.parcels[subnet][k], self._pieces(subnet, k), strict=True
        ):
            i, first, stop = piece
            lowered.append([])
            for j, (column, array) in enumerate(zip(p.columns, learnt.arrays[i], strict=True)):
                block = p.take(array, first, stop)
                if column.is_difference:
                    block -= column.out.lift(next(starts), num_inputs)
                finite.append(tf.reduce_all(tf.math.is_finite(block)))
                # A neuron's rounding is another one in each of a parameter's pieces.
                at = (i, j, first) if first else (i, j)
                lowered[-1].append(column.back.lower(block, partial(_fold, learnt.seed, *at)))
        return lowered, tf.reduce_all(finite)

    def _num_starts(self, subnet, k) -> int:
        """Differences in a subnet's earlier parcels."""
        pieces = (piece for parcel in self.parcels[subnet][:k] for piece in parcel)
        return sum(c.is_difference for i, *_ in pieces for c in self.parameters[i].columns)

    def _give(self, places, message, lowered, report) -> list[tf.Operation]:
        """Sends a parcel home."""
        subnet, k = message
        ends = []
        for worker in range(self.link.num_workers):
            rows = lowered
            if self.link.num_workers > 1:
                rows = [
                    [
                        [tf.gather(t, places.owned(subnet, p.layer, worker, some)) for t in found]
                        for found in columns
                    ]
                    for (p, some, _), columns in zip(self._pieces(subnet, k), lowered, strict=True)
                ]
            if worker == self.link.worker:
                ends += self._write(places, subnet, k, rows)
            else:
                ends.append(self._send(places, message, worker, rows, report, is_back=True))
        return ends

    def _send(self, places, message, worker, rows, report, is_back=False) -> tf.Tensor:
        """Sends a parcel's rows; the last one on the way home with a report."""
        words: list[tf.Tensor] = []
        counts: dict[Purpose, tf.Tensor] = {"weights": 0, "moments": 0, "control": 0}
        way = "back" if is_back else "out"
        for (p, *_), found in zip(self._pieces(*message), rows, strict=True):
            for column, some in zip(p.columns, found, strict=True):
                packed = getattr(column, way).pack(some)
                words += packed
                counts[column.purpose] += tf.add_n([tf.size(vector) for vector in packed])
        if report is not None:
            entries, columns = self.report[0]
            words += map(floats_to_bits, report)
            counts["weights"] += entries
            counts["moments"] += entries * (columns - 1)
            counts["control"] += self.report[1][0]
        home = worker if is_back else self.link.worker
        channel = self._channels[(*message, home, is_back)]
        words = tf.concat(words, axis=0)
        return self.link.send(words, worker, channel, counts, places.dealt.is_first)

    def _receive(self, places, message, worker, is_back):
        """What _send sends: rows, and a report where there is one."""
        subnet, k = message
        home = self.link.worker if is_back else worker
        way, sizes, forms = "back" if is_back else "out", [], []
        for p, some, num_inputs in self._pieces(subnet, k):
            neurons = tf.size(places.owned(subnet, p.layer, home, some))
            for column in p.columns:
                forms.append((getattr(column, way), neurons, num_inputs))
                sizes.append(forms[-1][0].num_words(neurons, num_inputs))
        entries = self._report_sizes(subnet, k, is_back)
        channel, count = self._channels[subnet, k, home, is_back], tf.add_n([*sizes, *entries])
        words = self.link.receive(count, worker, channel, places.dealt.is_first)
        parts = tf.split(words, [*sizes, *entries], num=len(sizes) + len(entries))
        unpacked = iter(
            [form.unpack(some, *of) for (form, *of), some in zip(forms, parts, strict=False)]
        )
        rows = [[next(unpacked) for _ in p.columns] for p, *_ in self._pieces(subnet, k)]
        if not entries:
            return rows, None
        told = zip(parts[len(sizes) :], self.report, strict=True)
        return rows, Report(*(bits_to_floats(part, shape) for part, shape in told))


def _fold(seed: tf.Tensor, *counters: int) -> tf.Tensor:
    for counter in counters:
        seed = tf.random.experimental.stateless_fold_in(seed, counter)
    return seed
