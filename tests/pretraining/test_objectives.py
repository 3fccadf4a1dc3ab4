"""The objectives of pre-training against their definitions."""

import numpy as np
import pytest

from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.pretraining.augmentation import draw_positions
from sparse_ist_tf.pretraining.objectives import (
    Classifier,
    MaskedAutoencoder,
    draw_glorot,
    swap_neighbours,
)


def test_the_masked_autoencoder_scores_hidden_patches_alone():
    encoder = create_encoder("vit_pico")
    model = MaskedAutoencoder(encoder, width=32, depth=1, num_heads=2)
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(2, 64, 192)).astype(np.float32)
    places = draw_positions(rng, 2, 64, 0.75)
    patches = np.take_along_axis(whole, places[:, :, None], axis=1)
    loss, _ = model.loss_of(patches, places, None, whole)
    predicted = np.asarray(model({"patches": patches, "positions": places}))
    target = whole - whole.mean(-1, keepdims=True)
    target /= np.sqrt(whole.var(-1, ddof=1, keepdims=True) + 1e-6)
    errors = ((predicted - target) ** 2).mean(-1)
    hidden = np.ones((2, 64), bool)
    np.put_along_axis(hidden, places, False, axis=1)
    assert float(loss) == pytest.approx(errors[hidden].mean(), rel=1e-4)


def test_the_decoder_sees_every_token():
    """A hidden patch's prediction depends on all visible ones, and on its own place."""
    model = MaskedAutoencoder(create_encoder("vit_pico"), width=32, depth=1, num_heads=2)
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(1, 16, 192)).astype(np.float32)
    places = draw_positions(rng, 1, 64, 0.75)
    first = np.asarray(model({"patches": patches, "positions": places}))
    patches[0, 3] += 1
    second = np.asarray(model({"patches": patches, "positions": places}))
    hidden = np.setdiff1d(np.arange(64), places)
    assert first.shape == (1, 64, 192)
    assert (np.abs(first - second)[0, hidden].max(axis=-1) > 0).all()
    assert np.ptp(first[0, hidden], axis=0).max() > 1e-3


@pytest.mark.parametrize("distillation", [0.0, 0.4])
def test_the_label_of_a_mixed_image_is_shared_by_what_is_visible(distillation):
    """Against the loss written out in numpy, image by image."""
    model = Classifier(create_encoder("vit_pico"), 5, 0.1, distillation, projector=48)
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(4, 64, 192)).astype(np.float32)
    places = draw_positions(rng, 4, 64, 0.75)
    patches = np.take_along_axis(whole, places[:, :, None], axis=1)
    labels, others = np.array([0, 1, 2, 3], np.int32), np.array([1, 0, 3, 2])
    shares = (rng.random((4, 64)) < 0.3).astype(np.float32)
    shares[3] = 0.8
    logits = np.asarray(model({"patches": patches, "positions": places}))
    every = np.tile(np.arange(64, dtype=np.int32), (4, 1))
    teacher = np.asarray(model({"patches": whole, "positions": every}))

    def truth(share, i):
        one = (1 - share) * np.eye(5)[labels[i]] + share * np.eye(5)[others[i]]
        return 0.9 * one + 0.1 / 5

    def log_softmax(x):
        return x - np.log(np.exp(x).sum())

    losses = []
    for i in range(4):
        seen = truth(shares[i, places[i]].mean(), i)
        loss = -(seen * log_softmax(logits[i])).sum()
        if distillation:
            soft = -(np.exp(log_softmax(teacher[i])) * log_softmax(logits[i])).sum()
            full = -(truth(shares[i].mean(), i) * log_softmax(teacher[i])).sum()
            loss = ((1 - distillation) * loss + distillation * soft + full) / 2
        losses.append(loss)
    loss, _ = model.loss_of(patches, places, labels, whole, shares)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-4)


def test_neighbours_swap_and_swap_back():
    x = np.arange(24).reshape(6, 4)
    swapped = np.asarray(swap_neighbours(x))
    np.testing.assert_array_equal(swapped, x[[1, 0, 3, 2, 5, 4]])
    np.testing.assert_array_equal(np.asarray(swap_neighbours(swapped)), x)


def test_glorot_kernels_have_glorot_s_deviation():
    block = create_encoder("vit_pico").blocks[0]
    draw_glorot([block])
    kernel = np.asarray(block.fc1.kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / sum(kernel.shape)), rel=0.02)
