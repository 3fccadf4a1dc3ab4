"""Pre-training: both objectives learn, resume where they were, and say what is wrong."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.encoder.pretraining import (
    Images,
    MaskedAutoencoder,
    Pretraining,
    draw_positions,
    learning_rate_at,
    make_augmentation,
)
from sparse_ist_tf.errors import RequestError, RunError


def _config(**changes):
    config = ConfigDict(
        {
            "seed": 0,
            "preset": "vit_pico",
            "dtype": "float32",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "objective": "supervised",
            "label_smoothing": 0.1,
            "distillation": 0.0,
            "decoder": {"width": 32, "depth": 1, "num_heads": 2},
            "mask_ratios": (0.75, 0.5),
            "mask_probabilities": (0.5, 0.5),
            "augment": (),
            "optimizer": {"name": "adamw", "kwargs": {"weight_decay": 0.05}},
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "decay": 0.0,
            "warmup_steps": 2,
            "batch_size": 16,
            "total_steps": 12,
            "eval_mask_ratios": (0.0, 0.5),
            "eval_images": 32,
            "log_every": 4,
            "eval_every": 8,
            "checkpoint_every": 4,
        }
    )
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def images():
    """Bright and dark images: two classes that a few steps tell apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 96).astype(np.int32)
    pixels = rng.integers(0, 90, (96, 64, 64, 3)) + 130 * labels[:, None, None, None]
    pixels = pixels.astype(np.uint8)
    return Images(pixels[:64], labels[:64], pixels[64:], labels[64:], num_classes=2)


def test_the_supervised_objective_learns(images, tmp_path):
    record = Pretraining(_config(total_steps=24), images, tmp_path).train(lambda _: None)
    assert record["step"] == 24
    assert record["test_accuracy@0.0"] > 0.9
    assert record["test_accuracy@0.5"] > 0.9
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 12, 16, 20, 24, 24]


def test_stopping_and_going_on_gives_the_same_weights(images, tmp_path):
    whole = Pretraining(_config(), images, tmp_path / "whole")
    whole.train(lambda _: None)
    first = Pretraining(_config(), images, tmp_path / "parts")
    for batch in first._batches():  # killed right behind its second checkpoint
        first.optimizer.learning_rate.assign(learning_rate_at(first.step, first.config))
        first._train_step(*batch)
        first.step += 1
        if first.step == 8:
            break
    first.save()
    second = Pretraining(_config(), images, tmp_path / "parts")
    assert second.step == 8
    second.train(lambda _: None)
    for a, b in zip(whole.model.variables, second.model.variables, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6)


def test_the_masked_autoencoder_learns(images, tmp_path):
    config = _config(objective="mae", total_steps=30, learning_rate=3e-3, eval_mask_ratios=(0.75,))
    run = Pretraining(config, images, tmp_path)
    before = run.evaluate(32)["test_loss@0.75"]
    after = run.train(lambda _: None)["test_loss@0.75"]
    assert after < 0.95 * before


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
    target /= np.sqrt(whole.var(-1, keepdims=True) + 1e-6)
    errors = ((predicted - target) ** 2).mean(-1)
    hidden = np.ones((2, 64), bool)
    np.put_along_axis(hidden, places, False, axis=1)
    assert float(loss) == pytest.approx(errors[hidden].mean(), rel=1e-4)


def test_distillation_adds_the_whole_view(images, tmp_path):
    plain = Pretraining(_config(), images, tmp_path / "a")
    distilled = Pretraining(_config(distillation=0.5), images, tmp_path / "b")
    batch = next(iter(plain._batches()))
    assert float(plain._train_step(*batch)[0]) != float(distilled._train_step(*batch)[0])


def test_masks_are_uniform_and_ascending():
    places = draw_positions(np.random.default_rng(0), 4000, 16, 0.75)
    assert (np.diff(places, axis=1) > 0).all()
    counts = np.bincount(places.ravel(), minlength=16)
    assert abs(counts - 1000).max() < 150


def test_schedules():
    config = _config(schedule="trapezoid", decay=0.25, warmup_steps=4, total_steps=100)
    rates = [learning_rate_at(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.25e-3)
    assert rates[4:75] == [1e-3] * 71
    assert rates[99] == pytest.approx(1e-3 / 25)
    cosine = _config(warmup_steps=0, total_steps=100)
    assert learning_rate_at(50, cosine) == pytest.approx(0.5e-3)


def test_augmentation_keeps_range_and_shape():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)
    changed = np.asarray(make_augmentation(("flip", "crop"), 64)(pixels))
    assert changed.shape == pixels.shape
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert np.abs(changed - pixels).mean() > 1
    with pytest.raises(RequestError, match="swirl"):
        make_augmentation(("swirl",), 64)


def test_another_run_s_checkpoint_is_refused(images, tmp_path):
    Pretraining(_config(), images, tmp_path).save()
    with pytest.raises(RequestError, match="another configuration"):
        Pretraining(_config(objective="mae"), images, tmp_path)


def test_a_loss_that_is_not_finite_is_named(images, tmp_path):
    run = Pretraining(_config(learning_rate=1e20, warmup_steps=0), images, tmp_path)
    with pytest.raises(RunError, match="loss is"):
        run.train(lambda _: None)
