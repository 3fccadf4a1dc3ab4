import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs.datasets import shard_indices

LABELS = np.random.default_rng(0).integers(0, 10, 5000)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 300),
    classes=st.integers(1, 12),
    shards=st.integers(1, 8),
    kind=st.sampled_from(["iid", "dirichlet"]),
    alpha=st.floats(0.05, 100),
    seed=st.integers(0, 2**40),
)
def test_shards_are_disjoint_and_complete(count, classes, shards, kind, alpha, seed):
    labels = np.arange(count) % classes
    try:
        parts = shard_indices(labels, shards, kind=kind, alpha=alpha, seed=seed)
    except RequestError:
        assert kind == "dirichlet" or shards > count
        return
    assert len(parts) == shards
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    for part in parts:
        assert part.dtype == np.int64
        assert len(part)
        assert np.all(np.diff(part) > 0)
    if kind == "iid":
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_all_is_everything_for_everyone():
    for part in shard_indices(LABELS, 3):
        assert np.array_equal(part, np.arange(5000))


def spread(alpha):
    """How far the shards' shares of the classes are from even, 0 to 1."""
    parts = shard_indices(LABELS, 4, kind="dirichlet", alpha=alpha, seed=1)
    table = np.array([np.bincount(LABELS[part], minlength=10) for part in parts])
    return abs(table / table.sum(axis=0) - 0.25).sum(axis=0).mean() / 1.5


def test_a_small_alpha_is_less_even():
    assert spread(0.1) > spread(0.3) > spread(3) > spread(300)
    assert spread(0.1) > 0.5
    assert spread(300) < 0.06
    parts = shard_indices(LABELS, 4, kind="iid", seed=1)
    table = np.array([np.bincount(LABELS[part], minlength=10) for part in parts])
    assert table.min() > 80


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_the_seed_decides(kind):
    first, again, other = (shard_indices(LABELS, 4, kind=kind, seed=s) for s in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_shards": 0}, "num_shards=0"),
        ({"num_shards": 6, "kind": "iid"}, "num_shards=6: must be at most the 5 images"),
        ({"num_shards": 2, "kind": "zipf"}, "kind='zipf': must be one of all, iid, dirichlet"),
        ({"num_shards": 2, "kind": "dirichlet", "alpha": 0.0}, "alpha=0.0"),
        ({"num_shards": 2, "kind": "dirichlet", "alpha": float("nan")}, "alpha=nan"),
        ({"num_shards": 5, "kind": "dirichlet", "alpha": 0.01}, "without an image"),
    ],
)
def test_impossible_shards_are_refused(arguments, says):
    with pytest.raises(RequestError, match=says):
        shard_indices(np.zeros(5, int), **arguments)
