"""How thin a link is, as text and back, and what follows."""

import pytest

from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.errors import RequestError


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("unshaped", LinkShape()),
        ("100mbit/5ms", LinkShape(1e8, 0.005)),
        ("10mbit/20ms/1%", LinkShape(1e7, 0.02, 0.01)),
        ("1.5gbit", LinkShape(1.5e9)),
        ("2.5ms", LinkShape(delay_s=0.0025)),
        ("64kbit/0.5%", LinkShape(64e3, loss=0.005)),
    ],
)
def test_text_and_back(text, shape):
    assert LinkShape.parse(text) == shape
    assert str(shape) == text
    assert shape.is_unshaped == (text == "unshaped")


@pytest.mark.parametrize(
    "text", ["", "fast", "10", "10mbps", "0mbit", "100%", "10mbit/20mbit", "1mbit//5ms", "-1ms"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(RequestError, match="--links="):
        LinkShape.parse(text)


def test_the_model_is_bytes_over_rate_and_two_delays():
    assert LinkShape.parse("10mbit/20ms").least_seconds(1e6) == pytest.approx(0.84)
    assert LinkShape().least_seconds(1e6) == 0


@pytest.mark.parametrize("text", ["1mbit/100ms/1%", "10mbit/20ms", "100mbit/5ms", "1gbit"])
def test_a_bucket_holds_a_frame_and_a_queue_a_round_trip(text):
    shape = LinkShape.parse(text)
    words = shape.token_bucket().split()
    burst, limit = (int(words[words.index(name) + 1]) for name in ("burst", "limit"))
    assert burst > shape.mtu + 14
    assert limit - burst >= 2 * shape.delay_s * shape.rate / 8


def test_frames_are_large_only_where_many_are_relayed():
    sizes = {text: LinkShape.parse(text).mtu for text in ("unshaped", "100mbit", "10mbit/20ms")}
    assert set(sizes.values()) == {1500}
    assert LinkShape.parse("100mbit/5ms").mtu == 9000
    assert LinkShape.parse("100mbit/5ms/1%").mtu == 1500
