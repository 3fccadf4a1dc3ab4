"""Arithmetic and interfaces of a file."""

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import QUANTIZATIONS, Interface, convert
from sparse_ist_tf.export.graphs.forms import Network, layers_of
from sparse_ist_tf.ist.head import HeadSpec, build_model, extract, init_parameters
from sparse_ist_tf.ist.partition import make_partition


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_every_kind_of_number_gives_the_keras_models_logits(quantize):
    spec = HeadSpec(32, (64, 48), 5)
    parameters = init_parameters(spec, seed=1)
    features = np.random.default_rng(0).standard_normal((50, 32)).astype(np.float32)
    expected = np.asarray(build_model(parameters)(features))
    samples = lambda: ({"feature": feature[None]} for feature in features)  # noqa: E731
    network = Network("head", layers_of(parameters))
    runtime = LiteRT(convert(network, quantize, samples=samples))
    found = np.array([runtime.run({"feature": feature}) for feature in features])
    share = {"float32": 1e-5, "float16": 2e-3}.get(quantize, 0.05)
    assert np.abs(found - expected).mean() < share * expected.std()


def test_a_subnets_file_has_its_scaling_inside():
    spec = HeadSpec(8, (12, 9), 4)
    parameters = init_parameters(spec, seed=1)
    subnet = extract(parameters, spec, make_partition(0, 3, spec.hidden, 3), 1)
    feature = np.linspace(-1, 1, 8).astype(np.float32)
    found = LiteRT(convert(Network("head", layers_of(subnet)), "float32")).run({"feature": feature})
    np.testing.assert_allclose(found, np.asarray(build_model(subnet)(feature[None]))[0], atol=1e-5)


def test_smaller_numbers_make_smaller_files():
    network = Network("head", layers_of(init_parameters(HeadSpec(64, (256,), 10), seed=1)))
    samples = lambda: [{"feature": np.ones((1, 64), "float32")}]  # noqa: E731
    sizes = {
        quantize: len(convert(network, quantize, samples=samples)) for quantize in QUANTIZATIONS
    }
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert max(sizes["int8"], sizes["dynamic"], sizes["int16x8"]) < 0.4 * sizes["float32"]


def test_what_cannot_be_is_refused(head_layers, head_samples):
    network = Network("head", head_layers)
    with pytest.raises(RequestError, match="quantize='int4': must be one of float32"):
        convert(network, "int4")
    with pytest.raises(RequestError, match="needs calibration samples"):
        convert(network, "int8")
    with pytest.raises(RequestError, match="takes int8 alone"):
        convert(network, "float32", Interface(whole_integer=True))
    with pytest.raises(RequestError, match="form='rows': must be one of matmul, conv"):
        Interface("rows")


def test_the_same_network_gives_the_same_bytes(head_layers, head_samples):
    network = Network("head", head_layers)
    for quantize in ("float32", "int8"):
        files = [convert(network, quantize, samples=head_samples) for _ in range(2)]
        assert files[0] == files[1]
