"""Figures of a file against what they must be."""

import json

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices.edge_tpu import Mapping
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.files.flatbuffer import read_file
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.verify import (
    Result,
    evaluate_tflite,
    table,
    verify,
)
from tests.fixtures.finished_run import make_images


@pytest.fixture(scope="module")
def measured(head_layers, head_features, head_file):
    """(result, logits) of a float file whose Keras model is right on all but one image."""
    runtime = LiteRT(head_file)
    reference = np.array([runtime.run({"feature": feature}) for feature in head_features])
    labels = reference.argmax(axis=1)
    labels[0] = (labels[0] + 1) % 3
    return verify(
        head_file, "a.tflite", "head", "float32", TARGETS["phone"],
        examples=lambda: ({"feature": feature} for feature in head_features),
        reference=reference + 0.5,
        labels=labels,
        progress=False,
    )  # fmt: skip


def test_accuracy_agreement_and_differences(measured):
    result, found = measured
    assert result.good
    assert result.images == 64
    assert result.accuracy == result.float_accuracy == 63 / 64
    assert (result.agreement, result.drop) == (1.0, 0.0)
    assert result.mean_difference == pytest.approx(0.5)
    assert result.largest_difference == pytest.approx(0.5)
    assert result.operators == {"FULLY_CONNECTED": 3}
    assert found.shape == (64, 3)
    assert set(result.latency) == {"1 thread", "all threads"}


def test_a_loss_of_accuracy_is_a_problem(head_features, head_file):
    reference = np.eye(3)[np.arange(64) % 3]
    result, _ = verify(
        head_file, "a.tflite", "head", "float32", TARGETS["phone"],
        examples=lambda: ({"feature": feature} for feature in head_features),
        reference=reference,
        labels=np.arange(64) % 3,
        bound=0.5,
        progress=False,
    )  # fmt: skip
    assert not result.good
    assert result.drop > 10
    assert "points of accuracy, at most 0.5 may be" in result.problems[0]


def test_what_an_edge_tpu_lacks_is_named_op_by_op(classifier_file):
    images = make_images(8)
    content = classifier_file("int8", whole_integer=True)
    result, _ = verify(
        content, "a.tflite", "classifier", "int8", TARGETS["coral"],
        examples=lambda: ({"image": image} for image in images),
        reference=np.zeros((8, 3)),
        labels=np.zeros(8, int),
        bound=100,
        progress=False,
    )  # fmt: skip
    assert result.good  # an encoder may stay on the host in part
    assert any(n.startswith("GATHER x1 is not in coral's table: on the host") for n in result.notes)
    assert any(note.startswith("BATCH_MATMUL x4") for note in result.notes)
    assert result.mapping.operators < result.mapping.total
    assert "Edge TPU runs 1 of" in table([result])


def test_a_result_survives_json():
    result = Result("a", "head", "int8", 5, mapping=Mapping(1, 2, 0.5, "table"), notes=["x"])
    again = Result.from_dict(json.loads(json.dumps(result.as_dict())))
    assert again.mapping.sentence() == result.mapping.sentence()
    assert again.as_dict()["notes"] == ["x"]
    stored = result.as_dict()
    stored["numbers"] = stored.pop("quantize")  # as version 0.1.0 wrote it
    assert Result.from_dict(json.loads(json.dumps(stored))).quantize == "int8"


def test_the_table_says_what_failed():
    bad = Result("b.tflite", "head", "int8", 5, problems=["loses 3.00 points"])
    micro = Result(
        "c.tflite", "head", "int8", 5, flash=7, arena=9_999, micro_difference=0,
        micro_agreement=1.0, micro_accuracy=0.5, micro_float_accuracy=0.5, micro_images=64,
    )  # fmt: skip
    text = table([bad, micro])
    assert "b.tflite: FAILED: loses 3.00 points" in text
    assert "arena 9,999 bytes" in text
    assert "bit for bit on 64 images" in text


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
