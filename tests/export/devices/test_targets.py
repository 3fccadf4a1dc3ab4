"""The table of targets, and the checks by it."""

import json

import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices import targets
from sparse_ist_tf.export.devices.targets import TARGETS, add_rows, find_target


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes a table of targets; rows that are added go when the test ends."""
    monkeypatch.setattr(targets, "TARGETS", dict(TARGETS))

    def write(content):
        path = tmp_path / "targets.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_user_adds_a_row(table):
    row = {
        "like": "micro",
        "numbers": ["int8"],
        "sram": 65536,
        "flash": 1 << 20,
        "operators": ["FULLY_CONNECTED"],
    }
    add_rows(table({"mine": row}))
    mine = targets.find_target("mine")
    assert (mine.sram, mine.flash, mine.interpreter) == (65536, 1 << 20, "micro")
    assert list(mine.operators) == ["FULLY_CONNECTED"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "can't be read"),
        ({"mine": {"like": "toaster"}}, "target='toaster': must be one of phone, coral, micro"),
        ({"mine": {"like": "micro", "ram": 1}}, r"mine\.ram: must be one of quantize, operators"),
        ({"mine": {"like": "phone", "quantize": ["int4"]}}, r"mine\.quantize=\['int4'\]"),
        ({"mine": 5}, "mine: must be a row"),
        ({"mine": {"like": "micro", "sram": "big"}}, r"mine\.sram='big'"),
    ],
)
def test_a_bad_table_is_one_clear_error(table, content, message):
    with pytest.raises(RequestError, match=message):
        add_rows(table(content))


def test_a_target_that_does_not_exist():
    with pytest.raises(RequestError, match="target='fridge': must be one of phone, coral, micro"):
        find_target("fridge")


def test_operators_of_microcontrollers_have_cpp_names():
    assert targets.MICRO_OPERATORS["DEPTHWISE_CONV_2D"] == "DepthwiseConv2D"
    assert "GELU" not in targets.MICRO_OPERATORS
