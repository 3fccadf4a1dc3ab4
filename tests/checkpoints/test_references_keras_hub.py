"""Features equal KerasHub's ViT, read from a preset as its users have one."""

import numpy as np
import pytest

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.errors import RequestError

SMALL = {
    "image_shape": (32, 32, 3),
    "patch_size": 8,
    "num_layers": 11,  # block 10 must not come behind block 1
    "num_heads": 4,
    "hidden_dim": 96,
    "mlp_dim": 200,
}
KINDS = [
    {},
    {"layer_norm_epsilon": 1e-3},
    {"use_class_token": False},
    {"use_mha_bias": False, "use_mlp_bias": False},
]


@pytest.fixture(scope="module")
def keras_hub():
    return pytest.importorskip("keras_hub", reason="needs keras-hub: the extra 'keras-hub'")


def make(keras_hub, changes):
    backbone = keras_hub.models.ViTBackbone(**SMALL | changes)
    rng = np.random.default_rng(0)
    for variable in backbone.trainable_variables:
        noise = rng.standard_normal(variable.shape)
        if variable.path.endswith("gamma"):
            variable.assign(1 + 0.3 * noise)
        elif variable.path.endswith("kernel"):
            inputs = noise.size // (96 if "mlp" not in variable.path else noise.shape[-1])
            variable.assign(noise * (1.5 / inputs**0.5))
        else:
            variable.assign(0.3 * noise)
    return backbone


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_features_equal_keras_hubs(keras_hub, make_case, tmp_path, changes):
    backbone = make(keras_hub, changes)
    backbone.save_to_preset(str(tmp_path / "preset"))
    encoder = load_encoder(f"keras_hub:{tmp_path / 'preset'}")
    images, _, inputs = make_case(32, 8)
    theirs = np.asarray(backbone(images.transpose(0, 2, 3, 1)))
    ours = np.asarray(encoder.model.tokens(inputs))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.abs(theirs).max() > 1
    if "use_class_token" not in changes:
        np.testing.assert_allclose(encoder.model(inputs), theirs[:, 0], rtol=0, atol=1e-4)
    assert encoder.model.spec.epsilon == changes.get("layer_norm_epsilon", 1e-6)


def test_mean_and_std_come_from_the_image_converter(keras_hub, tmp_path):
    backbone = make(keras_hub, {"num_layers": 1})
    folder = str(tmp_path / "preset")
    backbone.save_to_preset(folder)
    assert load_encoder(f"keras_hub:{folder}").mean == (0.5, 0.5, 0.5)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.1, 0.2, 0.3])
    keras_hub.layers.ViTImageConverter(
        image_size=(32, 32), scale=list(1 / (255 * std)), offset=list(-mean / std)
    ).save_to_preset(folder)
    encoder = load_encoder(f"keras_hub:{folder}")
    np.testing.assert_allclose(encoder.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(encoder.std, std, rtol=1e-6)


def test_what_is_no_vit_is_told(keras_hub, tmp_path):
    with pytest.raises(RequestError, match="KerasHub has no such ViT"):
        load_encoder(f"keras_hub:{tmp_path}")
