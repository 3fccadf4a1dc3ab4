"""Reading and rewriting files: nothing is lost, damage is one clear error."""

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.files.operators import operators
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.forms import Network


def test_parsing_and_packing_keep_the_function(head_file, head_features):
    again = flatbuffer.pack(flatbuffer.parse(head_file))
    expected = LiteRT(head_file).run({"feature": head_features[0]})
    assert np.array_equal(LiteRT(again).run({"feature": head_features[0]}), expected)
    assert len(again) <= len(head_file)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "garbled"])
def test_a_damaged_file_is_one_clear_error(head_file, damage):
    content = {
        "empty": b"",
        "text": b"hello, this is no model at all",
        "cut": head_file[: len(head_file) // 3],
        "garbled": head_file[:8] + bytes(255 - b for b in head_file[8:]),
    }[damage]
    with pytest.raises(RequestError, match=r"x\.tflite: is ") as caught:
        flatbuffer.parse(content, "x.tflite")
    assert "\n" not in str(caught.value)


def test_buffers_that_nothing_uses_are_dropped(head_file):
    model = flatbuffer.parse(head_file)
    flatbuffer.add_buffer(model, np.zeros(100_000, np.uint8))
    assert len(flatbuffer.pack(model)) < len(head_file) + 1000


def test_float16_files_pick_patches_before_they_unpack_weights(classifier_file):
    """Or a delegate without GATHER would run in two pieces."""
    names = [op.name for op in operators(classifier_file("float16"))]
    assert "DEQUANTIZE" in names
    assert names.index("GATHER") < names.index("DEQUANTIZE")


def test_the_signature_names_inputs_and_output(head_layers):
    content = convert(Network("head", head_layers), "float32")
    (definition,) = flatbuffer.parse(content).signatureDefs
    assert flatbuffer.text(definition.signatureKey) == "serving_default"
    assert [flatbuffer.text(entry.name) for entry in definition.inputs] == ["feature"]
    assert [flatbuffer.text(entry.name) for entry in definition.outputs] == ["logits"]
