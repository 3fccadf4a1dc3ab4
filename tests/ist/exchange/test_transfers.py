"""Subnets get their neurons and give them back: nothing is lost, nothing else is touched."""

import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.ist import wholes as wholes_module
from sparse_ist_tf.ist.exchange import parcels as parcels_module
from sparse_ist_tf.ist.exchange import transfers as transfers_module
from sparse_ist_tf.ist.exchange import variables
from sparse_ist_tf.ist.exchange.checkpoints import gather, scatter
from sparse_ist_tf.ist.exchange.parameters import Forms
from sparse_ist_tf.ist.exchange.places import Dealt
from sparse_ist_tf.ist.exchange.transfers import Exchange, Learnt, Report
from sparse_ist_tf.ist.head import HeadSpec
from sparse_ist_tf.ist.partition import hosted_subnets, make_partition, subnet_sizes
from sparse_ist_tf.ist.wholes import Wholes

SPEC = HeadSpec(5, (9, 7), 3)
PARTS = SPEC.parameters()[:-1]
REPORT = (3, 2), (4,)


class _Together:
    """The link of one of several workers that are threads of this process."""

    def __init__(self, worker, num_workers, posts):
        self.worker, self.num_workers, self.posts = worker, num_workers, posts
        self.chief, self.sent, self.reserved = worker == 0, 0, 0

    def reserve(self, count=1):
        first, self.reserved = self.reserved, self.reserved + count
        return first

    def pass_on(self, array, source, target, *, purpose):
        if self.worker == source:
            self.posts[source, target, None].put(array)
            return array
        got = self.posts[source, target, None].get(timeout=60)
        assert got.shape == tuple(array.shape)
        return got

    def send(self, words, worker, channel, purposes, is_first):
        assert sum(int(count) for count in purposes.values()) == words.shape[0]
        pieces = channel.pieces(channel.length(words.shape[0], is_first))
        crossing = [p.size for p in pieces if p.crosses is None or p.crosses]
        assert sum(crossing) >= words.shape[0]
        self.sent += 4 * sum(crossing)
        self.posts.setdefault((self.worker, worker, channel.key), queue.Queue()).put(words)

    def receive(self, num_words, worker, channel, is_first):
        post = self.posts.setdefault((worker, self.worker, channel.key), queue.Queue())
        got = post.get(timeout=60)
        assert got.shape == (int(num_words),)
        return got


def _exchanges(num_subnets, num_workers, forms=None, capacities=(), moments=("first", "second")):
    forms = forms or Forms()
    hosted = hosted_subnets(num_subnets, num_workers, capacities)
    sizes = [subnet_sizes(width, num_subnets, capacities) for width in SPEC.hidden]
    posts = {(i, j, None): queue.Queue() for i in range(num_workers) for j in range(num_workers)}
    columns = [forms.columns(part, moments) for part in PARTS]
    return [
        Exchange(_Together(w, num_workers, posts), PARTS, columns, hosted, sizes, REPORT)
        for w in range(num_workers)
    ]


def _together(exchanges, work):
    with ThreadPoolExecutor(len(exchanges)) as pool:
        return list(pool.map(work, exchanges))


def _variables(exchange):
    return [variable for p in exchange.parameters for variable in p.variables]


def _wholes(exchange):
    """Something to keep: positive, as second moments are."""
    rng = np.random.default_rng(1)
    return [rng.uniform(1, 2, v.spec.shape).astype(np.float32) for v in _variables(exchange)]


def _arrays(exchange, partition):
    """Of each hosted subnet variables for what it trains."""
    return {
        n: [
            [
                tf.Variable(tf.zeros([len(axis) for axis in _axes(p.spec, partition, n)]))
                for _ in p.columns
            ]
            for p in exchange.parameters
        ]
        for n in exchange.mine
    }


def _round(exchange, partition, seed=(1, 2)):
    """A round in which each subnet adds its number and one."""
    places = exchange.places(Dealt.of(partition))
    arrays, reports = _arrays(exchange, partition), {}
    starts = exchange.dispatch(places, arrays)
    came = tf.nest.map_structure(lambda variable: variable.numpy(), arrays)
    for turn in exchange.turns():
        learnt = {}
        for n in set(turn) & set(exchange.mine):
            made = tf.nest.map_structure(lambda array, n=n: array + n + 1, came[n])
            report = Report(tf.fill(REPORT[0], float(n)), tf.fill(REPORT[1], 10.0 + n))
            learnt[n] = Learnt(made, starts[n], tf.constant(seed), lambda _, report=report: report)
        reports |= exchange.collect(places, turn, learnt)
    return came, reports


def _axes(part, partition, n):
    pairs = zip(part.shape, part.layers, strict=True)
    return [np.arange(s) if la is None else partition.indices[la][n] for s, la in pairs]


