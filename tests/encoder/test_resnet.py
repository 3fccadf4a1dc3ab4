"""The ResNet-50 that a ViT is compared with: keras.applications' own, and hidden is hidden."""

import h5py
import keras
import numpy as np
import pytest

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.encoder.features import make_encode
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.weights import main

SIDE, PATCHES = 64, 16


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("resnet50:random", image_size=SIDE)


@pytest.fixture(scope="module")
def encode(encoder):
    return make_encode(encoder)


@pytest.fixture(scope="module")
def reference():
    """keras.applications' model with weights of its own, statistics of the norms included."""
    model = keras.applications.ResNet50(
        weights=None, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3)
    )
    rng = np.random.default_rng(1)
    for variable in model.variables:
        size = np.prod(variable.shape[:-1], initial=1)
        noise = rng.standard_normal(variable.shape, np.float32)
        if variable.path.endswith("kernel"):
            variable.assign(noise * np.sqrt(1 / size))
        elif variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(np.exp(0.2 * noise) * 0.5)
        else:
            variable.assign(0.1 * noise)
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def _everywhere(count):
    return np.tile(np.arange(PATCHES, dtype=np.int32), (count, 1))


@pytest.mark.parametrize(
    "suffix",
    [
        ".weights.h5",
        pytest.param(".keras", marks=pytest.mark.large),
        pytest.param("_notop.h5", marks=pytest.mark.large),
    ],
)
def test_features_are_those_of_keras_applications(reference, images, tmp_path, suffix):
    path = tmp_path / f"resnet{suffix}"
    if suffix == ".keras":
        reference.save(path)
    elif suffix == ".weights.h5":
        reference.save_weights(path)
    else:  # the format that keras.applications downloads
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, reference)
    encoder = load_encoder(f"resnet50:{path}", image_size=SIDE)
    encode = make_encode(encoder)
    ours = encode(images, _everywhere(3)).numpy()
    seen = keras.applications.resnet50.preprocess_input(images.astype(np.float32))
    theirs = keras.ops.convert_to_numpy(reference(seen, training=False))
    assert theirs.shape == ours.shape == (3, encoder.feature_dim) == (3, 2048)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    hidden = images.copy()
    hidden[:, :16, 16:32] = np.round(np.array([123.68, 116.779, 103.939]))
    places = np.delete(_everywhere(3), 1, axis=1)
    painted = encode(images, places).numpy()
    theirs = keras.applications.resnet50.preprocess_input(hidden.astype(np.float32))
    theirs[:, :16, 16:32] = 0.0  # the mean colour itself, which no byte can have
    theirs = keras.ops.convert_to_numpy(reference(theirs, training=False))
    assert np.abs(painted - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert np.abs(painted - ours).max() > 1e-2 * np.abs(theirs).max(), "a hidden patch matters"


def test_hidden_pixels_change_nothing_and_visible_ones_do(encode, images):
    places = np.array([[0, 5, 6, 15], [3, 2, 1, 0], [4, 8, 12, 13]], np.int32)
    before = encode(images, places).numpy()
    changed = images.copy()
    changed[0, 16:32, :16] = 255 - changed[0, 16:32, :16]  # patch 4 of the first, a hidden one
    changed[1, 48:, 48:] = 0
    np.testing.assert_array_equal(encode(changed, places).numpy(), before)
    changed[2, 16:32, :16] = 255 - changed[2, 16:32, :16]  # patch 4 of the third, a visible one
    after = encode(changed, places).numpy()
    np.testing.assert_array_equal(after[:2], before[:2])
    assert np.abs(after[2] - before[2]).max() > 0
    order = places[:, ::-1]
    np.testing.assert_array_equal(encode(images, order).numpy(), before)


def test_random_weights_are_seeded_and_their_features_are_of_use(encoder, encode):
    assert encoder.digest == load_encoder("resnet50:random", image_size=SIDE).digest
    assert encoder.num_patches == PATCHES
    assert "painted with the mean colour" in encoder.describe()
    rows = next(iter(datasets.load("digits")["test"].dataset(SIDE, stop=12, batch_size=12)))
    features = encode(rows["image"], _everywhere(12)[:, :4]).numpy()
    assert features.shape == (12, 2048)
    assert 0.01 < features.std() < 100
    assert len(np.unique(features.round(4), axis=0)) == 12


@pytest.mark.large
def test_half_precision_is_near(encoder, images):
    half = load_encoder("resnet50:random", image_size=SIDE, dtype="bfloat16")
    assert half.digest == encoder.digest
    assert keras.config.dtype_policy().name == "float32", "the policy of others stays"
    a, b = (make_encode(e)(images, _everywhere(3)).numpy() for e in (encoder, half))
    assert 0 < np.abs(a - b).max() < 0.1 * np.abs(a).max()


@pytest.mark.parametrize(
    ("weights", "options", "words"),
    [
        ("resnet50:nowhere.keras", {}, "nowhere.keras: no such file"),
        ("resnet50:", {}, "no such file"),
        ("resnet50:random", {"image_size": 72}, "image_size=72: must be a multiple of 16"),
        ("resnet50:random", {"image_size": 16}, "at least 32"),
        ("resnet50:random?num_heads=3", {}, "num_heads: is a ViT's"),
        ("resnet50:random", {"mean": (0.5, 0.5, 0.5)}, "mean: is a ViT's"),
    ],
)
def test_what_cannot_be_is_named(weights, options, words):
    with pytest.raises(RequestError) as caught:
        load_encoder(weights, **options)
    assert words in str(caught.value)
    assert f"encoder.weights={weights!r}" in str(caught.value)


def test_files_of_other_things_are_refused(encoder, tmp_path):
    (tmp_path / "damaged.h5").write_bytes(b"nothing of the kind")
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save(tmp_path / "dense.keras")
    for path in tmp_path.iterdir():
        with pytest.raises(RequestError, match="not a ResNet-50") as caught:
            load_encoder(f"resnet50:{path}", image_size=32)
        assert "\n" not in str(caught.value)
    encoder.model.network.layers[2].bias.assign(np.full(64, np.nan))
    try:
        encoder.model.network.save_weights(tmp_path / "nan.weights.h5")
    finally:
        encoder.model.network.layers[2].bias.assign(np.zeros(64))
    with pytest.raises(RequestError, match="not finite"):
        load_encoder(f"resnet50:{tmp_path / 'nan.weights.h5'}", image_size=32)


def test_a_download_that_fails_is_one_line(monkeypatch):
    def fails(**kwargs):
        raise Exception("URL fetch failure on https://keras: None -- no network")

    real = keras.applications.ResNet50
    monkeypatch.setattr(
        keras.applications,
        "ResNet50",
        lambda **k: fails(**k) if k["weights"] == "imagenet" else real(**k),
    )
    with pytest.raises(RunError, match="can't be downloaded") as caught:
        load_encoder("resnet50:imagenet", image_size=32)
    assert "URL fetch failure" in str(caught.value)


def test_it_cannot_be_written_as_a_vit(tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    assert main(["--to=timm", "--image_size=32", "resnet50:random", str(out)]) == 2
    assert "--to=timm: only for a ViT, resnet50:random is none" in capsys.readouterr().err
    assert not out.exists()
