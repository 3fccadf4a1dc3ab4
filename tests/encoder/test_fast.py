"""The fast way gives the feature that the model gives, whatever the model, and does less."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.encoder import fast as fast_module
from sparse_ist_tf.encoder.fast import features, frozen_features
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.masks import fixed_positions, select_patches

SMALL = {"image_size": 16, "patch_size": 4, "width": 32, "depth": 3, "num_heads": 4}
VARIANTS = [
    {},
    {"activation": "gelu", "positions": "learned", "depth": 1},
    {"activation": "gelu_tanh", "pool": "mean"},
    {"activation": "swiglu", "extra_tokens": 4, "mlp_ratio": 2.5},
    {"class_token": False, "pool": "mean_norm"},
    {"pre_norm": True, "epsilon": 1e-5, "extra_tokens": 1, "pool": "mean"},
    {"pool": "cls_mean"},
]


ANY_NUMBER = {
    "patches": tf.TensorSpec((None, None, 48), tf.float32),
    "positions": tf.TensorSpec((None, None), tf.int32),
}


def case(num_patches, pixels, visible, batch=3):
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((batch, visible, pixels)).astype(np.float32)
    places = np.stack([rng.permutation(num_patches)[:visible] for _ in range(batch)])
    return {"patches": patches, "positions": places.astype(np.int32)}


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_the_feature_is_the_models(changes):
    model = ViT(ViTSpec(**SMALL | changes))
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(np.asarray(variable) + 0.2 * rng.standard_normal(variable.shape))
    fast = tf.function(lambda x: features(model, x), input_signature=[ANY_NUMBER])
    for visible in (2, 5, 16):
        inputs = case(16, 48, visible)
        wanted = np.asarray(model(inputs))
        np.testing.assert_allclose(features(model, inputs), wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(fast(inputs), wanted, rtol=0, atol=1e-5)
    fixed = tf.function(lambda x: features(model, x))
    np.testing.assert_allclose(fixed(inputs), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "weights", ["packaged:vit_micro", pytest.param("random:vit_tiny", marks=pytest.mark.large)]
)
def test_real_sizes_too_and_any_batch_in_one_graph(weights):
    model = load_encoder(weights).model
    pixels = 3 * model.patch_size**2
    spec = {
        "patches": tf.TensorSpec((None, None, pixels), tf.float32),
        "positions": tf.TensorSpec((None, None), tf.int32),
    }
    compiled = tf.function(lambda x: features(model, x), input_signature=[spec])
    for batch, visible in ((2, 64), (5, 16)):
        inputs = case(model.num_patches, pixels, visible, batch)
        np.testing.assert_allclose(compiled(inputs), model(inputs), rtol=0, atol=1e-5)


def _has_variables(function, inputs):
    graph = tf.function(function).get_concrete_function(inputs).graph.as_graph_def()
    return any(node.op == "ReadVariableOp" for node in graph.node)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_weights_are_constants_of_the_graph(dtype):
    model = load_encoder("packaged:vit_pico", dtype=dtype).model
    inputs = {k: tf.constant(v) for k, v in case(64, 192, 8).items()}
    frozen = frozen_features(model)
    assert _has_variables(lambda x: features(model, x), inputs)
    assert not _has_variables(frozen, inputs)
    wanted = np.asarray(tf.cast(features(model, inputs), tf.float32))
    model.blocks[0].fc1.kernel.assign(0 * model.blocks[0].fc1.kernel)
    got = tf.cast(frozen(inputs), tf.float32)  # like `wanted` not fused, which rounds otherwise
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    assert np.abs(np.asarray(tf.cast(features(model, inputs), tf.float32)) - wanted).max() > 0.1


def test_many_weights_stay_variables(monkeypatch):
    model = ViT(ViTSpec(**SMALL))
    inputs = {k: tf.constant(v) for k, v in case(16, 48, 5).items()}
    assert not _has_variables(frozen_features(model), inputs)
    monkeypatch.setattr(fast_module, "_MOST_FROZEN", 1000)
    assert _has_variables(frozen_features(model), inputs)


def test_bfloat16_is_no_further_from_the_truth_than_the_model():
    exact = load_encoder("packaged:vit_micro").model
    low = load_encoder("packaged:vit_micro", dtype="bfloat16").model
    # Of real images: on noise the two sum in orders that differ by more on some processors.
    images = next(iter(datasets.load("digits")["test"].dataset(64, batch_size=128)))["image"]
    positions = fixed_positions(0, np.arange(128), 64, 0.5)
    patches = select_patches(images.numpy(), positions, 8).astype(np.float32) / 127.5 - 1
    inputs = {"patches": patches, "positions": positions}
    wanted = np.asarray(exact(inputs))

    def distance(feature):
        assert keras.backend.standardize_dtype(feature.dtype) == "bfloat16"
        return np.linalg.norm(np.asarray(tf.cast(feature, tf.float32)) - wanted)

    slow = tf.function(lambda x: low(x))
    any_number = ANY_NUMBER | {"patches": tf.TensorSpec((None, None, 192), tf.float32)}
    for signature in (None, [any_number]):
        fast = tf.function(lambda x: features(low, x), input_signature=signature)
        assert distance(fast(inputs)) < 1.1 * distance(slow(inputs))


@pytest.mark.parametrize("rows", [None, 3])
def test_gradients_are_the_models(rows):
    """Fine-tuning trains through it."""
    model = ViT(ViTSpec(**SMALL))
    inputs = case(16, 48, 5)
    direction = np.random.default_rng(2).standard_normal(32).astype(np.float32)
    spec = {key: tf.TensorSpec((rows, *s.shape[1:]), s.dtype) for key, s in ANY_NUMBER.items()}

    def gradients(of):
        def call(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(of(x) * direction)
            return tape.gradient(loss, model.trainable_variables)

        return tf.function(call, input_signature=[spec])(inputs)

    for found, wanted in zip(
        gradients(lambda x: features(model, x)), gradients(model), strict=True
    ):
        wanted = np.asarray(tf.convert_to_tensor(wanted))
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max() + 1e-6)


def test_products_and_biases_stand_together_for_tensorflow_to_fuse():
    model = ViT(ViTSpec(**SMALL))
    inputs = {k: tf.constant(v) for k, v in case(16, 48, 5).items()}
    graph = tf.function(lambda x: features(model, x)).get_concrete_function(inputs).graph
    products = [op for op in graph.get_operations() if op.type == "MatMul"]
    followers = [{consumer.type for consumer in op.outputs[0].consumers()} for op in products]
    assert len(products) == 1 + 4 * 2 + 5
    assert all(types == {"BiasAdd"} for types in followers), followers


def test_flops_are_those_of_the_products_in_the_graph():
    for changes in ({}, {"pool": "mean"}, {"activation": "swiglu", "extra_tokens": 2}):
        model = ViT(ViTSpec(**SMALL | changes))
        inputs = {k: tf.constant(v) for k, v in case(16, 48, 5, batch=1).items()}
        graph = tf.function(lambda x, m=model: features(m, x)).get_concrete_function(inputs).graph
        found = 0
        for op in graph.get_operations():
            if op.type in ("MatMul", "BatchMatMulV2"):
                rows, inner = op.inputs[0].shape[-2:]
                found += 2 * np.prod(op.outputs[0].shape) * inner
                assert not (op.type == "MatMul" and op.get_attr("transpose_a")), rows
        assert found == model.spec.flops(5)


def test_cls_alone_saves_most_of_the_last_block():
    cls, mean = (create_encoder("vit_base", pool=pool, depth=1) for pool in ("cls", "mean"))
    assert mean.spec.flops(196) / cls.spec.flops(196) > 3