@pytest.mark.parametrize(
    ("num_subnets", "num_workers", "capacities"),
    [(3, 1, ()), (2, 2, ()), (5, 3, ()), (4, 4, (4, 2, 1, 1)), (3, 2, (1, 1, 6))],
)
@pytest.mark.parametrize("parcel_bytes", [200, 1 << 24])
def test_subnets_get_their_submatrices_and_what_they_add_comes_home(
    monkeypatch, parcel_bytes, num_subnets, num_workers, capacities
):
    for module in (parcels_module, transfers_module):
        monkeypatch.setattr(module, "PARCEL_BYTES", parcel_bytes)
    exchanges = _exchanges(num_subnets, num_workers, capacities=capacities)
    wholes = _wholes(exchanges[0])
    partition = make_partition(0, 1, SPEC.hidden, num_subnets, capacities)

    def work(exchange):
        scatter(exchange.link, _variables(exchange), wholes if exchange.link.chief else None)
        start, reports = _round(exchange, partition)
        return start, reports, list(gather(exchange.link, _variables(exchange), Wholes()))

    results = _together(exchanges, work)
    for i, part in enumerate(PARTS):
        for column in range(3):
            wanted = wholes[3 * i + column].copy()
            for exchange, (start, *_) in zip(exchanges, results, strict=True):
                for n in exchange.mine:
                    held = np.ix_(*_axes(part, partition, n))
                    np.testing.assert_array_equal(start[n][i][column], wholes[3 * i + column][held])
                    wanted[held] += n + 1
            np.testing.assert_array_equal(results[0][2][3 * i + column], wanted)
    for _, reports, gathered in results:
        assert sorted(reports) == list(range(num_subnets))
        for n, report in reports.items():
            assert report.shared.shape == REPORT[0]
            assert set(np.ravel(report.shared)) == {float(n)}
            assert set(np.ravel(report.record)) == {10.0 + n}
        assert gathered is results[0][2] or gathered == [None] * len(wholes)


@pytest.mark.parametrize(
    "forms",
    [
        Forms("bfloat16", "int4", "int8", "neuron"),
        Forms("float16", "int8", "int4", "halvings"),
        Forms("bfloat16", "bfloat16", "float32", "neuron"),
        Forms("float32", "int4", "float32", "float32"),
    ],
)
@pytest.mark.parametrize("parcel_bytes", [200, pytest.param(1 << 24, marks=pytest.mark.large)])
def test_forms_end_alike_for_any_number_of_workers(monkeypatch, parcel_bytes, forms):
    """What crosses a link and what stays on a worker are rounded alike."""
    for module in (parcels_module, transfers_module):
        monkeypatch.setattr(module, "PARCEL_BYTES", parcel_bytes)
    ends = []
    for num_workers in (1, 2, 4):
        exchanges = _exchanges(4, num_workers, forms)
        wholes = _wholes(exchanges[0])

        def work(exchange, wholes=wholes):
            scatter(exchange.link, _variables(exchange), wholes if exchange.link.chief else None)
            for r in range(3):
                _round(exchange, make_partition(0, r, SPEC.hidden, 4), (r, 5))
            return list(gather(exchange.link, _variables(exchange), Wholes()))

        ends.append(_together(exchanges, work)[0])
    for one, *others in zip(*ends, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)
    assert any((end != whole).any() for end, whole in zip(ends[0], wholes, strict=True))


def test_a_difference_is_right_in_the_mean():
    """int4 of numbers that it can't say: the mean of many roundings is the number."""
    (exchange,) = _exchanges(2, 1, Forms("float32", "int4"), moments=())
    variable = exchange.parameters[0].variables[0]
    partition = make_partition(0, 0, SPEC.hidden, 2)
    places = exchange.places(Dealt.of(partition))
    block = np.array([[0.7, -0.33, 0.1, 0.01, -0.004]] * 5, np.float32)
    arrays = _arrays(exchange, partition)
    starts = exchange.dispatch(places, arrays)
    arrays[0][0][0].assign_add(block[: arrays[0][0][0].shape[1]].T)
    report = Report(tf.zeros(REPORT[0]), tf.zeros(REPORT[1]))

    @tf.function(autograph=False)
    def collect(seed):
        exchange.collect(places, [0], {0: Learnt(arrays[0], starts[0], seed, lambda _: report)})

    for r in range(400):
        collect(tf.constant([r, 0]))
    held = partition.indices[0][0]
    found = variable.home.numpy()[held] / 400
    np.testing.assert_allclose(found, block[: len(held)], atol=4 * 0.05 / np.sqrt(400))


def _sent(exchange, partition, subnet, is_hosted):
    """Bytes that a worker sends of a subnet, counted neuron by neuron."""
    count = 0
    for parameter in exchange.parameters:
        owners = exchange.homes[parameter.layer].owners
        is_mine = owners[partition.indices[parameter.layer][subnet]] == exchange.link.worker
        neurons = np.sum(~is_mine if is_hosted else is_mine)
        axes = _axes(parameter.spec, partition, subnet)
        inputs = len(axes[1 - parameter.axis]) if len(axes) == 2 else 1
        for column in parameter.columns:
            form = column.back if is_hosted else column.out
            count += neurons * form.neuron_bytes(inputs)
    return count


