"""The ViT sees the visible patches and nothing else, and survives being stored."""

import math

import keras
import numpy as np
import pytest

from sparse_ist_tf.encoder.positions import sincos_positions
from sparse_ist_tf.encoder.spec import ACTIVATIONS, ViTSpec
from sparse_ist_tf.encoder.vit import Block, LayerNorm, ViT
from sparse_ist_tf.masks import visible_from_positions

SMALL = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}
VARIANTS = [
    {},
    {"activation": "gelu", "positions": "learned"},
    {"activation": "gelu_tanh", "pool": "mean"},
    {"activation": "swiglu", "extra_tokens": 4, "positions": "learned", "mlp_ratio": 2.5},
    {"class_token": False, "pool": "mean_norm"},
    {"pre_norm": True, "epsilon": 1e-5, "extra_tokens": 1},
    {"pool": "cls_mean", "extra_tokens": 1},
]


def make(seed=0, **changes):
    """A small ViT whose every weight is random: zeros and ones would hide mistakes."""
    keras.utils.set_random_seed(seed)
    model = ViT(ViTSpec(**SMALL | changes))
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(np.asarray(variable) + 0.3 * rng.standard_normal(variable.shape))
    return model


def some_inputs(seed=1, batch=3, visible=6, image_size=16, patch_size=4):
    """(images as patches [b, n, p*p*3], visible positions [b, v])."""
    rng = np.random.default_rng(seed)
    count = (image_size // patch_size) ** 2
    patches = rng.standard_normal((batch, count, 3 * patch_size**2)).astype(np.float32)
    places = np.stack([rng.permutation(count)[:visible] for _ in range(batch)])
    return patches, places.astype(np.int32)


def chosen(patches, places):
    return {
        "patches": np.take_along_axis(patches, places[..., None], axis=1),
        "positions": places,
    }


def encode(model, patches, places):
    return np.asarray(model(chosen(patches, places)))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_hidden_pixels_change_nothing(changes):
    model = make(**changes)
    patches, places = some_inputs()
    altered = patches + 1000.0
    np.put_along_axis(
        altered, places[..., None], np.take_along_axis(patches, places[..., None], 1), 1
    )
    assert not np.array_equal(patches, altered)
    np.testing.assert_array_equal(encode(model, patches, places), encode(model, altered, places))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_each_visible_pixel_matters_and_its_place_too(changes):
    model = make(**changes)
    patches, places = some_inputs(batch=1, visible=3)
    feature = encode(model, patches, places)
    for place in places[0]:
        altered = patches.copy()
        altered[0, place, 5] += 1.0
        assert np.abs(encode(model, altered, places) - feature).max() > 1e-5
    moved = chosen(patches, places)
    moved["positions"] = (moved["positions"] + 1) % 16
    assert np.abs(np.asarray(model(moved)) - feature).max() > 1e-5


def test_hidden_pixels_get_no_gradient_and_change_none():
    import tensorflow as tf

    model = make()
    patches, places = some_inputs()

    def gradients(pixels):
        pixels = tf.constant(pixels)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            seen = tf.gather(pixels, places, batch_dims=1)
            loss = tf.reduce_sum(model({"patches": seen, "positions": places}) ** 2)
        return tape.gradient(loss, [tf.convert_to_tensor(pixels), *model.trainable_variables])

    hidden = np.ones(patches.shape[:2], bool)
    np.put_along_axis(hidden, places, False, axis=1)
    altered = np.where(hidden[..., None], patches - 7.0, patches)
    first, second = gradients(patches), gradients(altered)
    pixels = tf.convert_to_tensor(first[0]).numpy()
    assert (pixels[hidden] == 0).all()
    assert (np.abs(pixels[~hidden]).max(axis=-1) > 0).all()
    for one, other in zip(first[1:], second[1:], strict=True):
        one, other = (tf.convert_to_tensor(g).numpy() for g in (one, other))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_order_of_the_visible_patches_does_not_matter(changes):
    model = make(**changes)
    patches, places = some_inputs()
    np.testing.assert_allclose(
        encode(model, patches, places),
        encode(model, patches, places[:, ::-1]),
        rtol=0,
        atol=1e-5,
    )


def test_tokens_come_in_the_order_cls_extra_patches():
    model = make(extra_tokens=2)
    patches, places = some_inputs()
    tokens = np.asarray(model.tokens(chosen(patches, places)))
    assert tokens.shape == (3, 1 + 2 + 6, 16)
    backwards = np.asarray(model.tokens(chosen(patches, places[:, ::-1])))
    np.testing.assert_allclose(tokens[:, :3], backwards[:, :3], atol=1e-5)
    np.testing.assert_allclose(tokens[:, 3:], backwards[:, :2:-1], atol=1e-5)
    np.testing.assert_array_equal(tokens[:, 0], encode(model, patches, places))


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75])
def test_masks_mean_what_they_mean_in_mae(ratio):
    """MAE's random_masking, transcribed: ids, token order, CLS in front, and the mask's polarity.

    Source: github.com/facebookresearch/mae, models_mae.py, random_masking and forward_encoder.
    """
    model = make()
    patches, _ = some_inputs()
    noise = np.random.default_rng(0).random((3, 16))
    len_keep = int(16 * (1 - ratio))
    ids_shuffle = np.argsort(noise, axis=1)
    ids_restore = np.argsort(ids_shuffle, axis=1)
    ids_keep = ids_shuffle[:, :len_keep]
    mask = np.ones((3, 16))  # 0 is keep, 1 is remove
    mask[:, :len_keep] = 0
    mask = np.take_along_axis(mask, ids_restore, axis=1)
    np.testing.assert_array_equal(np.asarray(visible_from_positions(ids_keep, 16)), mask == 0)

    # All patches get their positions, then those of ids_keep stay, then CLS goes in front.
    x = np.asarray(model.embed(patches)) + np.asarray(model.position_table)
    x = np.take_along_axis(x, ids_keep[..., None], axis=1)
    x = np.concatenate([np.tile(np.asarray(model.cls_token), (3, 1, 1)), x], axis=1)
    for block in model.blocks:
        x = block(x)
    tokens = model.tokens(chosen(patches, ids_keep.astype(np.int32)))
    np.testing.assert_allclose(tokens, model.norm(x), rtol=0, atol=1e-5)


