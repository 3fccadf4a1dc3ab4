"""Features: hidden pixels don't matter, nor do batches or workers; the cache is never trusted."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.writing import save_encoder
from sparse_ist_tf.codec.transport import Transport
from sparse_ist_tf.encoder.cache import cache_path, load_features, save_features
from sparse_ist_tf.encoder.features import FeatureOptions, Features, make_encode
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.split import ArraySource, Split
from sparse_ist_tf.masks import GRIDS, KINDS, PATTERNS, MaskOptions
from sparse_ist_tf.workers.link import Link

MASKS, PLAIN = MaskOptions("fixed", 0.5), Transport()
KNOWN_KEY = "a3cebe219ac43f77aa23bd8aca078cc083f27e96014378c34ded168d31b97e09"


@pytest.fixture(scope="module")
def encoder_path(tmp_path_factory):
    """A file of one block as wide as vit_pico's, of which graphs are built soon."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "one_block.safetensors"
    save_encoder(path, create_encoder("vit_pico", depth=1), (0.5,) * 3, (0.5,) * 3)
    return str(path)


@pytest.fixture(scope="module")
def encoder(encoder_path):
    return load_encoder(encoder_path)


@pytest.fixture(scope="module")
def test_split():
    return datasets.load("digits")["test"]


def _shared(encoder, split, cache_dir, masks=MASKS, epoch=0, transport=PLAIN):
    features = Features(encoder, masks, transport, FeatureOptions(cache_dir=str(cache_dir)))
    return features.of(split, Link.alone(), epoch, progress=False)


def _encode(encoder, split, masks=MASKS, *, transport=PLAIN, batch_size=64, **part):
    features = Features(encoder, masks, transport, FeatureOptions(batch_size=batch_size))
    return features.encode(split, progress=False, **part)


def _key(encoder, split, masks=MASKS, dtype="float32", transport=PLAIN):
    return Features(encoder, masks, transport, FeatureOptions(dtype)).key(split)


def test_hidden_pixels_change_nothing(encoder):
    encode = make_encode(encoder)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 64, 64, 3), np.uint8)
    places = MASKS.positions(np.arange(8), encoder.num_patches)
    visible = np.zeros((8, 64), bool)
    np.put_along_axis(visible, places, True, axis=1)
    pixels = visible.reshape(8, 8, 8).repeat(8, axis=1).repeat(8, axis=2)[..., None]
    other = np.where(pixels, images, rng.integers(0, 256, images.shape, np.uint8))
    assert (other != images).mean() > 0.4
    assert np.array_equal(encode(images, places), encode(other, places))
    changed = np.where(pixels, other ^ 1, other)
    assert not np.allclose(encode(images, places), encode(changed, places))


def test_a_gradient_stops_at_hidden_pixels(encoder):
    from sparse_ist_tf.masks import select_patches

    images = tf.random.stateless_uniform((2, 64, 64, 3), (0, 1))
    places = MASKS.positions(np.arange(2), encoder.num_patches)
    with tf.GradientTape() as tape:
        tape.watch(images)
        patches = select_patches(images, places, 8)
        total = tf.reduce_sum(encoder.model({"patches": patches, "positions": places}) ** 2)
    gradient = tape.gradient(total, images).numpy()
    per_patch = np.abs(gradient).reshape(2, 8, 8, 8, 8, 3).sum(axis=(2, 4, 5)).reshape(2, 64)
    visible = np.zeros((2, 64), bool)
    np.put_along_axis(visible, places, True, axis=1)
    assert (per_patch[~visible] == 0).all()
    assert (per_patch[visible] > 0).all()


def test_batches_and_shares_change_nothing(encoder, test_split):
    whole = _encode(encoder, test_split)
    assert whole.shape == (360, 96)
    for start, stop in ((0, 64), (64, 360), (128, 130)):
        part = _encode(encoder, test_split, start=start, stop=stop)
        assert np.array_equal(part, whole[start:stop])
    small = _encode(encoder, test_split, stop=20, batch_size=7)
    np.testing.assert_allclose(small, whole[:20], atol=1e-5)


def test_bfloat16_is_near(encoder, encoder_path, test_split):
    low = load_encoder(encoder_path, dtype="bfloat16")
    a = _encode(encoder, test_split, stop=64)
    b = _encode(low, test_split, stop=64)
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).mean() < 0.05


def test_a_second_run_encodes_nothing(encoder, test_split, tmp_path, monkeypatch):
    first = _shared(encoder, test_split, tmp_path)
    monkeypatch.setattr(Features, "encode", None)
    assert np.array_equal(_shared(encoder, test_split, tmp_path), first)
    assert len(list(tmp_path.iterdir())) == 1


def test_random_masks_are_encoded_every_epoch_and_not_kept(encoder, test_split, tmp_path):
    masks = MaskOptions("random", 0.5)
    first, second = (_shared(encoder, test_split, tmp_path, masks, epoch) for epoch in (0, 1))
    assert not np.allclose(first, second)
    assert not list(tmp_path.iterdir())


