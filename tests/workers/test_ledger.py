"""The ledger."""

import pytest

from sparse_ist_tf.workers.ledger import Ledger, human_bytes


def test_purposes_are_counted_apart():
    ledger = Ledger({"features": 5})
    ledger.add("weights", 10)
    ledger.add("moments", 20)
    ledger.add("weights", 1)
    assert ledger.as_dict() == {"features": 5, "weights": 11, "moments": 20}
    assert ledger.total == 36
    assert ledger.training == 31
    assert Ledger(ledger.as_dict()).as_dict() == ledger.as_dict()


def test_an_unknown_purpose_is_refused():
    with pytest.raises(ValueError, match="purpose='gossip'"):
        Ledger().add("gossip", 1)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (99_940, "99.9 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (2_167_218_000, "2.17 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_bytes_for_people(count, text):
    assert human_bytes(count) == text
