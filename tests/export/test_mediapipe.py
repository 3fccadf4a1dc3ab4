"""MediaPipe's own ImageClassifier beside `classify`: probabilities and pixels."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.classify import Classifier
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.files import flatbuffer, metadata
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.interface import Interface
from sparse_ist_tf.export.pipeline import Exporter
from sparse_ist_tf.export.plan import Options
from sparse_ist_tf.export.verify import evaluate_tflite
from sparse_ist_tf.masks import Scaling
from tests.fixtures.finished_run import make_images

ABOUT = metadata.Metadata("small", "A small one.", ("a", "b", "c"), {"digest": "ab", "mask": {}})


@pytest.mark.parametrize("quantize", ["float32", "int8"])
def test_mediapipe_shows_probabilities_where_the_file_gives_them(
    small_classifier, quantize, tmp_path
):
    """Those that `classify` gives, and the softmax of what the same file gives without."""
    mediapipe = pytest.importorskip("mediapipe", reason="needs the extra mediapipe")
    from mediapipe.tasks import python as tasks

    _, network, _ = small_classifier
    images = make_images(8)
    samples = lambda: ({"image": image[None]} for image in images)  # noqa: E731
    plain = LiteRT(convert(network, quantize, Interface(), samples))
    about = {"artefact": {"kind": "classifier"}, "mask": {"grid": "sensor"}}
    about |= {"encoder": {"image_size": 16, "patch_size": 4}, "output": "probabilities"}
    content = convert(network, quantize, Interface(softmax=True), samples)
    path = tmp_path / "classifier.tflite"
    path.write_bytes(metadata.attach(content, dataclasses.replace(ABOUT, run=about)))
    classifier = Classifier(path)
    options = tasks.vision.ImageClassifierOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(path))
    )
    with tasks.vision.ImageClassifier.create_from_options(options) as task:
        for image in images:
            picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, image)
            (found,) = task.classify(picture).classifications
            scores = {c.category_name: c.score for c in found.categories}
            logits = plain.run({"image": image}).astype(float)
            expected = np.exp(logits - logits.max())
            expected /= expected.sum()
            assert scores == pytest.approx(dict(zip(ABOUT.labels, expected, strict=True)), abs=1e-5)
            assert classifier.probabilities(image).tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("shape", [(600, 600), (150, 150), (97, 211), (64, 64)])
def test_mediapipe_makes_the_pixels_of_resize_bilinear(shape, tmp_path):
    """A file that gives its pixels, under both grids, for images that are reduced."""
    mediapipe = pytest.importorskip("mediapipe", reason="needs the extra mediapipe")
    from mediapipe.tasks import python as tasks

    side = 16

    @tf.function(input_signature=[tf.TensorSpec([1, side, side, 3], tf.uint8, name="image")])
    def pixels(image):
        return tf.reshape(tf.cast(image, tf.float32), [1, -1])

    converter = tf.lite.TFLiteConverter.from_concrete_functions([pixels.get_concrete_function()])
    content = flatbuffer.name_signature(bytes(converter.convert()), ("image",), "logits")
    labels = tuple(map(str, range(side * side * 3)))
    path = tmp_path / "pixels.tflite"
    path.write_bytes(metadata.attach(content, dataclasses.replace(ABOUT, labels=labels)))
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    options = tasks.vision.ImageClassifierOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(path))
    )
    with tasks.vision.ImageClassifier.create_from_options(options) as task:
        picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, image)
        (answer,) = task.classify(picture).classifications
    found = np.zeros(len(labels))
    for category in answer.categories:
        found[int(category.category_name)] = category.score
    for grid in ("sensor", "scaled"):
        expected = Scaling(side, 4, grid, "bilinear")(image)
        # Cells that aren't all of one size begin at whole pixels.
        if grid == "scaled" or not (shape[0] % 4 or shape[1] % 4):
            np.testing.assert_array_equal(found, expected.ravel())
        other = Scaling(side, 4, grid)(image)
        assert shape == (16, 16) or np.abs(found - other.ravel()).mean() > 10


@pytest.mark.parametrize("kind", ["classifier", "classifier_sensor"])
def test_a_file_is_measured_in_mediapipe_beside_its_own_scaling(finished, kind, tmp_path):
    """Images of a sensor's size need no scaling: all answers are the same."""
    pytest.importorskip("mediapipe", reason="needs the extra mediapipe")
    options = Options((kind,), bound=100, calibration=16, progress=False)
    quiet = lambda line: None  # noqa: E731
    assert Exporter(finished, TARGETS["phone"], options, tmp_path, report=quiet).export()
    (path,) = tmp_path.glob("*_head*.tflite")
    found = evaluate_tflite(path, mediapipe=True)
    plain = evaluate_tflite(path)
    assert found["accuracy"] == plain["accuracy"]
    assert "mediapipe_same" not in plain
    if kind == "classifier_sensor":
        assert found["mediapipe_same"] == 1
        assert found["mediapipe_accuracy"] == pytest.approx(found["accuracy"])
    assert 0 < found["mediapipe_accuracy"] <= 1


def test_mediapipe_is_for_classifiers_of_images(finished, tmp_path, monkeypatch):
    options = Options(("head",), bound=100, calibration=16, progress=False)
    quiet = lambda line: None  # noqa: E731
    assert Exporter(finished, TARGETS["phone"], options, tmp_path, report=quiet).export()
    (path,) = tmp_path.glob("*_head*.tflite")
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: True)
    with pytest.raises(RequestError, match="is a head; MediaPipe takes classifiers of images"):
        evaluate_tflite(path, mediapipe=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(RequestError, match="pip install mediapipe brings it"):
        evaluate_tflite(path, mediapipe=True)
