"""Integer files: right arithmetic, no float inside, ranges that lose little."""

import dataclasses

import numpy as np
import pytest

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.files.operators import operators
from sparse_ist_tf.export.files.runtimes import LiteRT, ports
from sparse_ist_tf.export.graphs.convert import Interface, convert
from sparse_ist_tf.export.graphs.folding import Affine
from sparse_ist_tf.export.graphs.forms import Network
from sparse_ist_tf.export.integers.quantize import Scheme, to_integers


def _logits(layers, x):
    for i, layer in enumerate(layers):
        x = x @ layer.kernel + layer.bias
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def test_a_matrix_product_is_the_integer_arithmetic_of_the_specification():
    """int8 [1, 1] x [1, 2]: q = zero + round(m * (sum w (x - zero_x) + b)), by hand."""
    layer = Affine(np.array([[0.5, -1.27]]), np.array([0.25, 0.0]))
    values = np.linspace(-1, 1, 256).astype(np.float32)[:, None]
    samples = lambda: ({"feature": value[None]} for value in values)  # noqa: E731
    content = convert(Network("head", (layer,)), "int8", Interface(whole_integer=True), samples)
    model = flatbuffer.parse(content)
    graph = model.subgraphs[0]
    (operator,) = graph.operators
    x, w, b, y = (graph.tensors[int(i)] for i in (*operator.inputs, operator.outputs[0]))
    kernel = flatbuffer.constant(model, w).astype(np.int64)
    bias = flatbuffer.constant(model, b).astype(np.int64)
    assert kernel.tolist() == [[127], [-127]]  # each row with its own scale
    np.testing.assert_allclose(w.quantization.scale, [0.5 / 127, 0.01], rtol=1e-6)
    np.testing.assert_allclose(b.quantization.scale, x.quantization.scale[0] * w.quantization.scale)
    runtime = LiteRT(content)
    inputs, _ = ports(content)
    for value in values[::17]:
        raw = inputs[0].encode(value).astype(np.int64).ravel() - x.quantization.zeroPoint[0]
        total = kernel @ raw + bias
        real = total * x.quantization.scale[0] * w.quantization.scale
        expected = np.round(real / y.quantization.scale[0]) + y.quantization.zeroPoint[0]
        found = runtime.run_raw({"feature": value}).astype(np.int64)
        assert np.abs(found - np.clip(expected, -128, 127)).max() <= 1  # ties


@pytest.mark.parametrize(("quantize", "share"), [("int8", 0.05), ("int16x8", 0.02)])
def test_an_integer_head_stays_close(head_layers, head_features, head_samples, quantize, share):
    content = convert(Network("head", head_layers), quantize, Interface(), head_samples)
    runtime = LiteRT(content)
    found = np.array([runtime.run({"feature": feature}) for feature in head_features])
    expected = _logits(head_layers, head_features)
    assert np.abs(found - expected).mean() < share * expected.std()


def test_a_per_tensor_scheme_has_one_scale_a_matrix(head_layers, head_samples):
    for per_channel, counts in ((True, [6, 5, 3]), (False, [1, 1, 1])):
        interface = Interface(per_channel=per_channel)
        content = convert(Network("head", head_layers), "int8", interface, head_samples)
        model = flatbuffer.parse(content)
        graph = model.subgraphs[0]
        products = [
            op for op in graph.operators if flatbuffer.op_name(model, op) == "FULLY_CONNECTED"
        ]
        scales = [graph.tensors[op.inputs[1]].quantization.scale for op in products]
        assert [len(values) for values in scales] == counts


@pytest.mark.parametrize("form", ["matmul", "conv"])
def test_a_whole_integer_classifier_has_no_float_and_no_conversions(classifier_file, form):
    content = classifier_file("int8", form, whole_integer=True)
    for op in operators(content):
        assert op.name not in ("QUANTIZE", "DEQUANTIZE")
        types = {dtype for _, dtype, _ in op.inputs} | {dtype for _, dtype in op.outputs}
        assert types <= {"int8", "int32"}
    inputs, output = ports(content)
    assert (inputs[0].dtype, inputs[0].scale, inputs[0].zero) == ("int8", 1.0, 0)
    assert output.dtype == "int8"


@pytest.mark.parametrize("quantize", ["int8", "int16x8"])
def test_an_image_goes_in_as_bytes_and_logits_come_out_as_floats(classifier_file, quantize):
    content = classifier_file(quantize)
    inputs, output = ports(content)
    assert (inputs[0].dtype, output.dtype) == ("uint8", "float32")
    names = [op.name for op in operators(content)]
    # Bytes are picked first and converted once; the logits once at the end.
    assert names[-1] == "DEQUANTIZE"
    assert names.count("QUANTIZE") == 1
    assert names.index("QUANTIZE") > names.index("GATHER")


def test_an_operator_without_a_rule_is_an_error():
    import tensorflow as tf

    function = tf.function(
        lambda feature: {"logits": tf.sin(feature)},
        input_signature=[tf.TensorSpec([1, 4], name="feature")],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], function
    )
    content = flatbuffer.name_signature(converter.convert(), ["feature"], "logits")
    with pytest.raises(RunError, match="SIN has no rule"):
        to_integers(content, {0: (-1, 1), 1: (-1, 1)}, Scheme())


def test_a_constant_output_has_a_scale(head_layers, head_samples):
    """Dead neurons: a tensor of zeros alone can still be written."""
    first, *rest = head_layers
    dead = dataclasses.replace(first, kernel=0 * first.kernel, bias=0 * first.bias)
    content = convert(Network("head", (dead, *rest)), "int8", Interface(), head_samples)
    found = LiteRT(content).run({"feature": np.ones(8, "float32")})
    np.testing.assert_allclose(found, _logits((dead, *rest), np.ones(8)), atol=0.02)


def test_what_is_joined_shares_one_scale_that_covers_constants_too():
    import tensorflow as tf

    rows = tf.constant([[5.0, -7.0]])
    function = tf.function(
        lambda feature: {"logits": tf.concat([rows, feature + 1.0], axis=0)},
        input_signature=[tf.TensorSpec([1, 2], name="feature")],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], function
    )
    content = flatbuffer.name_signature(converter.convert(), ["feature"], "logits")
    ranges = dict.fromkeys(range(len(flatbuffer.parse(content).subgraphs[0].tensors)), (-2.0, 2.0))
    runtime = LiteRT(to_integers(content, ranges, Scheme()))
    (port,) = runtime.inputs
    runtime._interpreter.set_tensor(port.index, np.array([[0.5, -0.5]], np.float32))
    runtime._interpreter.invoke()
    found = runtime._interpreter.get_tensor(runtime.output.index)
    np.testing.assert_allclose(found, [[5.0, -7.0], [1.5, 0.5]], atol=0.05)
