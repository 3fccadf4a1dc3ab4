"""Batches depend on (seed, subnet, step) alone."""

import numpy as np

from sparse_ist_tf.inputs.batches import BatchStream


def test_an_epoch_uses_every_example_once():
    shard = np.arange(100, 130)
    rows = BatchStream(shard, 7, seed=0, subnet=1).rows(0, 30)
    epochs = rows.ravel().reshape(7, 30)
    for epoch in epochs:
        assert sorted(epoch) == shard.tolist()
    assert epochs[0].tolist() != epochs[1].tolist()


def test_batches_do_not_depend_on_how_they_are_asked_for():
    shard = np.arange(23)
    whole = BatchStream(shard, 4, seed=5, subnet=2).rows(0, 40)
    parts = [BatchStream(shard, 4, seed=5, subnet=2).rows(s, 8) for s in range(0, 40, 8)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, BatchStream(shard, 4, seed=5, subnet=3).rows(0, 40))


def test_passes_say_in_which_epoch_of_the_shard_an_example_is_drawn():
    stream = BatchStream(np.arange(100, 110), 4, seed=0, subnet=1)
    rows, passes = stream.rows(0, 25), stream.passes(0, 25)
    assert passes.shape == rows.shape
    for index in range(10):
        assert sorted(rows[passes == index]) == stream.shard.tolist()
        assert rows[passes == index].tolist() == stream.pass_rows(index).tolist()
    assert np.array_equal(stream.passes(7, 6), passes[7:13])
