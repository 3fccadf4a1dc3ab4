"""Partitions: disjoint, complete, uniform, by capacity."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.ist.partition import hosted_subnets, make_partition, subnet_sizes


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 50), st.integers(0, 9))
@settings(deadline=None)
def test_every_neuron_goes_to_exactly_one_subnet(num_subnets, extra, round_index, seed):
    widths = (num_subnets + extra, 2 * num_subnets + extra)
    partition = make_partition(seed, round_index, widths, num_subnets)
    for width, parts in zip(widths, partition.indices, strict=True):
        assert sorted(np.concatenate(parts).tolist()) == list(range(width))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert tuple(sizes) == subnet_sizes(width, num_subnets)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.integers(0, 200))
@settings(deadline=None)
def test_sizes_follow_capacities(capacities, extra):
    width = len(capacities) + extra
    sizes = subnet_sizes(width, len(capacities), capacities)
    assert sum(sizes) == width
    assert min(sizes) >= 1
    order = np.argsort(capacities, kind="stable")
    assert all(sizes[a] <= sizes[b] + 1 for a, b in itertools.pairwise(order))


def test_capacities_split_exactly_where_they_can():
    assert subnet_sizes(1000, 4, (4, 2, 1, 1)) == (500, 250, 125, 125)
    assert subnet_sizes(4, 4, (100, 1, 1, 1)) == (1, 1, 1, 1)


def test_dealing_is_uniform():
    """Over 1,000 rounds every neuron is as often in every subnet: chi-square, 1 in 10,000."""
    width, num_subnets, rounds = 20, 4, 1000
    counts = np.zeros((num_subnets, width))
    for r in range(rounds):
        for subnet, part in enumerate(make_partition(3, r, (width,), num_subnets).indices[0]):
            counts[subnet, part] += 1
    expected = rounds / num_subnets
    statistic = ((counts - expected) ** 2 / expected).sum()
    # (4 - 1) * (20 - 1) = 57 degrees of freedom; the 0.9999 quantile is 103.4.
    assert statistic < 103.4


def test_rounds_and_seeds_differ_and_repeat():
    def first(seed, r):
        return make_partition(seed, r, (50, 50), 2).indices[0][0].tolist()

    assert first(0, 0) != first(0, 1)
    assert first(0, 0) != first(1, 0)
    make_partition.cache_clear()
    again = first(0, 0)
    make_partition.cache_clear()
    assert again == first(0, 0)
    layers = make_partition(0, 0, (50, 50), 2).indices
    assert layers[0][0].tolist() != layers[1][0].tolist()


@given(st.integers(1, 16), st.data())
def test_hosts_take_every_subnet_in_a_row(num_subnets, data):
    num_workers = data.draw(st.integers(1, num_subnets))
    hosts = hosted_subnets(num_subnets, num_workers)
    assert [n for host in hosts for n in host] == list(range(num_subnets))
    sizes = [len(host) for host in hosts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: subnet_sizes(3, 4), "3 neurons.*num_subnets=4"),
        (lambda: subnet_sizes(8, 2, (1, 0)), "capacities"),
        (lambda: subnet_sizes(8, 2, (1, 2, 3)), "capacities"),
        (lambda: subnet_sizes(8, 0), "num_subnets=0"),
        (lambda: hosted_subnets(2, 3), "num_workers=3"),
    ],
)
def test_bad_requests_are_named(call, words):
    with pytest.raises(RequestError, match=words):
        call()
