"""What a file says of itself: complete, readable by others, and harmless to its numbers."""

import contextlib
import io
import zipfile

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files import flatbuffer, metadata
from sparse_ist_tf.export.files.runtimes import LiteRT
from tests.fixtures.finished_run import make_images, make_pictures

ABOUT = metadata.Metadata(
    "small", "A small one.", ("kitten", "größer als a", "x y"), {"digest": "ab", "mask": {}}
)


@pytest.fixture(scope="module")
def classifier(classifier_file):
    """A float image classifier's file with metadata."""
    return metadata.attach(classifier_file("float32"), ABOUT)


def test_labels_and_run_come_back(classifier):
    assert metadata.read(classifier) == (ABOUT.labels, ABOUT.run)


def test_metadata_changes_no_logit(classifier_file, classifier):
    image = make_images(1)[0]
    expected = LiteRT(classifier_file("float32")).run({"image": image})
    assert np.array_equal(LiteRT(classifier).run({"image": image}), expected)
    assert np.array_equal(LiteRT(metadata.strip(classifier)).run({"image": image}), expected)


def test_a_stripped_file_is_as_small_as_before(head_file):
    attached = metadata.attach(head_file, ABOUT)
    assert len(metadata.strip(attached)) <= len(head_file) < len(attached)


def test_the_description_is_where_readers_look_for_it(classifier):
    """A buffer named TFLITE_METADATA with identifier M001, and a zip archive behind the model."""
    model = flatbuffer.parse(classifier)
    (entry,) = [m for m in model.metadata if flatbuffer.text(m.name) == "TFLITE_METADATA"]
    description = bytes(model.buffers[entry.buffer].data)
    assert description[4:8] == b"M001"
    for text in (b"small", b"A small one.", b"labels.txt", b"Apache License 2.0"):
        assert text in description
    with zipfile.ZipFile(io.BytesIO(classifier)) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode() == "kitten\ngrößer als a\nx y\n"


def test_attaching_again_replaces(classifier):
    other = metadata.Metadata("other", "Another.", ("a", "b", "c"), {"digest": "cd"})
    again = metadata.attach(metadata.strip(classifier), other)
    assert metadata.read(again) == (("a", "b", "c"), {"digest": "cd"})
    assert again == metadata.attach(metadata.strip(classifier), other)


def test_no_flipped_bit_changes_the_run_or_ends_in_a_traceback():
    content = metadata._append_zip(b"x" * 64, {metadata.RUN: '{"a": 1}', metadata.LABELS: "k\n"})
    for bit in range(8 * 64, 8 * len(content)):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(RequestError):
            assert metadata.read(bytes(broken))[1] == {"a": 1}


def test_a_file_without_metadata_is_refused(head_file):
    with pytest.raises(RequestError, match=r"m\.tflite: carries no metadata of this library"):
        metadata.read(head_file, "m.tflite")
    with pytest.raises(RequestError, match="line break"):
        metadata.attach(head_file, metadata.Metadata("n", "d", ("a\nb", "c", "d"), {}))


def test_the_image_wanted_is_described_where_readers_look(classifier_file):
    about = metadata.Metadata("n", "d", ("a", "b", "c"), {}, "Cells of 2 x 2 pixels.")
    assert b"read. Cells of 2 x 2 pixels." in metadata.attach(classifier_file("float32"), about)


@pytest.mark.parametrize("kind", ["classifier", "classifier_sensor"])
@pytest.mark.parametrize("quantize", ["float32", "int8"])
def test_mediapipe_loads_a_classifier_as_it_is(classifier_file, tmp_path, quantize, kind):
    """Its answers are LiteRT's, by the labels inside the file: nothing is scaled on the way."""
    mediapipe = pytest.importorskip("mediapipe", reason="needs the extra mediapipe")
    from mediapipe.tasks import python as tasks

    classifier = metadata.attach(classifier_file(quantize, kind=kind), ABOUT)
    path = tmp_path / "classifier.tflite"
    path.write_bytes(classifier)
    options = tasks.vision.ImageClassifierOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(path))
    )
    runtime = LiteRT(classifier)
    with tasks.vision.ImageClassifier.create_from_options(options) as task:
        for image in make_images(8) if kind == "classifier" else make_pictures(8):
            picture = mediapipe.Image(mediapipe.ImageFormat.SRGB, image)
            (found,) = task.classify(picture).classifications
            logits = runtime.run({"image": image})
            scores = {c.category_name: c.score for c in found.categories}
            expected = dict(zip(ABOUT.labels, logits, strict=True))
            assert found.categories[0].category_name == ABOUT.labels[int(logits.argmax())]
            assert scores == pytest.approx(expected, abs=1e-4)
