"""Every preset has the size it is known by, and survives being stored."""

import keras
import numpy as np
import pytest

from sparse_ist_tf.encoder.presets import PRESETS, create_encoder
from sparse_ist_tf.encoder.vit import ViT

# Millions of parameters without a classifier, table 1 of DeiT and of ViT. Sine-cosine
# positions count, as do CLS and biases.
PUBLISHED = {"vit_tiny": 5.5, "vit_small": 21.7, "vit_base": 85.8, "vit_large": 303.3}
BIG = ("vit_small", "vit_base", "vit_large")


def closed_form(preset):
    """Parameters of a ViT with CLS, biases everywhere and positions for the patches."""
    w, hidden = preset.width, round(preset.width * preset.mlp_ratio)
    pixels = 3 * preset.patch_size**2
    places = (preset.image_size // preset.patch_size) ** 2
    block = 4 * w + (w + 1) * 3 * w + (w + 1) * w + (w + 1) * hidden + (hidden + 1) * w
    return (pixels + 1) * w + places * w + w + preset.depth * block + 2 * w


@pytest.mark.parametrize("name", [n for n in PRESETS if n not in BIG])
def test_preset_has_its_parameters_and_survives_saving(name, tmp_path):
    model = create_encoder(name)
    assert model.count_params() == closed_form(PRESETS[name])
    twin = ViT.from_config(model.get_config())
    assert twin.get_config() == model.get_config()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.large
@pytest.mark.parametrize("name", BIG)
def test_the_big_ones_too(name, tmp_path):
    test_preset_has_its_parameters_and_survives_saving(name, tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_closed_form_is_the_published_size(name):
    assert closed_form(PRESETS[name]) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.15)


@pytest.mark.parametrize("name", ["vit_pico", "vit_micro", "vit_tiny"])
def test_hidden_pixels_change_nothing(name):
    model = create_encoder(name)
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((2, model.num_patches, 3 * model.patch_size**2), np.float32)
    places = np.stack([rng.permutation(model.num_patches)[:16] for _ in range(2)])
    places = places.astype(np.int32)
    altered = np.full_like(patches, 1e6)
    for row, seen in enumerate(places):
        altered[row, seen] = patches[row, seen]
    features = [
        np.asarray(
            model(
                {
                    "patches": np.take_along_axis(pixels, places[..., None], axis=1),
                    "positions": places,
                }
            )
        )
        for pixels in (patches, altered)
    ]
    assert features[0].shape == (2, model.feature_dim)
    assert np.isfinite(features[0]).all()
    np.testing.assert_array_equal(*features)


def test_overrides_replace_the_presets_arguments():
    model = create_encoder("vit_pico", depth=1, name="mine")
    assert (model.spec.depth, model.spec.width, model.name) == (1, 96, "mine")


def test_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"preset='vit_giant'.*vit_micro"):
        create_encoder("vit_giant")
