"""Home shards and blocks: nothing is lost, nothing else is touched."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.ist import wholes as wholes_module
from sparse_ist_tf.ist.exchange import variables
from sparse_ist_tf.ist.exchange.transfers import Exchange, make_plan
from sparse_ist_tf.ist.exchange.variables import Skew, SubnetPartitionedVariable
from sparse_ist_tf.ist.head import HeadSpec, ParameterSpec
from sparse_ist_tf.ist.partition import hosted_subnets, make_partition
from sparse_ist_tf.ist.wholes import Wholes
from sparse_ist_tf.workers.link import Link

KERNEL = ParameterSpec("kernel", (10, 7), (0, 1))


@given(st.integers(1, 5), st.integers(0, 20))
@settings(deadline=None)
def test_every_entry_has_one_home(num_workers, round_index):
    skew = Skew(KERNEL, num_workers)
    partition = make_partition(0, round_index, KERNEL.shape, 4)
    for subnet in range(4):
        places = [
            (skew.in_home(partition, subnet, home), skew.in_block(partition, subnet, home))
            for home in range(num_workers)
        ]
        assert [len(p[0]) for p in places] == skew.counts(partition, subnet).tolist()
        in_block = np.concatenate([p[1] for p in places])
        rows, columns = (partition.indices[axis][subnet] for axis in (0, 1))
        assert sorted(in_block.tolist()) == list(range(len(rows) * len(columns)))
        for home, (in_home, in_block) in enumerate(places):
            i, j = rows[in_block // len(columns)], columns[in_block % len(columns)]
            assert np.all((i + j) % num_workers == home)
            assert np.all(in_home == i * skew.stride + j // num_workers)


@given(st.integers(1, 5))
@settings(deadline=None)
def test_homes_make_up_the_whole(num_workers):
    whole = np.random.default_rng(0).normal(size=(10, 7, 3)).astype(np.float32)
    skew, cut = Skew(KERNEL, num_workers), np.random.default_rng(num_workers).integers(0, 11)
    blocks = []
    for first, block in ((0, whole[:cut]), (cut, whole[cut:])):
        homes = [skew.home_of(block, worker, first) for worker in range(num_workers)]
        blocks.append(skew.whole_of(homes, first))
        for worker, home in enumerate(homes):
            in_home, in_block = (f(None, 0, worker) for f in (skew.in_home, skew.in_block))
            here = (first * 7 <= in_block) & (in_block < (first + len(block)) * 7)
            flat = whole.reshape(-1, 3)[in_block[here]]
            assert np.array_equal(home[in_home[here] - first * skew.stride], flat)
    assert np.array_equal(np.concatenate(blocks), whole)


def _exchange(num_subnets, spec):
    link = Link.alone()
    hosted = hosted_subnets(num_subnets, 1)
    partition = make_partition(0, 0, spec.hidden, num_subnets)
    variables = [
        SubnetPartitionedVariable(
            part, 2, 0, 1, [int(Skew(part, 1).counts(partition, n).sum()) for n in hosted[0]]
        )
        for part in spec.parameters()[:-1]
    ]
    return Exchange(link, variables, hosted, spec.num_classes, 2)


def _matrices(wholes, spec):
    """Each whole parameter, [entries, columns], as one block of rows."""
    for part, whole in zip(spec.parameters(), wholes, strict=False):
        yield [whole.reshape(*Skew(part, 1).matrix_shape, -1)]


def _flat(columns):
    return np.stack([column.ravel() for column in columns], axis=1)


def _tensors(plan):
    return type(plan)(
        *tf.nest.map_structure(tf.constant, (plan.serve, plan.hold, np.int32(plan.chunk)))
    )


def test_collect_undoes_dispatch_and_touches_nothing_else():
    spec = HeadSpec(5, (9, 7), 3)
    exchange = _exchange(3, spec)
    rng = np.random.default_rng(1)
    wholes = [
        rng.normal(size=(int(np.prod(p.shape)), 2)).astype(np.float32)
        for p in spec.parameters()[:-1]
    ]
    exchange.set_homes(_matrices(wholes, spec))
    for r in range(4):
        partition = make_partition(0, r, spec.hidden, 3)
        plan = _tensors(exchange.plan(partition))
        shared = tf.zeros((3, spec.num_classes, 2))
        exchange.dispatch(plan, tf.constant(1))
        exchange.collect(plan, shared, tf.constant(1))
        for got, whole in zip(exchange.gather(Wholes()), wholes, strict=True):
            assert np.array_equal(_flat(got), whole)
        # What subnets change comes back where it was taken from; the rest stays.
        exchange.dispatch(plan, tf.constant(1))
        for variable in exchange.variables:
            variable.blocks.assign_add(tf.ones_like(variable.blocks))
        exchange.collect(plan, shared, tf.constant(1))
        gathered = exchange.gather(Wholes())
        for part, got, whole in zip(spec.parameters(), gathered, wholes, strict=False):
            held = np.zeros(part.shape, np.float32)
            for n in range(3):
                axes = [
                    np.arange(size) if layer is None else partition.indices[layer][n]
                    for size, layer in zip(part.shape, part.layers, strict=True)
                ]
                held[np.ix_(*axes)] += 1
            assert set(np.unique(held)) <= {0.0, 1.0}
            assert np.array_equal(_flat(got), whole + held.reshape(-1, 1))
        exchange.set_homes(_matrices(wholes, spec))


class _Together:
    """The link of one of several workers that are threads of this process."""

    def __init__(self, worker, num_workers, posts, barrier):
        self.worker, self.num_workers = worker, num_workers
        self.posts, self.barrier = posts, barrier
        self.chief = worker == 0

    def pass_on(self, array, source, target, *, purpose):
        post = self.posts[source, target]
        if self.worker == source:
            post.put(array)
            return array
        got = post.get(timeout=60)
        assert got.shape == tuple(array.shape)
        return got

    def all_to_all(self, chunks, key, purpose):
        self.posts[self.worker] = chunks.numpy()
        self.barrier.wait(60)
        got = np.stack([post[self.worker] for post in self.posts])
        self.barrier.wait(60)
        return tf.constant(got)


@pytest.mark.parametrize(("num_subnets", "num_workers"), [(2, 2), (5, 3), (4, 4)])
def test_several_workers_dispatch_and_collect(num_subnets, num_workers):
    """Each subnet gets its own submatrices; what it adds comes home, and copies go to everyone."""
    spec, columns = HeadSpec(5, (9, 7), 3), 2
    hosted = hosted_subnets(num_subnets, num_workers)
    partition = make_partition(0, 1, spec.hidden, num_subnets)
    parts = spec.parameters()[:-1]
    rng = np.random.default_rng(1)
    wholes = [rng.normal(size=(int(np.prod(p.shape)), columns)).astype(np.float32) for p in parts]
    posts, barrier = [None] * num_workers, threading.Barrier(num_workers)

    def work(worker):
        skews = [Skew(part, num_workers) for part in parts]
        variables = [
            SubnetPartitionedVariable(
                part,
                columns,
                worker,
                num_workers,
                [int(skew.counts(partition, n).sum()) for n in hosted[worker]],
            )
            for part, skew in zip(parts, skews, strict=True)
        ]
        link = _Together(worker, num_workers, posts, barrier)
        exchange = Exchange(link, variables, hosted, spec.num_classes, columns)
        exchange.set_homes(_matrices(wholes, spec))
        plan = _tensors(exchange.plan(partition))
        exchange.dispatch(plan, tf.constant(1))
        blocks = [variable.blocks.numpy() for variable in variables]
        for variable in variables:
            variable.blocks.assign_add(tf.ones_like(variable.blocks))
        mine = [[n] * spec.num_classes for n in hosted[worker]]
        shared = tf.repeat(tf.constant(mine, tf.float32)[..., None], columns, axis=2)
        copies = exchange.collect(plan, shared, tf.constant(2))
        return blocks, [variable.home.numpy() for variable in variables], copies.numpy()

    with ThreadPoolExecutor(num_workers) as pool:
        results = list(pool.map(work, range(num_workers)))
    for i, part in enumerate(parts):
        whole = wholes[i].reshape(*part.shape, columns)
        wanted = whole.copy()
        for worker, (blocks, _, _) in enumerate(results):
            pieces = []
            for n in hosted[worker]:
                axes = [
                    np.arange(size) if layer is None else partition.indices[layer][n]
                    for size, layer in zip(part.shape, part.layers, strict=True)
                ]
                pieces.append(whole[np.ix_(*axes)].reshape(-1, columns))
                wanted[np.ix_(*axes)] += 1
            assert np.array_equal(blocks[i], np.concatenate(pieces))
        got = Skew(part, num_workers).whole_of([homes[i] for _, homes, _ in results])
        assert np.array_equal(got.reshape(wanted.shape), wanted)
    for _, _, copies in results:
        assert copies.shape == (num_subnets, spec.num_classes, columns)
        assert np.array_equal(copies[:, 0, 0], np.arange(num_subnets))


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("block_bytes", [1, 200, 1 << 24])
def test_what_is_gathered_row_by_row_is_scattered_again(
    tmp_path, monkeypatch, block_bytes, num_workers
):
    """Whatever fits into a block; on disk and in memory."""
    for module in (variables, wholes_module):
        monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    spec = HeadSpec(5, (9, 7), 3)
    hosted, parts = hosted_subnets(3, num_workers), spec.parameters()[:-1]
    posts = {(i, j): queue.Queue() for i in range(num_workers) for j in range(num_workers)}
    rng = np.random.default_rng(1)
    wholes = [rng.normal(size=(int(np.prod(p.shape)), 2)).astype(np.float32) for p in parts]

    def work(worker):
        made = [SubnetPartitionedVariable(part, 2, worker, num_workers, [1]) for part in parts]
        exchange = Exchange(_Together(worker, num_workers, posts, None), made, hosted, 3, 2)
        exchange.set_homes(_matrices(wholes, spec))
        gathered = exchange.gather(Wholes(tmp_path))
        for variable in made:
            variable.home.assign(tf.zeros_like(variable.home))
        exchange.scatter(gathered)
        return gathered, exchange.gather(Wholes())

    with ThreadPoolExecutor(num_workers) as pool:
        (first, again), *others = pool.map(work, range(num_workers))
    assert others == [(None, None)] * (num_workers - 1)
    for part, whole, *both in zip(parts, wholes, first, again, strict=True):
        for columns in both:
            assert [column.shape for column in columns] == [part.shape] * 2
            assert np.array_equal(_flat(columns), whole)
    assert not [*tmp_path.iterdir()]


def test_off_diagonal_blocks_are_held_by_nobody():
    spec = HeadSpec(5, (8, 8), 3)
    partition = make_partition(0, 0, spec.hidden, 2)
    skew = Skew(spec.parameters()[2], 1)
    held = sum(int(skew.counts(partition, n).sum()) for n in range(2))
    assert held == 32  # of 64


@pytest.mark.parametrize("num_workers", [2, 4])
@pytest.mark.parametrize("hidden", [(1000, 1000), (100,), (37, 90, 41)])
def test_bytes_stay_near_the_lower_bound(num_workers, hidden):
    """The fullest pair of any round is within 1.25 of the mean, narrow layers included."""
    spec = HeadSpec(192, hidden, 10)
    skews = [Skew(part, num_workers) for part in spec.parameters()[:-1]]
    hosted = hosted_subnets(4, num_workers)
    for r in range(20):
        partition = make_partition(0, r, hidden, 4)
        plan = make_plan(skews, partition, hosted, 0)
        size = max(sum(s.counts(partition, n).sum() for s in skews for n in h) for h in hosted)
        assert plan.chunk <= 1.25 * size / num_workers
