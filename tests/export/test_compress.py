"""Pruned, clustered and quantization-aware heads are what they were asked to be."""

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.compress import Compression, compress
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.forms import Network, layers_of
from sparse_ist_tf.ist.head import HeadSpec, accuracy, init_parameters, logits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": "3:4"}, "prune='3:4': must be 2:4 or a share"),
        ({"prune": "1.5"}, "prune='1.5'"),
        ({"prune": "0.0"}, "prune='0.0'"),
        ({"cluster": 1}, "cluster=1: must be between 2 and 256"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        Compression(**options)


def test_nothing_to_do_does_nothing(monkeypatch):
    parameters = {"dense_0/kernel": np.ones((2, 2), "float32")}
    assert not Compression().any
    assert compress(parameters, None, None, Compression()) == parameters


@pytest.fixture(scope="module")
def problem():
    """(head, features, labels) of a problem that a head of this size learns."""
    pytest.importorskip(
        "tensorflow_model_optimization", reason="needs the extra compress: tensorflow-model-"
        "optimization and tf-keras",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 16)) * 2
    labels = rng.integers(0, 4, 600)
    features = (centres[labels] + rng.standard_normal((600, 16))).astype(np.float32)
    return init_parameters(HeadSpec(16, (32, 24), 4), seed=0), features, labels


def _kernels(parameters):
    return [parameters[f"dense_{i}/kernel"] for i in range(3)]


def _check_2_of_4(kernel):
    """Of four neighbours along the inputs, as TFLite stores a row, at most two are not zero."""
    groups = kernel[: len(kernel) // 4 * 4].T.reshape(-1, 4)
    assert (np.count_nonzero(groups, axis=1) <= 2).all()


CASES = {
    "2:4": Compression(prune="2:4", learning_rate=3e-3),
    "unstructured": Compression(prune="0.8", learning_rate=3e-3),
    "clusters": Compression(cluster=8, learning_rate=3e-3),
    "qat": Compression(qat=True, learning_rate=3e-3),
    "all": Compression(prune="2:4", cluster=16, qat=True, learning_rate=3e-3),
}


@pytest.mark.large
@pytest.mark.parametrize("case", CASES)
def test_a_compressed_head_is_small_and_still_right(problem, case):
    parameters, features, labels = problem
    compression = CASES[case]
    found = compress(parameters, features, labels, compression)
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in parameters.items()
    }
    assert accuracy(logits(found, features), labels) > 0.9
    for kernel in _kernels(found):
        if compression.prune == "2:4":
            _check_2_of_4(kernel)
        elif compression.prune:
            assert np.mean(kernel == 0) == pytest.approx(0.8, abs=0.02)
        if compression.cluster:
            assert len(np.unique(kernel)) <= compression.cluster + bool(compression.prune)
    samples = lambda: ({"feature": row[None]} for row in features[:100])  # noqa: E731
    runtime = LiteRT(convert(Network("head", layers_of(found)), "int8", samples=samples))
    outputs = np.array([runtime.run({"feature": row}) for row in features])
    assert accuracy(outputs, labels) > 0.9