def test_views_are_those_of_their_epochs_in_any_order(encoder, test_split):
    masks = MaskOptions("random", 0.5)
    features = Features(encoder, masks, options=FeatureOptions(batch_size=32))
    rows = np.array([*range(7, 360), *[3, 9, 200] * 40, *range(100), 40, 40, 39])
    epochs = np.repeat([0, 1, 2], [360, len(rows) - 400, 40])
    found = features.of_views(test_split, rows, epochs, Link.alone(), progress=False)
    for epoch in range(3):
        whole = features.encode(test_split, epoch=epoch, progress=False)
        some = epochs == epoch
        np.testing.assert_allclose(found[some], whole[rows[some]], atol=1e-5)


@pytest.mark.parametrize("damage", ["flip", "cut", "header", "empty"])
def test_a_damaged_cache_is_not_used(encoder, test_split, tmp_path, capsys, damage):
    first = _shared(encoder, test_split, tmp_path)
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    changed = {
        "flip": data[:-1] + bytes([data[-1] ^ 1]),
        "cut": data[: len(data) // 2],
        "header": b"{" + data,
        "empty": b"",
    }[damage]
    file.write_bytes(changed)
    assert np.array_equal(_shared(encoder, test_split, tmp_path), first)
    assert f"{file} is damaged and not used" in capsys.readouterr().err
    assert file.read_bytes() == data, "and it is whole again"


def test_a_cache_made_by_another_key_is_not_used(tmp_path):
    save_features(tmp_path / "f", "one", np.ones((2, 3), np.float32))
    assert load_features(tmp_path / "f", "one").shape == (2, 3)
    assert load_features(tmp_path / "f", "two") is None


def test_a_cache_that_cannot_be_written_is_a_warning(encoder, test_split, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    _shared(encoder, test_split, tmp_path / "file" / "cache")
    assert "features are not cached" in capsys.readouterr().err


def test_the_key_holds_what_features_depend_on(test_split):
    encoder = load_encoder("random:vit_pico")
    base = _key(encoder, test_split, MASKS)
    train = datasets.load("digits")["train"]
    others = [
        _key(load_encoder("random:vit_pico?seed=1"), test_split, MASKS),
        _key(encoder, train, MASKS),
        _key(encoder, datasets.load("digits", split_seed=1)["test"], MASKS),
        _key(encoder, test_split, MASKS, "bfloat16"),
        *(
            _key(encoder, test_split, dataclasses.replace(MASKS, **change))
            for change in ({"kind": "shared"}, {"ratio": 0.25}, {"seed": 1})
        ),
    ]
    assert len({base, *others}) == 1 + len(others)
    assert _key(load_encoder("random:vit_pico"), test_split, MASKS) == base
    # Where nothing is hidden, no seed matters.
    whole = [_key(encoder, test_split, MaskOptions("fixed", 0.0, seed=s)) for s in (0, 1)]
    assert whole[0] == whole[1]


def test_the_cache_is_below_the_users_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path("", "k").parent == tmp_path / "sparse_ist_tf" / "features"
    assert cache_path("here", "k").parent.name == "here"


def test_features_that_are_not_finite_are_refused(encoder_path, test_split, tmp_path):
    broken = load_encoder(encoder_path)
    broken.model.norm.scale.assign(np.full(96, np.nan))
    with pytest.raises(RunError, match="digits/test: not all features are finite"):
        _shared(broken, test_split, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_features_are_of_what_the_receiver_decodes(encoder, test_split, kind, grid):
    from sparse_ist_tf.codec.packing import cut, join, pack_patches, unpack_patches

    masks = MaskOptions(kind, 0.5, grid=grid)
    scaling = masks.scaling(64, 8)
    options = {"stop": 9, "batch_size": 7, "epoch": 2}

    def encoded(*link):
        return _encode(encoder, test_split, masks, transport=Transport(*link), **options)

    sent = encoded("patches", 20)
    pictures = [row["image"].numpy() for row in test_split.dataset(scaling.sent, stop=9)]
    assert pictures[0].shape == ((8, 8, 3) if grid == "sensor" else (64, 64, 3))
    places = masks.positions(np.arange(9), 64, 2)
    images, differ = [], 0
    for picture, positions in zip(pictures, places, strict=True):
        message = pack_patches(picture, positions, (8, 8), quality=20)
        whole = cut(picture, (8, 8)).numpy()
        patches = np.zeros_like(whole)
        patches[positions] = unpack_patches(message)[0]
        images.append(scaling.seen(join(patches, (8, 8))))
        differ += (patches != whole)[positions].sum()
    assert differ
    expected = make_encode(encoder)(np.stack(images), places).numpy()
    np.testing.assert_allclose(sent, expected, atol=1e-5)
    plain = encoded()
    assert np.array_equal(encoded("raw"), plain)
    assert np.abs(plain - sent).max() > 1e-3
    assert np.abs(plain - encoded("jpeg", 20)).max() > 1e-3


def _hidden_changed(image, positions, side, rng):
    """The image with other pixels wherever a cell is hidden, and how many they are."""
    height, width = image.shape[:2]
    rows = np.searchsorted(np.arange(1, side) * height // side, np.arange(height), side="right")
    columns = np.searchsorted(np.arange(1, side) * width // side, np.arange(width), side="right")
    hidden = ~np.isin(rows[:, None] * side + columns, positions)[..., None]
    return np.where(hidden, rng.integers(0, 256, image.shape, np.uint8), image), hidden.sum()


@pytest.mark.parametrize("codec", ["none", pytest.param("raw", marks=pytest.mark.large), "patches"])
@pytest.mark.parametrize(
    ("kind", "shape"), [("fixed", (32, 32)), ("random", (100, 77)), ("shared", (9, 130))]
)
def test_hidden_pixels_of_the_sensor_reach_no_feature(encoder, shape, kind, codec):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, *shape, 3), np.uint8)
    masks = MaskOptions(kind, 0.5, seed=3)
    places = masks.positions(np.arange(5), 64, 1)
    pairs = [_hidden_changed(*pair, 8, rng) for pair in zip(images, places, strict=True)]
    others = np.stack([image for image, _ in pairs])
    assert min(count for _, count in pairs) > 0.3 * shape[0] * shape[1]

    def features(images, grid="sensor"):
        split = Split("x", ArraySource(images), np.zeros(5, int), ("a",), "0")
        given = dataclasses.replace(masks, grid=grid)
        return _encode(encoder, split, given, transport=Transport(codec), epoch=1)

    seen = features(images)
    assert np.array_equal(seen, features(others))
    assert not np.array_equal(seen, features(images ^ 16))
    if codec == "none":
        assert not np.array_equal(features(images, "scaled"), features(others, "scaled"))


def test_both_grids_are_the_same_where_nothing_is_scaled(encoder):
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    split = Split("x", ArraySource(images), np.zeros(5, int), ("a",), "0")
    sensor, scaled = (
        _encode(encoder, split, MaskOptions("fixed", 0.5, grid=grid)) for grid in GRIDS
    )
    assert np.array_equal(sensor, scaled)


def test_numbers_of_features_share_a_cache(encoder, test_split, tmp_path, monkeypatch):
    from sparse_ist_tf.codec.messages import pack_feature, unpack_feature

    plain = _shared(encoder, test_split, tmp_path)
    monkeypatch.setattr(Features, "encode", None)
    small = _shared(encoder, test_split, tmp_path, transport=Transport(features="int8"))
    again = [unpack_feature(pack_feature(feature, "int8")) for feature in plain]
    assert np.array_equal(small, again)
    assert not np.array_equal(small, plain)


def test_a_codec_has_a_cache_of_its_own(encoder, test_split, tmp_path):
    link = Transport("patches", 20)
    first = _shared(encoder, test_split, tmp_path, transport=link)
    plain = _shared(encoder, test_split, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert np.array_equal(_shared(encoder, test_split, tmp_path, transport=link), first)
    assert not np.array_equal(first, plain)
    raw = _key(encoder, test_split, MASKS, transport=Transport("raw"))
    assert raw == _key(encoder, test_split, MASKS)
    assert _key(encoder, test_split, MASKS, transport=Transport("jpeg", 20)) not in {
        raw,
        _key(encoder, test_split, MASKS, transport=link),
        _key(encoder, test_split, MASKS, transport=Transport("jpeg", 21)),
    }


class Known:
    """What the key reads of an encoder."""

    digest, num_patches, mean, std, image_size = "ab", 64, (0.5,) * 3, (0.5,) * 3, 64


def test_keys_of_caches_that_exist_stay(test_split):
    """Someone's cache would be encoded anew otherwise: raise _FORMAT if that is meant."""
    split = dataclasses.replace(test_split, fingerprint="cd")
    masks = dataclasses.replace(MASKS, grid="scaled")
    assert _key(Known(), split, masks) == KNOWN_KEY
    assert _key(Known(), split, MASKS) != KNOWN_KEY


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_both_grids_have_their_own_features(test_split, ratio):
    keys = {_key(Known(), test_split, MaskOptions("fixed", ratio, grid=grid)) for grid in GRIDS}
    assert len(keys) == 2


masks_of_a_case = st.builds(
    MaskOptions,
    kind=st.sampled_from(KINDS),
    ratio=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    pattern=st.sampled_from(PATTERNS),
    seed=st.integers(0, 2),
)


@settings(max_examples=200, deadline=None)
@given(one=masks_of_a_case, other=masks_of_a_case)
def test_masks_share_a_key_if_and_only_if_they_are_the_same(test_split, one, other):
    positions = [masks.positions(np.arange(4), 64, epoch=3) for masks in (one, other)]
    same = np.array_equal(*positions)
    assert (_key(Known(), test_split, one) == _key(Known(), test_split, other)) == same


def test_patterned_masks_of_seed_0_keep_their_keys(test_split):
    """As fixed masks and uniform shared ones do, they had their options in the key before."""
    masks = MaskOptions("shared", 0.5, "grid")
    assert masks.canonical() == masks
    assert MaskOptions("fixed", 0.5, seed=4).canonical() == MaskOptions("fixed", 0.5, seed=4)
