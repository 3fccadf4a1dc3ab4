"""The rewritten ViT is the same function as the Keras model, in every variety and both forms."""

import dataclasses

import numpy as np
import pytest

from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.graphs.folding import Affine, fold
from sparse_ist_tf.export.graphs.forms import Network, make_function
from sparse_ist_tf.masks import select_patches
from sparse_ist_tf.masks.cells import cell_matrix
from tests.fixtures.finished_run import MEAN, STD, make_images, make_vit

VARIETIES = {
    "ours": {},
    "gelu": {"activation": "gelu"},
    "gelu_tanh": {"activation": "gelu_tanh"},
    "swiglu": {"activation": "swiglu"},
    "registers": {"extra_tokens": 3, "positions": "learned"},
    "mean": {"pool": "mean"},
    "cls_mean": {"pool": "cls_mean", "extra_tokens": 2},
    "mean_norm without CLS": {"pool": "mean_norm", "class_token": False},
    "clip": {"pre_norm": True, "epsilon": 1e-3},
    "one block": {"depth": 1},
}


def _keras_features(vit, images, positions):
    patches = select_patches(images, positions, vit.patch_size).astype("float32")
    pixels = patches.reshape(*patches.shape[:2], -1, 3) / 255
    normal = ((pixels - MEAN) / STD).reshape(patches.shape).astype("float32")
    return np.asarray(vit({"patches": normal, "positions": positions}))


@pytest.mark.parametrize("form", ["matmul", "conv"])
@pytest.mark.parametrize("variety", VARIETIES)
def test_the_folded_encoder_equals_the_keras_model(variety, form):
    vit = make_vit(**VARIETIES[variety])
    images = make_images(3)
    positions = np.array([[0, 5, 7, 10, 15], [3, 2, 9, 8, 1], [4, 6, 11, 12, 14]], np.int32)
    expected = _keras_features(vit, images, positions)
    function = make_function(Network("encoder", vit=fold(vit, MEAN, STD), positions=(0,) * 5), form)
    patches = select_patches(images, positions, vit.patch_size)
    for i in range(3):
        rows = positions[i : i + 1]
        rows = rows if form == "matmul" else np.eye(16, dtype="float32")[rows]
        found = function(patches=patches[i : i + 1].astype("float32"), positions=rows)["feature"]
        np.testing.assert_allclose(found[0], expected[i], atol=2e-4)


@pytest.mark.parametrize("form", ["matmul", "conv"])
@pytest.mark.parametrize(
    "variety", ["ours", "registers", "mean", "cls_mean", "mean_norm without CLS", "clip"]
)
def test_the_network_for_integers_is_the_same_function(variety, form):
    folded = fold(make_vit(**{"epsilon": 1e-12, **VARIETIES[variety]}), MEAN, STD)
    around = folded.for_integers()
    assert (around.basis is None) == (variety == "clip")
    around = dataclasses.replace(around, epsilon=folded.epsilon)
    layers = (
        Affine(np.random.default_rng(0).standard_normal((folded.spec.feature_dim, 3)), np.ones(3)),
    )
    patches = (
        make_images(5).reshape(-1)[: 5 * folded.spec.pixels].reshape(1, 5, -1).astype("float32")
    )
    positions = np.array([[0, 5, 7, 10, 15]], np.int32)
    positions = positions if form == "matmul" else np.eye(16, dtype="float32")[positions]
    for kind in ("encoder", "classifier_patches"):
        network = Network(kind, layers, folded, (0,) * 5)
        other = dataclasses.replace(network, vit=around)
        name = network.output_name
        expected = make_function(network, form)(patches=patches, positions=positions)[name]
        found = make_function(other, form)(patches=patches - 128, positions=positions)[name]
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["matmul", "conv"])
@pytest.mark.parametrize("cell", [(2, 2), (1, 3), (4, 1), (4, 4)])
def test_the_embedding_enlarges_a_sensors_cells_itself(cell, form):
    """As cell_matrix does, but for the rounding of what it gives."""
    folded, positions = fold(make_vit(), MEAN, STD), (1, 4, 5, 6, 11, 15)
    sensor = folded.for_cells(cell)
    assert sensor.image_shape == (4 * cell[0], 4 * cell[1])
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, *sensor.image_shape, 3)).astype("float32")
    rows, columns = (cell_matrix(length, 4, 4) for length in sensor.image_shape)
    enlarged = np.einsum("yh,xw,bhwc->byxc", rows, columns, image)
    layers = (Affine(rng.standard_normal((16, 3)), np.ones(3)),)
    expected = make_function(Network("classifier", layers, folded, positions), form)(image=enlarged)
    network = Network("classifier_sensor", layers, sensor, positions)
    for vit, offset in ((sensor, 0), (sensor.for_integers(), 128)):
        if offset:
            vit = dataclasses.replace(vit, epsilon=folded.epsilon)
        function = make_function(dataclasses.replace(network, vit=vit), form)
        found = function(image=image - offset)["logits"]
        np.testing.assert_allclose(found, expected["logits"], atol=1e-4)
    kernel, whole = sensor.embed.kernel, folded.embed.kernel
    assert kernel.size * 16 == whole.size * cell[0] * cell[1]


def test_a_turned_stream_has_no_channel_that_stands_out():
    folded = fold(make_vit(), MEAN, STD)
    table = folded.table.copy()
    table[:, 2] += 50
    turned = dataclasses.replace(folded, table=table).for_integers()
    np.testing.assert_allclose(turned.basis @ turned.basis.T, np.eye(16), atol=1e-12)
    assert np.abs(turned.table).max() < 0.8 * np.abs(table).max()
    assert turned.for_integers().basis is turned.basis


def test_what_is_added_to_the_stream_has_mean_zero():
    folded = fold(make_vit(extra_tokens=2), MEAN, STD)
    for array in (folded.table, folded.prefix, folded.embed.kernel, folded.blocks[1].fc2.kernel):
        np.testing.assert_allclose(array.mean(axis=-1), 0, atol=1e-12)


def test_affine_maps_compose():
    rng = np.random.default_rng(0)
    x, scale, offset = rng.standard_normal((3, 4))
    affine = Affine(rng.standard_normal((4, 6)), rng.standard_normal(6))
    expected = (x * scale + offset) @ affine.kernel + affine.bias
    moved = affine.after_scaling(scale, offset)
    np.testing.assert_allclose(x @ moved.kernel + moved.bias, expected)
    part = moved.outputs(2, 5)
    np.testing.assert_allclose(x @ part.kernel + part.bias, expected[2:5])


def test_an_encoder_with_an_unknown_part_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Windowed(ViTSpec):
        window: int = 7

    with pytest.raises(RequestError, match="window=7"):
        fold(ViT(Windowed(8, 4, width=8, depth=1, num_heads=2)), MEAN, STD)
