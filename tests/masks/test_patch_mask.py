import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.masks import (
    MaskOptions,
    PatchMask,
    fixed_positions,
    patchify,
    visible_from_positions,
)


def hidden_by(layer, inputs, patch_size=8):
    """bool[b, patches], True where every pixel was painted; asserts that the rest is untouched."""
    before = inputs["images"] if isinstance(inputs, dict) else inputs
    after = layer(inputs)
    after = np.asarray(after["images"] if isinstance(after, dict) else after)
    assert after.dtype == before.dtype
    assert after.shape == before.shape
    painted = (patchify(after, patch_size) == 128).all(axis=-1)
    assert np.array_equal(
        patchify(after, patch_size)[~painted], patchify(np.asarray(before), patch_size)[~painted]
    )
    return painted


def pictures(count=4, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 100, (count, 32, 32, 3)).astype(dtype)


@pytest.mark.parametrize("kind", ["fixed", "random", "shared"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_paints_exactly_the_hidden_patches(kind, dtype):
    inputs = {"images": pictures(dtype=dtype), "indices": np.arange(7, 11), "epoch": np.int64(3)}
    painted = hidden_by(PatchMask(kind, 0.75, 8, seed=5, fill=128), inputs)
    places = MaskOptions(kind, 0.75, seed=5).positions(np.arange(7, 11), 16, epoch=3)
    np.testing.assert_array_equal(painted, ~visible_from_positions(places, 16))


def test_one_image_is_masked_like_a_batch_of_one():
    images = pictures()
    layer = PatchMask("fixed", 0.5, 8)
    batch = layer({"images": images, "indices": np.arange(4)})["images"]
    for i in range(4):
        single = layer({"images": images[i], "indices": np.int64(i)})["images"]
        np.testing.assert_array_equal(single, batch[i])


def test_random_masks_without_an_epoch_are_drawn_anew():
    images = pictures()
    layer = PatchMask("random", 0.5, 8, fill=128)
    first, second = hidden_by(layer, images), hidden_by(layer, images)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert (first.sum(axis=1) == 8).all()


def test_fixed_masks_need_indices():
    with pytest.raises(ValueError, match="indices"):
        PatchMask("fixed", 0.5, 8)(pictures())


def test_fill_may_be_a_colour_and_is_rounded_for_integers():
    out = PatchMask("shared", 0.75, 16, pattern="center", fill=(1, 2, 3))(pictures())
    assert {tuple(p) for p in np.asarray(out)[:, 20, 20]} == {(1, 2, 3)}
    out = PatchMask("shared", 0.75, 16, pattern="center")(np.zeros((1, 32, 32, 3), "uint8"))
    assert out.numpy().max() == 128
    out = PatchMask("shared", 0.75, 16, pattern="center")(np.zeros((1, 32, 32, 3), "float32"))
    assert out.numpy().max() == 127.5


def test_precision_policies_leave_pixels_alone():
    images = np.full((1, 16, 16, 3), 100.123, np.float32)
    out = PatchMask("shared", 0.5, 8, dtype="mixed_bfloat16")(images)
    assert out.dtype == tf.float32
    assert set(out.numpy().ravel()) == {np.float32(100.123), np.float32(127.5)}


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "fixed", "mask_ratio": 0.5, "patch_size": 8, "seed": 3},
        {"kind": "random", "mask_ratio": 0.25, "patch_size": 4, "fill": 0.0},
        {
            "kind": "shared",
            "mask_ratio": 0.9,
            "patch_size": 8,
            "pattern": "grid",
            "fill": (1, 2, 3),
        },
    ],
)
def test_config_round_trip(arguments):
    layer = PatchMask(**arguments, name="masked")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, PatchMask)
    assert again.get_config() == layer.get_config()
    inputs = {"images": pictures(), "indices": np.arange(4), "epoch": np.int64(1)}
    np.testing.assert_array_equal(again(inputs)["images"], layer(inputs)["images"])


def test_saves_in_a_model(tmp_path):
    inputs = keras.Input((32, 32, 3))
    outputs = PatchMask("shared", 0.5, 8, pattern="grid")(inputs)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    images = pictures(dtype="float32")
    np.testing.assert_array_equal(again(images), model(images))


def test_works_in_a_keras_cv_pipeline():
    import keras_cv

    pipeline = keras_cv.layers.Augmenter(
        [
            keras_cv.layers.RandomFlip("horizontal", seed=1),
            PatchMask("fixed", 0.75, 8, seed=2, fill=128),
        ]
    )
    images, labels = pictures(40, "float32"), np.arange(40)
    data = tf.data.Dataset.from_tensor_slices({"images": images, "labels": labels})
    data = data.enumerate().map(lambda i, row: {**row, "indices": i})
    batches = list(data.batch(8).map(pipeline).as_numpy_iterator())
    assert np.concatenate([b["labels"] for b in batches]).tolist() == labels.tolist()
    after = np.concatenate([b["images"] for b in batches])
    painted = (patchify(after, 8) == 128).all(axis=-1)
    places = fixed_positions(2, np.arange(40), 16, 0.75)
    np.testing.assert_array_equal(painted, ~visible_from_positions(places, 16))


def test_random_masks_work_in_a_pipeline():
    layer = PatchMask("random", 0.5, 8, fill=128)
    data = tf.data.Dataset.from_tensor_slices(pictures(64)).map(layer, num_parallel_calls=2)
    painted = (patchify(np.stack(list(data.as_numpy_iterator())), 8) == 128).all(axis=-1)
    assert (painted.sum(axis=1) == 8).all()
    assert len(np.unique(painted, axis=0)) > 60


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("often", 0.5, 8), "kind='often'"),
        (("fixed", 1.0, 8), "mask_ratio=1.0"),
        (("fixed", float("nan"), 8), "mask_ratio=nan"),
        (("fixed", 0.5, 0), "patch_size=0"),
        (("shared", 0.5, 8, 0, "spiral"), "pattern='spiral'"),
    ],
)
def test_impossible_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        PatchMask(*arguments)


def test_patches_must_fit():
    with pytest.raises(ValueError, match="patch_size=7"):
        PatchMask("shared", 0.5, 7)(pictures())
