"""Layers from images to patches to features."""

import keras
import numpy as np
import pytest

import sparse_ist_tf as si
from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.encoder.features import Features
from sparse_ist_tf.face.images import as_split
from sparse_ist_tf.masks import MaskOptions, select_patches


def _images(count, height=30, width=41):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("resize", ["antialias", "bilinear", "area"])
@pytest.mark.parametrize("grid", ["sensor", "scaled"])
@pytest.mark.parametrize("shape", [(30, 41), (64, 64), (8, 9), (200, 131)])
def test_patches_are_those_that_a_run_sees(grid, shape, resize):
    images, masks = _images(3, *shape), MaskOptions("fixed", 0.5, seed=4, grid=grid, resize=resize)
    layer = si.VisiblePatches(0.5, "fixed", seed=4, grid=grid, resize=resize)
    seen = layer({"images": images, "indices": np.array([5, 0, 9])})
    positions = masks.positions(np.array([5, 0, 9]), 64)
    np.testing.assert_array_equal(seen["positions"], positions)
    scaling = masks.scaling(64, 8)
    scaled = np.stack([scaling(image) for image in images])
    wanted = select_patches(scaled, positions, 8).astype(int)
    apart = np.abs(seen["patches"].numpy().astype(int) - wanted)
    assert apart.max() <= 1  # sums of many, in another order, at a half
    assert (apart > 0).mean() < 1e-3


def test_hidden_pixels_change_nothing():
    images, layer = _images(2, 32, 32), si.VisiblePatches(0.5, seed=1)
    seen = layer(images)
    hidden = np.setdiff1d(np.arange(64), seen["positions"][0])
    changed = images.copy()
    for place in hidden:
        row, column = divmod(int(place), 8)
        changed[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] ^= 255
    assert (changed != images).any()
    np.testing.assert_array_equal(layer(changed)["patches"], seen["patches"])


def test_masks_need_what_they_depend_on():
    images = _images(2)
    with pytest.raises(ValueError, match='need a dictionary with "indices"'):
        si.VisiblePatches(0.5, "fixed")(images)
    with pytest.raises(ValueError, match='need "epoch"'):
        si.VisiblePatches(0.5, "random")({"images": images, "indices": np.arange(2)})
    with pytest.raises(ValueError, match="mask_ratio=1"):
        si.VisiblePatches(1.0)
    with pytest.raises(ValueError, match="can't be cut into 8 patches"):
        si.VisiblePatches(0.5)(_images(1, 4, 4))


def test_a_model_of_both_layers_saves_and_loads(tmp_path):
    encoder = si.Encoder("packaged:vit_pico")
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    model = keras.Model(inputs, encoder(encoder.visible_patches(0.5)(inputs)))
    images = _images(4, 32, 32)
    wanted = model.predict(images, verbose=0)
    assert wanted.shape == (4, encoder.feature_dim)
    model.save(tmp_path / "both.keras")
    again = keras.saving.load_model(tmp_path / "both.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), wanted)
    assert not again.trainable_weights


def test_features_are_those_of_a_run():
    images = _images(5)
    encoder = si.Encoder("packaged:vit_pico")
    features = Features(load_encoder("packaged:vit_pico"), MaskOptions("fixed", 0.5, seed=3))
    wanted = features.encode(as_split(images), progress=False)
    np.testing.assert_array_equal(encoder.encode(images, 0.5, seed=3), wanted)
    layer = encoder.visible_patches(0.5, "fixed", seed=3)
    found = encoder(layer({"images": images, "indices": np.arange(5)}))
    np.testing.assert_allclose(found, wanted, atol=2e-2)


def _own_model(side=32):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(6, 3, strides=2)]
    return keras.Sequential(
        [keras.Input((side, side, 3)), *layers, keras.layers.GlobalAveragePooling2D()], name="own"
    )


def test_an_own_model_sees_visible_pixels_and_zeros():
    model = _own_model()
    encoder = si.Encoder(model)
    assert (encoder.image_size, encoder.patch_size, encoder.feature_dim) == (32, 8, 6)
    images = _images(3, 32, 32)
    np.testing.assert_allclose(encoder(images), model(images.astype("float32")), atol=1e-5)
    seen = encoder.visible_patches(0.5)(images)
    painted = images.astype("float32")
    for place in np.setdiff1d(np.arange(16), seen["positions"][0]):
        row, column = divmod(int(place), 4)
        painted[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
    np.testing.assert_allclose(encoder(seen), model(painted), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: 5, "must be a text or a Keras model"),
        (lambda: keras.Sequential([keras.Input((8, 6, 3)), keras.layers.Flatten()]), "RGB squares"),
        (lambda: keras.Sequential([keras.Input((None, None, 3))]), "image_size must be given"),
        (
            lambda: keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(2, 1)]),
            r"must be \[batch, features\]",
        ),
    ],
)
def test_models_that_are_no_encoders_are_refused(model, said):
    with pytest.raises(si.RequestError, match=said):
        si.Encoder(model())
