import os
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ist_tf.codec import messages
from sparse_ist_tf.codec.messages import unpack_feature
from sparse_ist_tf.codec.packing import (
    MaskSeed,
    count_bytes,
    cut,
    pack_feature,
    pack_patches,
    sent_patches,
    unpack_patches,
)
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.masks import (
    fixed_positions,
    num_visible,
    random_positions,
    select_patches,
    visible_from_positions,
)

DATA = os.environ.get("SPARSE_IST_DATA")
GRID = (8, 8)


def picture(height, width, seed=0):
    """Smooth, with a little noise: like a photo to a codec."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(4, 20) + y / rng.uniform(4, 20)) for _ in range(3)]
    noise = rng.normal(0, 2, (height, width, 3))
    return np.clip(np.stack(waves, axis=-1) * 100 + 127 + noise, 0, 255).astype(np.uint8)


def flat(pixels):
    """Patches as select_patches has them."""
    return np.asarray(pixels).reshape(len(pixels), -1)


def psnr(first, second):
    return 10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    ratio=st.floats(0, 0.9),
    form=st.sampled_from(["bitmap", "fixed", "random"]),
    content=st.sampled_from(["jpeg", "raw"]),
    seed=st.integers(-(2**63), 2**64 - 1),
    index=st.integers(0, 2**62),
)
def test_round_trip(height, width, rows, columns, ratio, form, content, seed, index):
    patches, grid = rows * columns, (rows, columns)
    ratio = min(ratio, 1 - 1 / patches)
    image = picture(rows * height, columns * width)
    if form == "random":
        places = random_positions(seed, [index], 3, patches, ratio)[0]
    else:
        places = fixed_positions(seed, [index], patches, ratio)[0]
    mask = None
    if form != "bitmap":
        mask = MaskSeed(seed, index, 3 if form == "random" else None)
    message = pack_patches(image, places, grid, content=content, quality=95, mask=mask)
    pixels, positions = unpack_patches(message)
    assert positions.dtype == np.int32
    np.testing.assert_array_equal(positions, places)
    expected = cut(image, grid).numpy()[places]
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape == (len(places), height, width, 3)
    if content == "raw":
        np.testing.assert_array_equal(pixels, expected)
    else:
        assert psnr(pixels, expected) > (28 if pixels.size >= 192 else 24)  # few average out less


@pytest.mark.parametrize(("size", "loss"), [(8, 6), (14, 1.5), (16, 1.5), (24, 4), (32, 1)])
def test_patches_keep_the_quality_of_a_whole_jpeg(size, loss):
    image = picture(size * 6, size * 6)
    places = fixed_positions(0, [0], 36, 0.5)[0]
    whole = tf.io.decode_jpeg(tf.io.encode_jpeg(image, quality=90)).numpy()
    expected = select_patches(image[None], places[None], size)[0]
    reference = psnr(select_patches(whole[None], places[None], size)[0], expected)
    pixels, _ = unpack_patches(pack_patches(image, places, (6, 6), quality=90))
    assert psnr(flat(pixels), expected) > reference - loss


@pytest.mark.parametrize(
    ("size", "count"), [(2, 18), (3, 9), (4, 18), (8, 1), (8, 18), (14, 7), (16, 5)]
)
def test_pixels_without_the_message_are_those_of_the_message(size, count):
    image = picture(size * 6, size * 6)
    places = np.arange(count) * 2
    expected, _ = unpack_patches(pack_patches(image, places, (6, 6), quality=35))
    patches = tf.gather(cut(image, (6, 6)), places)
    np.testing.assert_array_equal(sent_patches(patches, quality=35), expected)


def test_hidden_pixels_are_not_in_the_message():
    first, places = picture(64, 64), fixed_positions(0, [3], 64, 0.5)[0]
    visible = visible_from_positions(places[None], 64).reshape(8, 8, 1)
    visible = visible.repeat(8, axis=0).repeat(8, axis=1)
    second = np.where(visible, first, 255 - first)
    assert pack_patches(first, places, GRID) == pack_patches(second, places, GRID)


def test_patches_of_sixteen_pixels_do_not_touch_each_other():
    first, places = picture(64, 64), np.arange(0, 16, 2)
    second = first.copy()
    second[:16, :16] = 255 - second[:16, :16]  # patch 0
    before, _ = unpack_patches(pack_patches(first, places, (4, 4)))
    after, _ = unpack_patches(pack_patches(second, places, (4, 4)))
    np.testing.assert_array_equal(before[2:], after[2:])
    assert not np.array_equal(before[0], after[0])


def test_a_mosaic_wider_than_a_jpeg_may_be():
    image = picture(68 * 16, 64 * 16)
    places = np.arange(68 * 64)
    pixels, positions = unpack_patches(pack_patches(image, places, (68, 64), quality=90))
    np.testing.assert_array_equal(positions, places)
    assert psnr(flat(pixels), select_patches(image[None], places[None], 16)[0]) > 32


def test_works_in_a_pipeline():
    images = np.stack([picture(32, 32, seed) for seed in range(20)])

    def through(image, index):
        places = fixed_positions(4, index[None], 16, 0.5)[0]
        message = pack_patches(image, places, (4, 4), quality=80, mask=MaskSeed(4, index))
        pixels, positions = unpack_patches(message)
        pixels = tf.ensure_shape(pixels, (8, 8, 8, 3))
        return message, pixels, tf.ensure_shape(positions, (8,))

    data = tf.data.Dataset.zip(
        tf.data.Dataset.from_tensor_slices(images), tf.data.Dataset.range(100, 120)
    )
    rows = data.map(through, num_parallel_calls=2).batch(7)
    assert rows.element_spec[1].shape[1:] == (8, 8, 8, 3)
    found = [np.concatenate(part) for part in zip(*rows.as_numpy_iterator(), strict=True)]
    for i, (message, pixels, positions) in enumerate(zip(*found, strict=True)):
        places = fixed_positions(4, [100 + i], 16, 0.5)[0]
        alone = pack_patches(images[i], places, (4, 4), quality=80, mask=MaskSeed(4, 100 + i))
        assert message == alone
        np.testing.assert_array_equal(positions, places)
        np.testing.assert_array_equal(pixels, unpack_patches(alone)[0])


def test_raw_works_in_a_pipeline():
    image = picture(32, 32)

    def through(_):
        message = pack_patches(tf.constant(image), tf.constant([1, 5]), (4, 4), content="raw")
        return unpack_patches(message)

    [(pixels, positions)] = tf.data.Dataset.range(1).map(through).as_numpy_iterator()
    assert positions.tolist() == [1, 5]
    np.testing.assert_array_equal(flat(pixels), select_patches(image[None], [[1, 5]], 8)[0])


MESSAGE = pack_patches(
    picture(64, 64), fixed_positions(0, [7], 64, 0.5)[0], GRID, mask=MaskSeed(0, 7)
)


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: b"",
        lambda m: m[:20],
        lambda m: m[:-1],
        lambda m: m + b"x",
        lambda m: m[:50] + bytes([m[50] ^ 1]) + m[51:],
        lambda m: b"JFIF" + m[4:],
        lambda m: m[:-4] + bytes(4),
    ],
)
def test_damaged_messages_are_refused_in_one_line(damage):
    message = damage(MESSAGE)
    with pytest.raises(RunError) as caught:
        unpack_patches(message)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError) as in_graph, datasets.image_errors():
        list(tf.data.Dataset.from_tensors(message).map(unpack_patches))
    assert str(in_graph.value) == str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(MESSAGE) * 8 - 1))
def test_no_flipped_bit_gets_through(bit):
    broken = bytearray(MESSAGE)
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RunError):
        unpack_patches(bytes(broken))


def sealed(*numbers, kind=0, content=b""):
    return messages._seal(kind, *map(messages._varint, numbers), content)


@pytest.mark.parametrize(
    "message",
    [
        sealed(75, 8, 8, 2**15, 2**15),  # a bomb
        sealed(75, 2**13, 2**13, 8, 8),
        sealed(0, 8, 8, 8, 8),
        sealed(101, 8, 8, 8, 8),
        sealed(75, 0, 0, 8, 8),
        sealed(75, 8, 8, 0, 8),
        sealed(75, 8, 8, 8, 8),  # no bitmap
        sealed(75, 8, 8, 8, 8, content=bytes(8)),  # nothing visible
        sealed(75, 8, 8, 3, 3, content=b"\xff\xff"),  # more than there are
        sealed(75, 8, 8, 8, 8, 0, 0, 65, kind=16),
        sealed(75, 8, 8, 8, 8, 0, 0, 0, kind=16),
        sealed(75, 8, 8, 8, 8, 0, 2**63, 5, kind=16),
        sealed(0, 8, 8, 2, 2, kind=1, content=b"\x01" + bytes(191)),
        sealed(75, 8, 8, 8, 8, kind=48),
        sealed(75, kind=2),
        sealed(content=b"\xff" * 20),
        sealed(75, 8, 8, 2, 2, content=b"\x01"),  # no picture
        messages._seal(0),
        sealed(75, 1, 2**26, 1, 1, content=b"\x01xx"),
        sealed(75, 2**26, 1, 1, 1, content=b"\x01xx"),
        sealed(75, 70_000, 4, 1, 1, content=b"\x01xx"),
        sealed(75, 4, 65_500, 1, 2, content=b"\x03xx"),
        sealed(75, 512, 512, 2, 2, content=b"\x0f" + bytes(1000)),  # of 4,096 bytes or more
        sealed(75, 1, 2**26, 1, 1, 0, 7, 1, kind=16, content=bytes(8)),
    ],
)
def test_forged_messages_are_refused(message):
    with pytest.raises(RunError) as caught:
        unpack_patches(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(1, 2**26), (2**26, 1), (2**13, 2**13), (2**30, 2**30), (0, 5)])
def test_forged_whole_images_are_refused(size):
    with pytest.raises(RunError, match="a message is damaged"):
        messages.unpack_image(sealed(75, *size, kind=5, content=bytes(2**10)))


def test_what_no_message_can_hold_is_not_packed():
    image = np.zeros((4096, 4112, 3), np.uint8)
    with pytest.raises(ValueError, match=r"mosaic has 16,842,752 pixels, at most 16,777,216"):
        pack_patches(image, [0], (1, 1))
    scan = bytes(4096 * 4112 // 64)
    message = sealed(75, 4096, 4112, 1, 1, content=b"\x01" + scan)
    with pytest.raises(RunError, match=r"mosaic has 16,842,752 pixels, at most 16,777,216"):
        unpack_patches(message)


def test_other_versions_are_refused():
    for version in (0, 4):
        data = MESSAGE[:2] + bytes([version]) + MESSAGE[3:-4]
        message = data + zlib.crc32(data).to_bytes(4, "little")
        with pytest.raises(RunError, match=f"version {version}; this release reads 1 to 3"):
            unpack_patches(message)


def test_messages_of_version_1_have_one_number_for_both_sides():
    _, _, rest = messages._unseal(MESSAGE)
    data = b"SP\x01" + MESSAGE[3:4] + rest[:2] + rest[3:]
    first = data + zlib.crc32(data).to_bytes(4, "little")
    for old, new in zip(unpack_patches(first), unpack_patches(MESSAGE), strict=True):
        np.testing.assert_array_equal(old, new)


def test_whole_images():
    file = tf.io.encode_jpeg(picture(30, 45), quality=60).numpy()
    message = messages.pack_image(file, 60)
    assert 590 < len(file) - len(message) < 640, "a header's length"
    again = messages.unpack_image(message)
    np.testing.assert_array_equal(tf.io.decode_jpeg(again), tf.io.decode_jpeg(file))
    for broken in (message[:-1], MESSAGE, messages._seal(5)):
        with pytest.raises(RunError):
            messages.unpack_image(broken)
    with pytest.raises(RunError):
        messages.pack_image(b"\x89PNG" + bytes(90), 60)


def test_the_format_is_what_the_documentation_says():
    image = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3)
    body = bytes.fromhex("5350 02 01 00 01 01 02 02 06 030405 060708")
    expected = body + zlib.crc32(body).to_bytes(4, "little")
    assert pack_patches(image, [1, 2], (2, 2), content="raw") == expected
    seed = MaskSeed(300, 5, epoch=1)
    places = seed.positions(4, 2)
    message = pack_patches(image, places, (2, 2), content="raw", mask=seed)
    assert message.startswith(bytes.fromhex("5350 02 21 00 01 01 02 02 ac02 05 02 01"))
    np.testing.assert_array_equal(places, random_positions(300, [5], 1, 4, 0.5)[0])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"positions": [3, 1]}, "positions: must be"),
        ({"positions": [1, 1]}, "positions: must be"),
        ({"positions": []}, "positions: must be"),
        ({"positions": [-1, 2]}, "positions: must be"),
        ({"positions": [16]}, r"positions: must be .*\[0, 15\]"),
        ({"positions": [[1]]}, "positions: must be"),
        ({"positions": [0, 1], "mask": MaskSeed(0, 0)}, "positions: are not those that MaskSeed"),
        ({"quality": 0}, "quality=0"),
        ({"quality": 101}, "quality=101"),
        ({"content": "webp"}, "content='webp': must be one of jpeg, raw"),
        ({"grid": (5, 4)}, "can't be cut into"),
        ({"image": np.zeros((32, 32, 3), "float32")}, "image of float32"),
        ({"image": np.zeros((1, 32, 32, 3), "uint8")}, r"image of uint8 \(1, 32, 32, 3\)"),
    ],
)
def test_impossible_arguments_are_named(changed, says):
    arguments = {"image": picture(32, 32), "positions": [1, 2], "grid": (4, 4)} | changed
    with pytest.raises(ValueError, match=says):
        pack_patches(**arguments)


def test_numbers_that_no_mask_has_are_named():
    for numbers, says in (((0, 0, -1), "epoch=-1"), ((0, -1), "index=-1")):
        with pytest.raises(ValueError, match=says):
            MaskSeed(*numbers)


@pytest.mark.parametrize(
    ("dtype", "size", "error"),
    [("float32", 4 * 192, 0), ("float16", 384, 2e-3), ("int8", 196, 0.02)],
)
def test_features(dtype, size, error):
    feature = np.random.default_rng(0).normal(size=192).astype(np.float32)
    message = pack_feature(feature, dtype)
    assert len(message) == size + 10
    again = unpack_feature(message)
    assert again.dtype == np.float32
    assert abs(again - feature).max() <= error
    assert unpack_feature(pack_feature(np.zeros(3), dtype)).tolist() == [0, 0, 0]
    assert unpack_feature(pack_feature(np.zeros(0), dtype)).shape == (0,)
    for broken in (message[:-1], message[:9] + b"\x00" + message[10:], MESSAGE):
        with pytest.raises(RunError):
            unpack_feature(broken)
    with pytest.raises(RunError, match="which has no patches"):
        unpack_patches(message)


@pytest.mark.parametrize(
    ("feature", "dtype"),
    [
        (np.ones(3), "int5"),
        (np.ones((1, 3)), "int8"),
        (np.array([1, np.nan]), "int8"),
        (np.array([np.inf]), "float32"),
        (np.array([1e5]), "float16"),
    ],
)
def test_features_that_can_not_be_packed(feature, dtype):
    with pytest.raises(ValueError, match="must be one"):
        pack_feature(feature, dtype)


def test_forged_features_are_refused():
    for kind, length in ((2, 2), (3, 2), (4, 2), (4, 9)):
        with pytest.raises(RunError, match="damaged"):
            unpack_feature(messages._seal(kind, messages._varint(length), bytes(5)))


def test_count_bytes_counts_what_is_sent():
    image, places = picture(64, 64), fixed_positions(0, [9], 64, 0.75)[0]
    sizes = count_bytes(image, places, GRID, quality=75, feature_dim=192, mask=MaskSeed(0, 9))
    assert sizes["image_jpeg"] == len(tf.io.encode_jpeg(image, quality=75).numpy())
    file = tf.io.encode_jpeg(image, quality=75, chroma_downsampling=True).numpy()
    assert sizes["image_jpeg_message"] == len(messages.pack_image(file, 75))
    assert sizes["patches_raw"] == 16 * 192 + 16
    assert sizes["patches_jpeg"] == len(pack_patches(image, places, GRID, mask=MaskSeed(0, 9)))
    assert sizes["patches_jpeg_bitmap"] == sizes["patches_jpeg"] + 8 - 3
    assert sizes["feature_float32"] == len(pack_feature(np.ones(192)))
    assert sizes["feature_float16"] < sizes["feature_float32"]
    assert sizes["feature_int8"] < sizes["feature_float16"]
    assert "feature_int8" not in count_bytes(image, places, GRID)
    assert count_bytes(image, places, GRID)["patches_jpeg"] == sizes["patches_jpeg_bitmap"]


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="SPARSE_IST_DATA is not set")
@pytest.mark.parametrize(
    ("side", "size"),
    [
        (64, 8),
        *(pytest.param(*s, marks=pytest.mark.large) for s in [(144, 8), (144, 16), (224, 16)]),
    ],
)
def test_bytes_of_real_photos(side, size):
    """Visible patches cost at most their share, and 15 % more, of the whole JPEG."""
    split = datasets.load("aid")["test"]
    rows = split.pick(150 if side == 144 else side, range(0, split.size, 30))
    images = {int(row["index"]): row["image"] for row in rows.as_numpy_iterator()}
    if side == 144:  # the prepared images' own pixels, cut to whole patches
        images = {index: image[3:147, 3:147] for index, image in images.items()}
    patches, grid = (side // size) ** 2, (side // size,) * 2
    for ratio in (0.25, 0.5, 0.75, 0.9):
        for quality in (50, 75, 90, 95) if side > 64 else (50, 95):
            whole = sent = 0
            for index, image in images.items():
                places = fixed_positions(0, [index], patches, ratio)[0]
                form = {"quality": quality, "mask": MaskSeed(0, index)}
                sizes = count_bytes(image, places, grid, **form)
                whole += sizes["image_jpeg"]
                sent += sizes["patches_jpeg"]
                message = pack_patches(image, places, grid, **form)
                assert len(message) == sizes["patches_jpeg"]
                np.testing.assert_array_equal(unpack_patches(message)[1], places)
            share = sent / whole / (1 - ratio)
            kept = num_visible(patches, ratio) / patches
            print(f"{side} px, patch {size}, ratio {ratio}, quality {quality}: ", end="")
            print(
                f"{sent / len(images):.0f} of {whole / len(images):.0f} bytes, {share:.3f}, ",
                end="",
            )
            print(f"{sent / whole / kept:.3f} of the share of the patches that are kept")
            assert share <= 1.15
