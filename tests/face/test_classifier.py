"""The classifier of notebooks."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_ist_tf as si

SMALL = {
    "hidden": (32, 24),
    "num_subnets": 2,
    "settings": {"ist.link": "fast", "ist.local_steps": 4},
}


@pytest.fixture(scope="module")
def digits():
    """(images uint8[300, 8, 8, 3], labels)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images[:300] * 255 / 16).astype(np.uint8)
    return np.repeat(images[..., None], 3, axis=-1), data.target[:300]


@pytest.fixture(scope="module")
def fitted(digits):
    """A classifier of digits, with shared masks, and its history."""
    images, labels = digits
    encoder = si.Encoder("packaged:vit_pico", image_size=32)  # cells of 2 x 2 pixels
    classifier = si.IstClassifier(encoder, kind="shared", mask_ratio=0.25, **SMALL)
    history = classifier.fit(
        images[:240],
        labels[:240],
        epochs=40,
        batch_size=16,
        validation_data=(images[240:], labels[240:]),
        class_names=[f"digit {k}" for k in range(10)],
        verbose=0,
    )
    return classifier, history


def test_it_learns_and_keeps_its_history(fitted, digits):
    classifier, history = fitted
    assert history.history["val_accuracy"][-1] > 0.35  # of ten classes, by 240 examples
    assert len(history.epoch) == len(history.history["loss"]) > 2
    assert history.epoch[-1] == pytest.approx(40, abs=0.3)
    images, labels = digits
    found = classifier.evaluate(images[240:], labels[240:])
    assert found["accuracy"] == pytest.approx(history.history["val_accuracy"][-1], abs=1e-6)
    assert found["accuracy"] == pytest.approx(classifier.run.results["accuracy"]["merged"])
    assert 0 < found["loss"] < 3


def test_its_probabilities_are_the_same_in_any_batch_and_by_its_model(fitted, digits):
    classifier, images = fitted[0], digits[0][:7]
    found = classifier.predict(images)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(classifier.predict(images, batch_size=3), found, atol=1e-5)
    np.testing.assert_allclose(classifier.model(images), found, atol=2e-2)


def test_it_is_saved_with_its_encoder_and_loaded_elsewhere(fitted, digits, tmp_path):
    classifier, images = fitted[0], digits[0][:5]
    classifier.save(tmp_path / "digits.keras")
    again = si.load(tmp_path / "digits.keras")
    assert again.class_names == classifier.class_names
    np.testing.assert_allclose(again.predict(images), classifier.predict(images), atol=1e-6)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, sparse_ist_tf as si\n"
        "folder = sys.argv[1]\n"
        "classifier = si.load(folder + '/digits.keras')\n"
        "np.save(folder + '/found.npy', classifier.predict(np.load(folder + '/images.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, classifier.predict(images), atol=1e-6)


def test_it_exports(fitted, tmp_path):
    files = fitted[0].export(tmp_path / "phone", artefacts=("classifier",), quantize=("float32",))
    assert len(files) == 3  # of the head, and of each subnet
    assert all("_m25_classifier_" in path.name for path in files)
    labels = next((tmp_path / "phone").rglob("*labels.txt")).read_text().splitlines()
    assert labels == [f"digit {k}" for k in range(10)]


def test_features_of_any_kind(digits):
    images, labels = digits
    features = images[..., 0].reshape(300, 64).astype("float32") / 255
    head = si.IstClassifier(None, **SMALL)
    history = head.fit(features, labels, epochs=20, batch_size=16, verbose=0)
    assert history.history["val_accuracy"][-1] > 0.7
    data = tf.data.Dataset.from_tensor_slices((features, labels)).batch(32)
    assert head.evaluate(data)["accuracy"] > 0.8
    assert head.evaluate(data) == head.evaluate(features, labels)
    same = si.IstClassifier(None, **SMALL)
    same.fit(features, labels, epochs=20, batch_size=16, verbose=0)
    np.testing.assert_array_equal(same.predict(features), head.predict(features))
    with pytest.raises(si.RequestError, match="features of 5 numbers, must be 64"):
        head.predict(np.ones((2, 5), "float32"))
    with pytest.raises(si.RequestError, match="needs the run of a classifier"):
        head.export("nowhere")


