"""Messages of any length cross in pieces of few lengths, whose keys are used again."""

import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.workers.channel import ALIGNED, NUM_KEYS, USUAL, Channel

CHANNELS = st.tuples(st.integers(0, 1 << 26), st.floats(0, 1), st.floats(0, 1)).map(
    lambda of: Channel.of(7, of[0] * of[1], of[0] * of[1] * of[2], of[0])
)


def _pieces(channel, num_words, is_first=False):
    length = channel.length(tf.constant(num_words), tf.constant(is_first))
    return int(length), channel.pieces(length)


def _crossing(pieces):
    return [piece for piece in pieces if piece.crosses is None or piece.crosses]


@settings(deadline=None)
@given(CHANNELS, st.data())
def test_pieces_hold_the_message_one_behind_the_other(channel, data):
    most = channel.least + channel.unit * ((1 << channel.digits) - 1)
    num_words = data.draw(st.integers(0, most))
    length, pieces = _pieces(channel, num_words)
    keys = [piece.key for piece in pieces]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(range(7, 7 + NUM_KEYS))
    at = 0
    for piece in _crossing(pieces):
        assert piece.first.numpy().tolist() == [at]
        assert at % ALIGNED == piece.size % ALIGNED == 0
        at += piece.size
    assert at == length >= num_words
    assert length - num_words < channel.unit or length == channel.least


@settings(deadline=None)
@given(CHANNELS)
def test_a_piece_has_one_size_for_ever(channel):
    for num_words in (0, channel.least, channel.least + 3 * channel.unit):
        _, pieces = _pieces(channel, min(num_words, channel.least))
        _, others = _pieces(channel, channel.least + channel.unit * ((1 << channel.digits) - 1))
        assert [(p.key, p.size) for p in pieces] == [(p.key, p.size) for p in others]


@settings(deadline=None)
@given(CHANNELS)
def test_the_first_message_has_all_keys_that_are_usual(channel):
    """So that later ones have none that is new, but for lengths that hardly occur."""
    usual = channel.least + channel.unit * ((1 << channel.usual) - 1)
    first = {piece.key for piece in _crossing(_pieces(channel, 0, is_first=True)[1])}
    for num_words in range(0, usual + 1, max(1, usual // 50)):
        assert {piece.key for piece in _crossing(_pieces(channel, num_words)[1])} <= first


@settings(deadline=None)
@given(st.integers(1, 1 << 24), st.floats(0.001, 0.3))
def test_little_is_filled_up(mean, share):
    channel = Channel.of(1, mean, share * mean, 4 * mean)
    least = min(usual.filling for usual in USUAL)
    few = max(0.03, least * share) * mean
    # Half a unit in the mean; what is below the least is filled up to that.
    assert channel.unit / 2 <= 2 * few + ALIGNED
    assert channel.least > mean - 2 * share * mean - ALIGNED


def test_equal_lengths_are_one_piece():
    channel = Channel.of(1, 100.0, 0.0, 100)
    length, pieces = _pieces(channel, 100)
    assert length == 112
    assert [piece.size for piece in pieces] == [112]
    assert _pieces(Channel.of(1, 0.0, 0.0, 0), 0) == (0, [])