@pytest.mark.parametrize("capacities", [(), (4, 2, 1, 1), (8, 1, 1, 1), (1, 1, 1, 3)])
@pytest.mark.parametrize("forms", [Forms(), Forms("bfloat16", "int4", "reset", "neuron")])
@pytest.mark.parametrize(("num_subnets", "num_workers"), [(4, 4), (4, 2), (4, 3)])
def test_every_worker_sends_what_its_own_subnets_ask_for(
    forms, capacities, num_subnets, num_workers
):
    """Within 1.1 of its own bound, over some rounds, of a head as it is by default."""
    spec = HeadSpec(192, (1000, 1000), 10)
    hosted = hosted_subnets(num_subnets, num_workers, capacities)
    sizes = [subnet_sizes(width, num_subnets, capacities) for width in spec.hidden]
    parts = spec.parameters()[:-1]
    kinds = [k for k in ("first", "second") if forms.moment(k) != "reset"]
    columns = [forms.columns(part, kinds) for part in parts]
    posts, rounds, sent = {}, 6, np.zeros(num_workers)
    for worker in range(num_workers):
        link = _Together(worker, num_workers, posts)
        exchange = Exchange(link, parts, columns, hosted, sizes, REPORT)
        for r in range(rounds):
            partition = make_partition(0, r, spec.hidden, num_subnets, capacities)
            for n, host in exchange.hosts.items():
                sent[worker] += _sent(exchange, partition, n, host == worker)
        sent[worker] /= rounds * exchange.lower_bound_bytes()
    assert sent.max() <= 1.1
    if not capacities and num_subnets % num_workers == 0:
        assert sent.max() <= 1.05


def test_a_default_head_takes_one_message_for_a_subnet_and_home_and_a_wide_one_bounded_ones():
    """Every message takes a round trip; every parcel is there beside home shards and subnets."""
    for width, num_subnets in ((1000, 2), (1000, 16), (4000, 2)):
        spec, posts = HeadSpec(192, (width, width), 10), {}
        hosted = hosted_subnets(num_subnets, 2, ())
        sizes = [subnet_sizes(w, num_subnets, ()) for w in spec.hidden]
        columns = [Forms().columns(part, ("first", "second")) for part in spec.parameters()[:-1]]
        link = _Together(0, 2, posts)
        exchange = Exchange(link, spec.parameters()[:-1], columns, hosted, sizes, REPORT)
        for n, parcels in exchange.parcels.items():
            assert (len(parcels) == 1) == (width == 1000)
            seen = [
                [(p.first, p.stop) for parcel in parcels for p in parcel if p.parameter == i]
                for i in range(len(exchange.parameters))
            ]
            for parameter, spans in zip(exchange.parameters, seen, strict=True):
                firsts, stops = zip(*spans, strict=True)
                assert firsts == (0, *stops[:-1])
                assert stops[-1] == sizes[parameter.layer][n]
            sent = [exchange._parcel_bytes(n, k) for k in range(len(parcels))]
            assert max(sent) <= parcels_module.PARCEL_BYTES


def test_a_window_lets_as_much_begin_as_it_holds():
    with tf.Graph().as_default():
        window, begun = parcels_module.Window(10), []
        for size in (4, 4, 4, 20, 1):
            with tf.control_dependencies(window.before(size)):
                begun.append(tf.no_op())
            window.add(size, [begun[-1]])

        def waits_for(op):
            direct = set(op.control_inputs)
            return direct.union(*map(waits_for, direct))

        found = [[begun.index(o) for o in begun if o in waits_for(op)] for op in begun]
    assert found == [[], [], [0], [0, 1, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("block_bytes", [1, 200, 1 << 24])
def test_what_is_gathered_row_by_row_is_scattered_again(
    tmp_path, monkeypatch, block_bytes, num_workers
):
    """Whatever fits into a block; on disk and in memory."""
    for module in (variables, wholes_module):
        monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    exchanges = _exchanges(3, num_workers, Forms(second_moment="neuron"))
    wholes = _wholes(exchanges[0])

    def work(exchange):
        made, chief = _variables(exchange), exchange.link.chief
        scatter(exchange.link, made, wholes if chief else None)
        gathered = list(gather(exchange.link, made, Wholes(tmp_path)))
        for variable in made:
            variable.home.assign(tf.zeros_like(variable.home))
        scatter(exchange.link, made, gathered if chief else None)
        return gathered, list(gather(exchange.link, made, Wholes()))

    (first, again), *others = _together(exchanges, work)
    assert others == [([None] * len(wholes),) * 2] * (num_workers - 1)
    for whole, *both in zip(wholes, first, again, strict=True):
        for array in both:
            assert array.shape == whole.shape
            assert np.array_equal(array, whole)
    assert not [*tmp_path.iterdir()]
