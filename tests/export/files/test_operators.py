"""The operators of a file, their work, and the memory that they need."""

from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.files.operators import operators, peak_bytes
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.forms import Network


def test_operators_and_their_work(head_file):
    found = operators(head_file)
    assert [op.name for op in found] == ["FULLY_CONNECTED"] * 3
    assert [op.macs for op in found] == [8 * 6, 6 * 5, 5 * 3]
    shape, dtype, value = found[0].inputs[1]
    assert (shape, dtype, value.shape) == ((6, 8), "float32", (6, 8))


def test_the_peak_of_a_chain_is_its_largest_pair(head_layers, head_file):
    """Two neighbours live at once; weights don't count, unpacked float16 ones neither."""
    assert peak_bytes(head_file) == 4 * max(8 + 6, 6 + 5, 5 + 3)
    assert peak_bytes(convert(Network("head", head_layers), "float16")) == 4 * (8 + 6)


def test_the_peak_counts_what_waits_for_a_residual():
    import tensorflow as tf

    def call(feature):
        a = tf.sin(feature)  # waits while b and c are made
        b = tf.concat([a, a, a], axis=1)
        c = tf.reduce_max(b, axis=1, keepdims=True)
        return {"logits": a * c}

    function = tf.function(call, input_signature=[tf.TensorSpec([1, 10], name="feature")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], function
    )
    content = flatbuffer.name_signature(converter.convert(), ["feature"], "logits")
    assert peak_bytes(content) == 4 * (10 + 30 + 1)