def test_a_head_on_features_is_saved_too(digits, tmp_path):
    images, labels = digits
    features = images[..., 0].reshape(300, 64).astype("float32")
    head = si.IstClassifier(None, **SMALL)
    head.fit(features, labels.astype(str), epochs=1, verbose=0)
    assert head.class_names == tuple("0123456789")
    head.save(tmp_path / "head.keras")
    found = si.load(tmp_path / "head.keras").predict(features)
    np.testing.assert_allclose(found, head.predict(features), atol=1e-6)


@pytest.mark.large
def test_an_own_model_encodes(digits, tmp_path):
    images, labels = digits
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Rescaling(1 / 64), keras.layers.AveragePooling2D(4)]
    own = keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Flatten()], name="own")
    classifier = si.IstClassifier(own, mask_ratio=0.0, **SMALL)
    classifier.fit(images, labels, epochs=25, batch_size=16, verbose=0)
    assert classifier.evaluate(images, labels)["accuracy"] > 0.7
    classifier.save(tmp_path / "own.keras")
    found = si.load(tmp_path / "own.keras").predict(images[:9])
    np.testing.assert_allclose(found, classifier.predict(images[:9]), atol=1e-5)
    with pytest.raises(si.RequestError, match="only for a ViT"):
        classifier.export(tmp_path / "phone")


def test_another_model_of_the_same_sizes_has_features_of_its_own(digits):
    images, labels = digits

    def features(factor):
        layers = [keras.layers.Rescaling(factor), keras.layers.GlobalAveragePooling2D()]
        model = keras.Sequential([keras.Input((16, 16, 3)), *layers])
        classifier = si.IstClassifier(model, **SMALL)
        classifier.fit(images[:60], labels[:60] % 2, epochs=1, verbose=0)
        return classifier.run.test_features

    np.testing.assert_allclose(features(2.0), 2 * features(1.0), rtol=1e-5)


@pytest.mark.large
def test_fitting_again_is_another_training_on_the_same_images(fitted, digits):
    images, labels = digits
    classifier = si.IstClassifier("packaged:vit_pico", **SMALL)
    runs = []
    for _ in range(2):
        classifier.fit(images[:60], labels[:60] % 2, epochs=1, verbose=0)
        runs.append(classifier.run)
    assert runs[0].path != runs[1].path
    np.testing.assert_array_equal(runs[0].test_features, runs[1].test_features)
    assert len(list(classifier.run.images.examples("test"))) == 12


def test_a_loaded_classifier_is_fitted_anew_and_in_silence(fitted, digits, tmp_path, capfd):
    fitted[0].save(tmp_path / "digits.keras")
    again = si.load(tmp_path / "digits.keras")
    images, labels = digits
    capfd.readouterr()
    again.fit(images, labels % 2, epochs=1, verbose=0)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert again.predict(images[:3]).shape == (3, 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: si.IstClassifier("vit_micro").fit(np.zeros((9, 8, 8, 3), "uint8"), [0, 1, 2] * 3),
         "did you mean 'packaged:vit_micro'"),
        (lambda: si.IstClassifier(mask_ratio=1.0), "masks.ratio=1.0"),
        (lambda: si.IstClassifier(kind="fix"), "did you mean 'fixed'"),
        (lambda: si.IstClassifier(settings={"ist.lnk": "fast"}), "ist.lnk: there is no such key"),
        (lambda: si.IstClassifier(settings={"seed": 3}), "must be an argument"),
        (lambda: si.IstClassifier(settings={"transport.codec": "jpeg"}), "si.train"),
        (lambda: si.IstClassifier(None, kind="shared"), "must not be given for features"),
        (lambda: si.IstClassifier(None).predict(np.ones((2, 3))), "fit comes first"),
        (lambda: si.IstClassifier(None).fit(np.ones((4, 3))), "y: must be given"),
        (lambda: si.IstClassifier(None).fit(np.ones((4, 2, 2, 3), "uint8"), [0, 1, 0, 1]),
         "x: must be features"),
        (lambda: si.IstClassifier().fit(np.ones((4, 3)), [0, 1, 0, 1]), "x: must be images"),
        (lambda: si.load("there/is.none"), "there is no such file"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_in_one_line(make, said):
    with pytest.raises(si.RequestError, match=said) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_files_of_others_are_refused(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(si.RequestError, match=r"must be of IstClassifier\.save"):
        si.load(tmp_path / "other.keras")
    (tmp_path / "broken.keras").write_bytes(b"PK")
    with pytest.raises(si.RequestError, match=r"can't be read as a \.keras file"):
        si.load(tmp_path / "broken.keras")
