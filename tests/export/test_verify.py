"""Figures of a file against what they must be."""

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.files.flatbuffer import read_file
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.results import table
from sparse_ist_tf.export.verify import File, Reference, evaluate_tflite, verify
from tests.fixtures.finished_run import make_images


@pytest.fixture(scope="module")
def measured(head_layers, head_features, head_file):
    """(result, logits) of a float file whose Keras model is right on all but one image."""
    runtime = LiteRT(head_file)
    reference = np.array([runtime.run({"feature": feature}) for feature in head_features])
    labels = reference.argmax(axis=1)
    labels[0] = (labels[0] + 1) % 3
    examples = lambda: ({"feature": feature} for feature in head_features)  # noqa: E731
    file = File("a.tflite", "head", "float32", head_file)
    reference = Reference(examples, reference + 0.5, labels)
    return verify(file, TARGETS["phone"], reference, progress=False)


def test_accuracy_agreement_and_differences(measured):
    result, found = measured
    assert result.good
    comparison = result.comparison
    assert comparison.images == 64
    assert comparison.accuracy == comparison.float_accuracy == 63 / 64
    assert (comparison.agreement, comparison.drop) == (1.0, 0.0)
    assert comparison.mean_difference == pytest.approx(0.5)
    assert comparison.largest_difference == pytest.approx(0.5)
    assert result.operators == {"FULLY_CONNECTED": 3}
    assert found.shape == (64, 3)
    assert set(result.latency) == {"1 thread", "all threads"}


def test_a_loss_of_accuracy_is_a_problem(head_features, head_file):
    examples = lambda: ({"feature": feature} for feature in head_features)  # noqa: E731
    labels = np.arange(64) % 3
    file = File("a.tflite", "head", "float32", head_file)
    reference = Reference(examples, np.eye(3)[labels], labels)
    result, _ = verify(file, TARGETS["phone"], reference, bound=0.5, progress=False)
    assert not result.good
    assert result.comparison.drop > 10
    assert "points of accuracy, at most 0.5 may be" in result.problems[0]


def test_what_an_edge_tpu_lacks_is_named_op_by_op(classifier_file):
    images = make_images(8)
    content = classifier_file("int8", whole_integer=True)
    examples = lambda: ({"image": image} for image in images)  # noqa: E731
    file = File("a.tflite", "classifier", "int8", content)
    reference = Reference(examples, np.zeros((8, 3)), np.zeros(8, int))
    result, _ = verify(file, TARGETS["coral"], reference, bound=100, progress=False)
    assert result.good  # an encoder may stay on the host in part
    assert any(n.startswith("GATHER x1 is not in coral's table: on the host") for n in result.notes)
    assert any(note.startswith("BATCH_MATMUL x4") for note in result.notes)
    assert result.mapping.operators < result.mapping.total
    assert "Edge TPU runs 1 of" in table([result])


@pytest.mark.parametrize("damage", ["missing", "text", "cut"])
def test_a_file_that_cannot_be_measured_is_one_clear_error(head_file, tmp_path, damage):
    path = tmp_path / "a.tflite"
    if damage != "missing":
        path.write_bytes(b"no model" if damage == "text" else head_file[:500])
    for function in (read_file, evaluate_tflite):
        with pytest.raises(RequestError, match=r"a\.tflite: ") as caught:
            function(path)
        assert "\n" not in str(caught.value)


def test_a_file_of_others_is_refused(head_file, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(head_file)
    with pytest.raises(RequestError, match="carries no metadata of this library"):
        evaluate_tflite(path)
