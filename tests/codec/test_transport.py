"""What is behind a thin link is what its messages say, and its bytes are those of the messages."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_ist_tf.codec.messages import unpack_feature
from sparse_ist_tf.codec.packing import (
    MaskSeed,
    count_bytes,
    pack_feature,
    pack_patches,
    unpack_patches,
)
from sparse_ist_tf.codec.transport import Transport, with_positions
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.split import ArraySource, Split
from sparse_ist_tf.masks import MaskOptions, Scaling, fixed_positions, select_patches


def draw(indices):
    return fixed_positions(0, indices, 16, 0.5)


@pytest.fixture(scope="module")
def photos():
    """21 colourful pictures of 32 pixels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (21, 8, 8, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    labels = np.arange(21, dtype=np.int32) % 3
    return Split("photos/test", ArraySource(coarse), labels, ("a", "b", "c"), "0")


def received(photos, link, batch_size=8, **some):
    """(images, positions, indices) behind a link."""
    scaling = Scaling(32, 8)
    rows = link.seen_images(photos.dataset(scaling.sent, **some), draw, scaling, batch_size)
    batches = list(rows.as_numpy_iterator())
    assert [len(b["index"]) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
    return [np.concatenate([b[k] for b in batches]) for k in ("image", "positions", "index")]


def test_patches_are_those_of_the_message(photos):
    images, places, indices = received(photos, Transport("patches", 40))
    assert indices.tolist() == list(range(21))
    np.testing.assert_array_equal(places, draw(indices))
    patches = select_patches(images, places, 8)
    for i, original in enumerate(photos.source.images):
        message = pack_patches(original, places[i], (4, 4), quality=40, mask=MaskSeed(0, i))
        np.testing.assert_array_equal(patches[i], unpack_patches(message)[0].reshape(8, 192))
    assert not np.array_equal(patches, select_patches(photos.source.images, places, 8))


def test_whole_images_are_those_of_a_jpeg(photos):
    images, _, _ = received(photos, Transport("jpeg", 40))
    for image, original in zip(images, photos.source.images, strict=True):
        data = tf.io.encode_jpeg(original, quality=40)
        np.testing.assert_array_equal(image, tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE"))
    finer, _, _ = received(photos, Transport("jpeg", 95))

    def error(images):
        return np.abs(images.astype(float) - photos.source.images).mean()

    assert 0 < error(finer) < error(images)


@pytest.mark.parametrize("codec", ["none", "raw", "patches"])
@pytest.mark.parametrize("side", [64, pytest.param(48, marks=pytest.mark.large), 16])
def test_what_arrives_is_the_sensor_s_own_pixels(photos, codec, side):
    """4 or 16 pixels a patch cross, never their enlargement."""
    scaling = Scaling(side, side // 4)
    pixels = min(8, scaling.patch_size)
    rows = photos.dataset(scaling.sent)
    assert rows.element_spec["image"].dtype == tf.uint8
    for row in Transport(codec, 90).received(rows, draw, scaling).as_numpy_iterator():
        assert row["picture"].shape == (4 * pixels, 4 * pixels, 3)
        np.testing.assert_array_equal(row["image"], scaling.seen(row["picture"]))
        sent = next(iter(photos.pick(scaling.sent, [row["index"]])))["image"]
        here, there = (
            select_patches(x[None], row["positions"][None], pixels)
            for x in (row["picture"], sent.numpy())
        )
        if codec == "patches":
            assert np.abs(here.astype(int) - there).mean() < 20
        else:
            np.testing.assert_array_equal(here, there)
    found = Transport().bytes_per_image(photos, MaskOptions("fixed", 0.5), scaling)
    assert found["patches_raw"] == 8 * pixels * pixels * 3 + 16


@pytest.mark.parametrize("codec", ["raw", "patches"])
def test_hidden_pixels_never_arrive(photos, codec):
    images, places, _ = received(photos, Transport(codec, 100))
    hidden = np.array([np.setdiff1d(np.arange(16), row) for row in places])
    assert not select_patches(images, hidden, 8).any()
    visible = select_patches(photos.source.images, places, 8)
    if codec == "raw":
        np.testing.assert_array_equal(select_patches(images, places, 8), visible)


def test_no_codec_leaves_images_alone(photos):
    images, places, _ = received(photos, Transport())
    np.testing.assert_array_equal(images, photos.source.images)
    np.testing.assert_array_equal(places, draw(np.arange(21)))


@pytest.mark.parametrize("codec", ["none", "jpeg", "patches", "raw"])
def test_batches_and_shares_change_nothing(photos, codec):
    link = Transport(codec, 50)
    whole = received(photos, link)
    part = received(photos, link, batch_size=5, start=3, stop=20)
    for all_of_them, some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(all_of_them[3:20], some)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_features_are_those_of_the_messages(dtype):
    features = np.random.default_rng(1).normal(size=(40, 12)).astype(np.float32)
    features[3], features[4] = 0, 1e-45
    found = Transport(features=dtype).sent_features(features)
    assert found.dtype == np.float32
    expected = [unpack_feature(pack_feature(feature, dtype)) for feature in features]
    np.testing.assert_array_equal(found, expected)
    assert np.array_equal(found, features) == (dtype == "float32")


def test_features_too_large_for_their_numbers_are_named():
    with pytest.raises(RunError, match=r"transport.features='float16': feature up to 100000"):
        Transport(features="float16").sent_features(np.full((2, 3), 1e5, np.float32))


def test_only_codecs_that_change_pixels_have_a_key():
    assert Transport("none", 3).images_key is None
    assert Transport("raw", 3).images_key is None
    keys = {Transport(c, q).images_key for c in ("jpeg", "patches") for q in (3, 4)}
    assert len(keys - {None}) == 4


@pytest.mark.parametrize(("kind", "epoch"), [("fixed", None), ("random", 0)])
def test_bytes_are_means_of_what_single_images_cost(photos, kind, epoch):
    masks = MaskOptions(kind, 0.5)
    found = Transport(quality=60).bytes_per_image(photos, masks, Scaling(32, 8), feature_dim=12)
    form = {"quality": 60, "feature_dim": 12}
    pairs = zip(photos.source.images, masks.positions(np.arange(21), 16), strict=True)
    single = [
        count_bytes(*pair, (4, 4), mask=MaskSeed(0, i, epoch), **form)
        for i, pair in enumerate(pairs)
    ]
    assert found.pop("images") == 21
    assert found == {name: np.mean([sizes[name] for sizes in single]) for name in single[0]}


def test_bytes_of_some_images_are_drawn_with_a_seed(photos):
    def sizes(seed):
        masks = MaskOptions("fixed", 0.5)
        return Transport().bytes_per_image(photos, masks, Scaling(32, 8), count=5, seed=seed)

    assert sizes(0) == sizes(0) != sizes(1)
    assert sizes(0)["images"] == 5


def test_a_shared_mask_has_no_seed_to_send(photos):
    masks = MaskOptions("shared", 0.5)
    found = Transport().bytes_per_image(photos, masks, Scaling(32, 8), count=5)
    assert found["patches_jpeg"] == found["patches_jpeg_bitmap"]
    assert "feature_int8" not in found


def test_positions_have_a_known_shape(photos):
    rows = with_positions(photos.dataset(32, batch_size=4), draw)
    assert rows.element_spec["positions"].shape == (None, 8)


def test_some_images_of_a_split(photos):
    rows = list(photos.pick(32, [2, 3, 17]).as_numpy_iterator())
    assert [row["index"] for row in rows] == [2, 3, 17]
    assert [row["label"] for row in rows] == [2, 0, 2]
    np.testing.assert_array_equal(rows[2]["image"], photos.source.images[17])
    assert not list(photos.pick(32, []))
    digits = datasets.load("digits")["test"]
    [picked] = digits.pick(16, [9]).as_numpy_iterator()
    [read] = digits.dataset(16, start=9, stop=10).as_numpy_iterator()
    np.testing.assert_array_equal(picked["image"], read["image"])
