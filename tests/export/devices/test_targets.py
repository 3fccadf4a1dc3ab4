"""The table of targets, and the checks by it."""

import dataclasses
import json

import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices import targets
from sparse_ist_tf.export.devices.targets import TARGETS, add_rows, check, find_target, unmapped
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.forms import Network


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


def test_phone_files_meet_their_conditions(classifier_file):
    for quantize in ("float32", "float16"):
        content = classifier_file(quantize)
        assert check(content, TARGETS["phone"], quantize, "classifier") == []


def test_conditions_that_are_missed_are_named(classifier_file, head_layers, head_samples):
    content = classifier_file("float32")
    few = dataclasses.replace(
        TARGETS["phone"], operators={"FULLY_CONNECTED": None}, max_rank=2, gpu=False, xnnpack=False
    )
    missing = {u.operator: u.count for u in unmapped(content, few)}
    assert missing["BATCH_MATMUL"] == 4
    assert "FULLY_CONNECTED" not in missing
    assert any(line.startswith("BATCH_MATMUL x4 is not in") for line in check(
        content, few, "float32", "classifier"
    ))  # fmt: skip
    micro = dataclasses.replace(TARGETS["micro"], interpreter="litert")
    assert any("type float32" in line for line in check(content, micro, "int8", "classifier"))
    edges = convert(Network("head", head_layers), "int8", samples=head_samples)
    assert any("QUANTIZE" in line for line in check(edges, micro, "int8", "head"))


def test_what_tensorflows_analyzer_finds_for_gpus_is_told(head_file, monkeypatch):
    import tensorflow as tf

    def analyze(model_content, gpu_compatibility):
        print("Op#0 FULLY_CONNECTED(T#0) -> [T#1]")
        print("GPU COMPATIBILITY WARNING: Not supported op FULLY_CONNECTED")

    monkeypatch.setattr(tf.lite.experimental.Analyzer, "analyze", analyze)
    found = check(head_file, TARGETS["phone"], "float32", "head")
    assert found == ["GPU COMPATIBILITY WARNING: Not supported op FULLY_CONNECTED"]


def test_an_operator_that_xnnpack_lacks_is_told():
    import tensorflow as tf

    from sparse_ist_tf.export.files import flatbuffer

    function = tf.function(
        lambda feature: {"logits": tf.math.floormod(feature, 2.0)},
        input_signature=[tf.TensorSpec([1, 4], name="feature")],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], function
    )
    content = flatbuffer.name_signature(converter.convert(), ["feature"], "logits")
    found = check(content, TARGETS["phone"], "float32", "head")
    assert found == ["is 0 XNNPACK partitions, must be 1"]


def test_operators_of_microcontrollers_have_cpp_names():
    assert targets.MICRO_OPERATORS["DEPTHWISE_CONV_2D"] == "DepthwiseConv2D"
    assert "GELU" not in targets.MICRO_OPERATORS
