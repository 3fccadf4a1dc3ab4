"""Features of 4, 3 and 2 bits: what is packed is unpacked, what arrives is what messages say."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.codec import messages
from sparse_ist_tf.codec.few_bits import BITS, Channels, pack_bits, packed_size, unpack_bits
from sparse_ist_tf.codec.messages import pack_feature, sent_features, unpack_feature
from sparse_ist_tf.codec.transport import Transport
from sparse_ist_tf.errors import RunError

rng = np.random.default_rng(0)
FEATURES = (rng.normal(size=(300, 192)) * rng.uniform(0.1, 3, 192) + rng.normal(size=192)).astype(
    np.float32
)
CHANNELS = Channels.of(FEATURES)


@given(bits=st.sampled_from(list(BITS.values())), data=st.data())
def test_packed_numbers_come_back_and_fill_no_bit_more(bits, data):
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    codes = np.array(numbers, np.uint8)
    packed = pack_bits(codes, bits)
    assert len(packed) == packed_size(len(codes), bits) == -(-len(codes) * bits // 8)
    np.testing.assert_array_equal(unpack_bits(packed, bits, len(codes)), codes)
    as_integer = sum(int(code) << bits * i for i, code in enumerate(numbers))
    assert int.from_bytes(packed, "little") == as_integer


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200)
@given(dtype=st.sampled_from(list(BITS)), data=st.data())
def test_what_arrives_is_what_the_message_says(dtype, data):
    size = data.draw(st.integers(0, 20))
    rows = st.lists(finite, min_size=size, max_size=size)
    feature, mean = (np.array(data.draw(rows), np.float32) for _ in range(2))
    std = np.array(data.draw(st.lists(st.floats(0, 2**90, width=32), min_size=size, max_size=size)))
    channels = Channels(mean, std)
    message = pack_feature(feature, dtype, channels)
    found = unpack_feature(message, channels)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, sent_features(feature[None], dtype, channels)[0])
    np.testing.assert_array_equal(found[std == 0], mean[std == 0])


@pytest.mark.parametrize(("dtype", "size", "error"), [("int4", 96, 0.12), ("int3", 72, 0.2)])
def test_a_channel_is_cut_into_steps_of_its_own(dtype, size, error):
    found = Transport(features=dtype, channels=CHANNELS).sent_features(FEATURES)
    assert len(pack_feature(FEATURES[0], dtype, CHANNELS)) == size + 10
    apart = (found - FEATURES).std(axis=0) / CHANNELS.std
    assert apart.mean() < error
    for channel in found.T:
        assert len(np.unique(channel)) <= 2 ** BITS[dtype]


def test_two_bits_are_58_bytes_and_four_values():
    found = sent_features(FEATURES, "int2", CHANNELS)
    assert len(pack_feature(FEATURES[0], "int2", CHANNELS)) == 48 + 10
    assert all(len(np.unique(channel)) == 4 for channel in found.T)
    middles = np.unique((found[:, 0] - CHANNELS.mean[0]) / CHANNELS.std[0])
    np.testing.assert_allclose(middles, np.array([-1.5, -0.5, 0.5, 1.5]) * 0.9957, rtol=1e-5)


def test_one_message_s_bytes_stay_what_they_are():
    channels = Channels([0, 1, -1, 0.5], [1, 2, 0, 0.25])
    message = pack_feature(np.array([0.1, -9, 7, 0.5]), "int2", channels)
    assert message[:-4] == b"SP\x03\x08\x04" + bytes([0b10_11_00_10])
    assert message[-4:].hex() == "45a44594"
    assert pack_feature(np.ones(3))[2] == 2  # others are as receivers of before read them


def test_other_channels_and_damage_are_refused():
    message = pack_feature(FEATURES[0], "int3", CHANNELS)
    mean = CHANNELS.mean.copy()
    mean[5] += 1e-3
    for other in (Channels(mean, CHANNELS.std), Channels([0], [1]), None):
        with pytest.raises(RunError, match="damaged, or made with other channels"):
            unpack_feature(message, other)
    for broken in (message[:-1], message[:20] + b"\xff" + message[21:], message[:3], b""):
        with pytest.raises(RunError):
            unpack_feature(broken, CHANNELS)
    known = CHANNELS.as_bytes()
    for length, size in ((192, 71), (192, 73), (191, 72), (2**40, 72)):
        forged = messages._seal(7, messages._varint(length), bytes(size), known=known)
        with pytest.raises(RunError):
            unpack_feature(forged, CHANNELS)
    old = bytearray(message)
    old[2] = 2  # a kind that version 2 doesn't have
    with pytest.raises(RunError):
        unpack_feature(bytes(old), CHANNELS)
    data = b"SP\x04\x08\x00"
    with pytest.raises(RunError, match="version 4; this release reads 1 to 3"):
        unpack_feature(data + messages.zlib.crc32(data).to_bytes(4, "little"), CHANNELS)


@pytest.mark.parametrize("dtype", BITS)
def test_unknown_channels_are_said(dtype):
    with pytest.raises(ValueError, match="none of the channels are known"):
        pack_feature(FEATURES[0], dtype)
    with pytest.raises(RunError, match=rf"transport.features='{dtype}': 1 of the channels"):
        Transport(features=dtype, channels=Channels([0], [1])).sent_features(FEATURES)
    with pytest.raises(ValueError, match="must be one that"):
        pack_feature(np.full(192, np.nan), dtype, CHANNELS)


def test_channels_are_kept_to_the_bit():
    again = Channels.of_dict(json.loads(json.dumps(CHANNELS.as_dict())))
    assert again.as_bytes() == CHANNELS.as_bytes()
    for mean, std in (([1], [1, 2]), ([1], [-1]), ([np.nan], [1]), ([[1]], [[1]])):
        with pytest.raises(ValueError, match="channels: must be"):
            Channels(mean, std)