def test_pools():
    patches, places = some_inputs()
    normalised = make(pool="mean")
    tokens = np.asarray(normalised.tokens(chosen(patches, places)))
    np.testing.assert_allclose(
        encode(normalised, patches, places), tokens[:, 1:].mean(axis=1), atol=1e-6
    )
    late = make(pool="mean_norm")
    raw = np.asarray(late.raw_tokens(chosen(patches, places)))[:, 1:].mean(axis=1)
    np.testing.assert_allclose(encode(late, patches, places), late.norm(raw), atol=1e-6)
    both = make(pool="cls_mean")
    assert (both.feature_dim, both.spec.width) == (32, 16)
    wanted = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=-1)
    np.testing.assert_allclose(encode(both, patches, places), wanted, atol=1e-6)


def numpy_vit(model, patches, places):
    """The whole network in float64 from its definition."""
    value = {v.path.removeprefix(f"{model.name}/"): np.float64(v) for v in model.variables}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + model.spec.epsilon)
        return x * value[f"{name}/scale"] + value[f"{name}/offset"]

    def dense(x, name):
        return x @ value[f"{name}/kernel"] + value[f"{name}/bias"]

    def activate(x):
        if model.spec.activation == "quick_gelu":
            return x / (1 + np.exp(-1.702 * x))
        if model.spec.activation == "swiglu":
            gate, rest = np.split(x, 2, axis=-1)
            return gate / (1 + np.exp(-gate)) * rest
        if model.spec.activation == "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))

    features = []
    for one, seen in zip(patches.astype(np.float64), places, strict=True):
        x = dense(one[seen], "embed") + value["position_table"][seen]
        ahead = [value[n][0] for n in ("cls_token", "extra_tokens") if n in value]
        x = np.concatenate([*ahead, x])
        if model.spec.pre_norm:
            x = norm(x, "norm_pre")
        for i in range(model.spec.depth):
            y = dense(norm(x, f"block_{i}/norm1"), f"block_{i}/qkv")
            heads = []
            for head in range(model.spec.num_heads):
                size = model.spec.width // model.spec.num_heads
                q, k, v = (
                    y[:, part * model.spec.width + head * size :][:, :size] for part in range(3)
                )
                scores = np.exp(q @ k.T / np.sqrt(size))
                heads.append(scores / scores.sum(-1, keepdims=True) @ v)
            x = x + dense(np.concatenate(heads, -1), f"block_{i}/proj")
            y = dense(norm(x, f"block_{i}/norm2"), f"block_{i}/fc1")
            x = x + dense(activate(y), f"block_{i}/fc2")
        patch_tokens = x[model.spec.num_prefix_tokens :]
        if model.spec.pool == "mean_norm":
            features.append(norm(patch_tokens.mean(0), "norm"))
        elif model.spec.pool == "mean":
            features.append(norm(patch_tokens, "norm").mean(0))
        elif model.spec.pool == "cls_mean":
            features.append(
                np.concatenate([norm(x, "norm")[0], norm(patch_tokens, "norm").mean(0)])
            )
        else:
            features.append(norm(x, "norm")[0])
    return np.stack(features)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_equals_its_definition_in_float64(changes):
    model = make(**changes)
    patches, places = some_inputs()
    np.testing.assert_allclose(
        encode(model, patches, places), numpy_vit(model, patches, places), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    "changes",
    [pytest.param(v, marks=[pytest.mark.large] * (v not in VARIANTS[3:5])) for v in VARIANTS],
    ids=str,
)
def test_vit_survives_get_config_and_saving(changes, tmp_path):
    model = make(**changes)
    patches, places = some_inputs()
    feature = encode(model, patches, places)
    twin = ViT.from_config(model.get_config())
    assert twin.get_config() == model.get_config()
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(encode(twin, patches, places), feature)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(encode(loaded, patches, places), feature)

    model.save_weights(tmp_path / "model.weights.h5")
    other = make(seed=5, **changes)
    assert not np.array_equal(encode(other, patches, places), feature)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(encode(other, patches, places), feature)


