"""Every neuron has one home, and workers keep as much as their subnets ask for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.ist.exchange.homes import home_shares, make_homes, own_bounds

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda s: sum(s) > 0.01)


@given(st.integers(1, 60), SHARES)
@settings(deadline=None)
def test_every_neuron_has_one_home_and_shares_are_kept(width, shares):
    shares = np.array(shares) / sum(shares)
    homes = make_homes(width, shares)
    assert sum(homes.counts) == width
    assert (np.abs(homes.counts - width * shares) <= 1 + 1e-6).all()
    for worker, count in enumerate(homes.counts):
        mine = homes.of(worker)
        assert len(mine) == count
        assert homes.slots[mine].tolist() == list(range(count))


@given(st.integers(1, 8), st.floats(0.1, 10), st.floats(0.1, 10))
def test_equal_loads_have_equal_shares(num_workers, out, back):
    shares = home_shares([out] * num_workers, [back] * num_workers)
    assert shares == pytest.approx([1 / num_workers] * num_workers)


@given(st.lists(st.floats(0.05, 20), min_size=2, max_size=8), st.floats(1, 5))
@settings(deadline=None)
def test_nobody_sends_much_more_than_its_own_subnets_ask_for(loads, ratio):
    out = np.array(loads)
    back = out / ratio
    shares = np.array(home_shares(out, back))
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    sent = (1 - shares) * back + shares * (out.sum() - out)
    bounds = own_bounds(out, back)
    assert (sent <= 1.03 * bounds + 1e-9).all()
