"""Running a file: its own numbers, its errors, its time."""

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files.runtimes import LiteRT, Port, ports, run_all
from sparse_ist_tf.export.graphs.convert import Interface, convert
from sparse_ist_tf.export.graphs.forms import Network


def test_values_become_a_ports_own_numbers():
    port = Port("feature", 0, (1, 4), "int8", 0.5, 3)
    encoded = port.encode(np.array([0.0, 1.0, -1000.0, 1000.0], "float32"))
    assert encoded.tolist() == [[3, 5, -128, 127]]
    assert port.decode(encoded[0, :2]).tolist() == [0.0, 1.0]


def test_pixels_are_bytes_less_128_for_an_int8_port():
    pixels = np.array([0, 127, 128, 255], np.uint8)
    assert Port("image", 0, (1, 4), "int8", 1.0, 0).encode(pixels).tolist() == [[-128, -1, 0, 127]]
    assert Port("image", 0, (1, 4), "uint8", 1.0, 128).encode(pixels).tolist() == [
        [0, 127, 128, 255]
    ]


def test_positions_are_one_hot_where_a_file_wants_them_so():
    port = Port("positions", 0, (1, 2, 3), "int8", 1 / 255, -128)
    encoded = port.encode(np.array([2, 0], np.int32))
    assert encoded.tolist() == [[[-128, -128, 127], [127, -128, -128]]]
    integers = Port("positions", 0, (1, 2), "int32", 0.0, 0)
    assert integers.encode(np.array([2, 0], np.int32)).tolist() == [[2, 0]]


@pytest.mark.parametrize("processors", [1, 2, 3, None])
@pytest.mark.parametrize("count", [0, 1, 64])
def test_side_by_side_examples_keep_their_order(
    head_file, head_features, processors, count, monkeypatch
):
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    examples = [{"feature": feature} for feature in head_features[:count]]
    runtime = LiteRT(head_file)
    expected = np.array([runtime.run(example) for example in examples])
    np.testing.assert_array_equal(run_all(head_file, iter(examples)), expected)


def test_a_bad_example_among_many_is_refused(head_file, head_features):
    examples = [{"feature": feature} for feature in head_features]
    examples[40] = {"feature": np.zeros(9, "float32")}
    with pytest.raises(RequestError, match=r"feature: is of shape \(9,\)"):
        run_all(head_file, examples)


def test_another_shape_is_refused(head_file):
    with pytest.raises(RequestError, match=r"feature: is of shape \(9,\), the file takes \(8,\)"):
        LiteRT(head_file).run({"feature": np.zeros(9, "float32")})


def test_reference_kernels_and_threads_give_the_same(head_layers, head_features, head_samples):
    content = convert(
        Network("head", head_layers), "int8", Interface(whole_integer=True), head_samples
    )
    for feature in head_features[:8]:
        fast = LiteRT(content, threads=None).run_raw({"feature": feature}).astype(int)
        reference = LiteRT(content, reference=True).run_raw({"feature": feature}).astype(int)
        assert np.abs(fast - reference).max() <= 1


def test_a_float_file_is_one_partition(head_file):
    assert LiteRT(head_file).partitions == 1


def test_latency_is_a_median_and_a_percentile(head_file):
    median, high = LiteRT(head_file).latency({"feature": np.zeros(8, "float32")}, repeats=20)
    assert 0 < median <= high


def test_a_delegate_that_is_not_there_is_one_clear_error(head_file):
    with pytest.raises(RequestError, match=r"delegate='libnothing\.so': can't be loaded"):
        LiteRT(head_file, delegate="libnothing.so")


def test_ports_by_the_signature(head_file):
    (feature,), logits = ports(head_file)
    assert (feature.name, feature.shape, feature.dtype) == ("feature", (1, 8), "float32")
    assert (logits.name, logits.shape) == ("logits", (1, 3))
