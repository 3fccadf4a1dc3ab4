"""Heads and subnets."""

import keras
import numpy as np
import pytest

from sparse_ist_tf.ist.head import (
    HeadSpec,
    Standard,
    build_model,
    extract,
    fold,
    init_blocks,
    init_parameter,
    init_parameters,
    logits,
)
from sparse_ist_tf.ist.local import LossOptions, forward
from sparse_ist_tf.ist.partition import make_partition

SPEC = HeadSpec(6, (9, 8), 4)
FEATURES = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)


def test_the_default_head_has_the_paper_s_size():
    # 768 * 1000 + 1000 + 1000 * 1000 + 1000 + 1000 * 45 + 45
    assert HeadSpec(768, (1000, 1000), 45).num_parameters == 1_815_045


def test_initial_weights_are_he_normal_and_seeded():
    head = init_parameters(HeadSpec(400, (500,), 3), seed=1)
    assert head["dense_0/kernel"].std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert not head["dense_0/bias"].any()
    again = init_parameters(HeadSpec(400, (500,), 3), seed=1)
    other = init_parameters(HeadSpec(400, (500,), 3), seed=2)
    assert np.array_equal(head["dense_1/kernel"], again["dense_1/kernel"])
    assert not np.array_equal(head["dense_1/kernel"], other["dense_1/kernel"])


@pytest.mark.parametrize("initializer", ["he_normal", "torch_uniform"])
def test_initial_weights_are_the_same_however_their_rows_are_cut(initializer):
    part = HeadSpec(31, (17,), 3).parameters()[0]
    whole = init_parameter(part, 5, 0, initializer)
    for cuts in ([0, 1, 2, 30, 31], [0, 13, 31]):
        rows = map(slice, cuts, cuts[1:])
        blocks = [*init_blocks(part, 5, 0, initializer, 1, rows)]
        assert np.array_equal(np.concatenate(blocks)[..., 0], whole)


def test_an_extracted_subnet_is_the_scaled_subnet_of_training():
    head = init_parameters(SPEC, 0)
    head = {k: v + 0.1 for k, v in head.items()}
    partition = make_partition(0, 2, SPEC.hidden, 3)
    for subnet in range(3):
        a, b = (partition.indices[layer][subnet] for layer in (0, 1))
        weights = [
            head["dense_0/kernel"][:, a],
            head["dense_0/bias"][a],
            head["dense_1/kernel"][np.ix_(a, b)],
            head["dense_1/bias"][b],
            head["dense_2/kernel"][b],
            head["dense_2/bias"],
        ]
        scales = [9 / len(a), 8 / len(b)]
        trained = forward(weights, FEATURES, LossOptions(scales)).numpy()
        cut = extract(head, SPEC, partition, subnet)
        np.testing.assert_allclose(logits(cut, FEATURES), trained, rtol=1e-5, atol=1e-5)


def test_the_keras_model_is_the_same_head(tmp_path):
    head = init_parameters(SPEC, 0)
    model = build_model(head)
    model.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras")
    want = logits(head, FEATURES)
    np.testing.assert_allclose(np.asarray(loaded(FEATURES)), want, rtol=1e-5, atol=1e-5)
    assert [layer.name for layer in loaded.layers] == ["dense_0", "dense_1", "dense_2"]


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [
        ("he_normal", 2 / 400),
        ("lecun_normal", 1 / 400),
        ("glorot_uniform", 2 / 900),
        ("torch_uniform", 1 / 1200),
    ],
)
def test_initial_kernels_have_their_initializer_s_variance(initializer, variance):
    kernel = init_parameters(HeadSpec(400, (500,), 3), 1, initializer)["dense_0/kernel"]
    assert kernel.var() == pytest.approx(variance, rel=0.02)
    if initializer.endswith("uniform"):
        assert np.abs(kernel).max() <= np.sqrt(3 * variance)


def test_standardised_features_fold_into_the_first_layer():
    head, rng = init_parameters(SPEC, 0), np.random.default_rng(3)
    raw = rng.normal(4.0, 2.0, (32, 6)).astype(np.float32)
    mean, std = raw.mean(axis=0), raw.std(axis=0)
    folded = fold(head, {"features": Standard(mean, std)})
    want = logits(head, (raw - mean) / std)
    np.testing.assert_allclose(logits(folded, raw), want, rtol=1e-4, atol=1e-4)


def test_subnets_begin_as_he_normal_with_their_scaling():
    """Second moments of what hidden layers put out stay alike from layer to layer, for any N."""
    spec = HeadSpec(400, (960, 960), 3)
    features = np.random.default_rng(0).normal(size=(256, 400)).astype(np.float32)
    for count in (1, 8):
        head = init_parameters(spec, 0, "subnet_he_normal", count)
        partition = make_partition(0, 0, spec.hidden, count)
        cut = extract(head, spec, partition, 0)
        first = np.maximum(features @ cut["dense_0/kernel"], 0)
        second = np.maximum(first @ cut["dense_1/kernel"], 0)
        assert np.mean(second**2) == pytest.approx(np.mean(first**2), rel=0.25)
