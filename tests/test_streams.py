"""Streams of random numbers: each its own, and those that results hang on never change."""

import numpy as np

from sparse_ist_tf.streams import Stream


def test_no_two_streams_draw_alike():
    drawn = {tuple(stream.rng(0).integers(2**32, size=4)) for stream in Stream}
    drawn |= {tuple(Stream.BATCHES.rng(0, 0, epoch).integers(2**32, size=4)) for epoch in (1, 2)}
    assert len(drawn) == len(Stream) + 2
    assert len({int(stream) for stream in Stream.__members__.values()}) == len(Stream.__members__)


def test_a_stream_is_a_function_of_its_arguments():
    a, b = (Stream.PARTITION.rng(7, 3, 1).permutation(10) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    # Partitions, batches and splits of runs that are stored depend on these.
    expected = np.random.default_rng((7, 101, 3, 1)).permutation(10)
    np.testing.assert_array_equal(a, expected)
    expected = np.random.default_rng(7).permutation(10)
    np.testing.assert_array_equal(Stream.SPLIT.rng(7).permutation(10), expected)