@pytest.mark.parametrize(
    "layer",
    [LayerNorm(epsilon=1e-3), *(Block(2, 12, name, 1e-5) for name in ACTIVATIONS)],
    ids=lambda layer: getattr(layer, "activation", "norm"),
)
def test_layers_survive_get_config_and_saving(layer, tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, layer(inputs))
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(1).standard_normal(variable.shape))
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    twin.build((None, 5, 8))
    twin.set_weights(layer.get_weights())
    np.testing.assert_allclose(twin(x), model(x), rtol=0, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].get_config() == layer.get_config()
    np.testing.assert_array_equal(loaded(x), model(x))


def test_layer_norm_is_keras_layer_norm():
    x = np.random.default_rng(0).standard_normal((4, 7, 32)).astype(np.float32) * 3 + 5
    ours, theirs = LayerNorm(1e-5), keras.layers.LayerNormalization(epsilon=1e-5)
    ours.build(x.shape)
    theirs.build(x.shape)
    values = np.random.default_rng(1).standard_normal((2, 32)).astype(np.float32)
    ours.set_weights(values)
    theirs.set_weights(values)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=0, atol=2e-5)


def test_no_tensor_has_more_than_four_dimensions():
    import tensorflow as tf

    model = make(extra_tokens=1)
    shapes = {"patches": (3, 6, 48), "positions": (3, 6)}
    function = tf.function(model).get_concrete_function(
        {
            "patches": tf.TensorSpec(shapes["patches"], tf.float32),
            "positions": tf.TensorSpec(shapes["positions"], tf.int32),
        }
    )
    ranks = [t.shape.rank for op in function.graph.get_operations() for t in op.outputs]
    assert len(ranks) > 100
    assert max(rank for rank in ranks if rank is not None) <= 4


def test_cost_falls_with_the_visible_patches():
    import tensorflow as tf

    model = make()

    def largest(visible):
        function = tf.function(model).get_concrete_function(
            {
                "patches": tf.TensorSpec((1, visible, 48), tf.float32),
                "positions": tf.TensorSpec((1, visible), tf.int32),
            }
        )
        ops = function.graph.get_operations()
        sizes = [
            int(np.prod(t.shape))
            for op in ops
            if op.type not in ("Const", "ReadVariableOp", "Placeholder")
            for t in op.outputs
            if t.dtype == tf.float32 and t.shape.rank == 3
        ]
        return max(sizes)

    hidden = 4 * 16  # the widest tensor: the MLP's hidden layer of every token
    assert largest(4) == (1 + 4) * hidden
    assert largest(16) == (1 + 16) * hidden


def test_sincos_positions_are_those_of_mae():
    table = sincos_positions(3, 8).reshape(3, 3, 8)
    assert table.dtype == np.float32
    for row in range(3):
        for column in range(3):
            expected = []
            for place in (column, row):  # MAE: the width coordinate goes first
                angles = [place / 10000 ** (2 * k / 4) for k in range(2)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            np.testing.assert_allclose(table[row, column], expected, atol=1e-7)
    with pytest.raises(ValueError, match="width=6"):
        sincos_positions(3, 6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_size": 5}, "image_size=16.*patch_size=5"),
        ({"num_heads": 3}, "width=16.*num_heads=3"),
        ({"activation": "relu"}, "activation='relu'.*quick_gelu"),
        ({"positions": "rotary"}, "positions='rotary'"),
        ({"pool": "max"}, "pool='max'.*cls"),
        ({"class_token": False, "pool": "cls"}, "pool='cls'.*mean"),
        ({"class_token": False, "pool": "cls_mean"}, "pool='cls_mean'.*mean, mean_norm"),
    ],
)
def test_impossible_arguments_are_named(changes, told):
    with pytest.raises(ValueError, match=told):
        ViT(ViTSpec(**SMALL | changes))


def test_bfloat16_computes_in_bfloat16_and_stays_close():
    model = make()
    low = ViT(ViTSpec(**SMALL), dtype="mixed_bfloat16")
    low.set_weights(model.get_weights())
    patches, places = some_inputs()
    feature = low(chosen(patches, places))
    assert keras.backend.standardize_dtype(feature.dtype) == "bfloat16"
    exact = encode(model, patches, places)
    close = np.asarray(keras.ops.cast(feature, "float32"))
    assert np.abs(close - exact).max() < 0.1 * np.abs(exact).max()


def test_fit_trains_a_head_behind_it():
    """A ViT is an ordinary Keras model: fit works on it."""
    model = make()
    patches, places = some_inputs(batch=32)
    patches[:16] += 1.0
    labels = np.arange(32) // 16
    inputs = {"patches": keras.Input((6, 48), name="patches")}
    inputs["positions"] = keras.Input((6,), dtype="int32", name="positions")
    classifier = keras.Model(inputs, keras.layers.Dense(2)(model(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.Adam(1e-2), loss=loss, metrics=["accuracy"])
    history = classifier.fit(chosen(patches, places), labels, epochs=5, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
