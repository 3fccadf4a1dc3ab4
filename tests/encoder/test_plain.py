"""What a notebook has set of Keras changes nothing here."""

import keras
import numpy as np
import pytest

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.encoder.features import make_encode
from sparse_ist_tf.encoder.plain import plain_keras
from sparse_ist_tf.ist.head import HeadSpec, build_model, init_parameters
from sparse_ist_tf.ist.local import SlotOptimizer

SETTINGS = {
    "float16": lambda: keras.config.set_floatx("float16"),
    "float64": lambda: keras.config.set_floatx("float64"),
    "mixed_float16": lambda: keras.mixed_precision.set_global_policy("mixed_float16"),
    "mixed_bfloat16": lambda: keras.mixed_precision.set_global_policy("mixed_bfloat16"),
    "channels_first": lambda: keras.config.set_image_data_format("channels_first"),
}


@pytest.fixture(params=SETTINGS)
def setting(request):
    with plain_keras():  # which puts back what was there
        yield SETTINGS[request.param]


def features(weights, rng):
    """Of two random images, the half of each visible."""
    encoder = load_encoder(weights, image_size=64)
    images = rng.integers(0, 255, (2, 64, 64, 3)).astype(np.uint8)
    count = encoder.num_patches
    positions = np.stack([np.sort(rng.permutation(count)[: count // 2]) for _ in range(2)])
    return make_encode(encoder)(images, positions.astype(np.int32)).numpy()


def made():
    """What is computed with an encoder, a head and an optimizer."""
    rng = np.random.default_rng(0)
    out = [features("random:vit_pico", rng)]
    head = build_model(init_parameters(HeadSpec(8, (6,), 3), 0))
    out.append(np.asarray(head(rng.standard_normal((2, 8)).astype(np.float32))))
    optimizer = SlotOptimizer(keras.optimizers.serialize(keras.optimizers.Adam()), [(3, 2)])
    gradient = keras.ops.convert_to_tensor(rng.standard_normal((3, 2)).astype(np.float32))
    step, rate = (
        keras.ops.convert_to_tensor(np.int32(0)),
        keras.ops.convert_to_tensor(np.float32(0.1)),
    )
    optimizer.update(step, rate, [gradient])
    out += [variable.numpy() for variable in optimizer.columns(0)]
    return out


@pytest.fixture(scope="module")
def plain():
    """What is computed where nothing was set."""
    return made()


def test_settings_of_a_notebook_change_no_bit(plain, setting):
    setting()
    for ours, theirs in zip(plain, made(), strict=True):
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.large
def test_a_resnet_has_its_channels_last():
    plain = features("resnet50:random", np.random.default_rng(0))
    with plain_keras():
        keras.config.set_image_data_format("channels_first")
        keras.config.set_dtype_policy("mixed_float16")
        other = features("resnet50:random", np.random.default_rng(0))
    np.testing.assert_array_equal(plain, other)


def test_settings_are_put_back():
    keras.config.set_floatx("float16")
    try:
        with plain_keras("mixed_bfloat16"):
            assert (keras.config.floatx(), keras.config.dtype_policy().name) == (
                "float32",
                "mixed_bfloat16",
            )
        assert keras.config.floatx() == "float16"
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
