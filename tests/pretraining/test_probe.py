"""Linear accuracy: high where a feature tells the class, chance where it doesn't."""

import numpy as np

from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.pretraining.data import Images
from sparse_ist_tf.pretraining.probe import LinearProbe


def _accuracy(informative, mask_ratio):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400).astype(np.int32)
    shown = labels if informative else rng.permutation(labels)
    pixels = rng.integers(0, 60, (400, 64, 64, 3)) + 60 * shown[:, None, None, None]
    pixels = pixels.astype(np.uint8)
    images = Images(pixels[:200], labels[:200], pixels[200:], labels[200:], num_classes=4)
    model = create_encoder("vit_pico", depth=1)
    before = [np.asarray(v).copy() for v in model.variables]
    accuracy = LinearProbe(model, (0.5,) * 3, (0.5,) * 3, 200).accuracy(images, mask_ratio)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))
    return accuracy


def test_brightness_is_found_whole_and_masked():
    assert _accuracy(True, 0.0) > 0.95
    assert _accuracy(True, 0.75) > 0.95


def test_labels_that_are_not_in_the_images_are_guessed():
    assert _accuracy(False, 0.0) < 0.45
