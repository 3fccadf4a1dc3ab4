"""What a target doesn't take of a file is named."""

import dataclasses

from sparse_ist_tf.export.devices.checks import check, unmapped
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.forms import Network


def test_phone_files_meet_their_conditions(classifier_file):
    for quantize in ("float32", "float16"):
        content = classifier_file(quantize)
        assert check(content, TARGETS["phone"], quantize, "classifier") == []


def test_conditions_that_are_missed_are_named(classifier_file, head_layers, head_samples):
    content = classifier_file("float32")
    few = dataclasses.replace(
        TARGETS["phone"], operators={"FULLY_CONNECTED": None}, max_rank=2, gpu=False, xnnpack=False
    )
    missing = unmapped(content, few)
    assert any(line.startswith("BATCH_MATMUL x4 ") for line in missing)
    assert not any(line.startswith("FULLY_CONNECTED") for line in missing)
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
