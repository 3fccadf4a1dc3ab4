"""Hidden pixels don't matter, visible ones do, and the two forms are one network."""

import dataclasses

import numpy as np
import pytest

from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.forms import make_function
from sparse_ist_tf.masks import Scaling, select_patches, visible_from_positions
from tests.fixtures.finished_run import make_images, make_pictures


@pytest.mark.parametrize("form", ["matmul", "conv"])
def test_hidden_pixels_change_no_logit(small_classifier, classifier_file, form):
    vit, _, positions = small_classifier
    image, other = make_images(2)
    visible = visible_from_positions(positions[None], vit.num_patches)[0].reshape(4, 4)
    pixels = visible.repeat(4, axis=0).repeat(4, axis=1)[..., None]
    runtime = LiteRT(classifier_file("float32", form))
    logits = runtime.run({"image": image})
    assert np.array_equal(runtime.run({"image": np.where(pixels, image, other)}), logits)
    assert not np.allclose(runtime.run({"image": np.where(pixels, other, image)}), logits)


@pytest.mark.parametrize("quantize", ["float32", "int8"])
def test_forms_and_kinds_agree(small_classifier, classifier_file, quantize):
    vit, _, positions = small_classifier
    images = make_images(24)
    outputs = []
    for form in ("matmul", "conv"):
        for kind in ("classifier", "classifier_patches"):
            runtime = LiteRT(classifier_file(quantize, form, kind=kind))
            patches = select_patches(images, np.tile(positions, (24, 1)), vit.patch_size)
            examples = [
                {"image": image, "patches": patch, "positions": positions}
                for image, patch in zip(images, patches, strict=True)
            ]
            outputs.append(np.array([runtime.run(example) for example in examples]))
    for other in outputs[1:]:
        likeness = np.corrcoef(other.ravel(), outputs[0].ravel())[0, 1]
        assert likeness > (0.999999 if quantize == "float32" else 0.85)


@pytest.mark.parametrize("form", ["matmul", "conv"])
@pytest.mark.parametrize("quantize", ["float32", "int8"])
def test_a_sensors_own_pixels_give_what_their_patches_give(classifier_file, quantize, form):
    """In float but for a rounding of the patches, by half a step in 255 at most."""
    pictures = make_pictures(24)
    sensor = LiteRT(classifier_file(quantize, form, kind="classifier_sensor"))
    whole = LiteRT(classifier_file(quantize, form))
    assert (sensor.inputs[0].shape, sensor.inputs[0].dtype) == ((1, 8, 8, 3), "uint8")
    scaled = [Scaling(16, 4)(picture) for picture in pictures]
    found = np.array([sensor.run({"image": picture}) for picture in pictures])
    expected = np.array([whole.run({"image": image}) for image in scaled])
    likeness = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    assert likeness > (0.9995 if quantize == "float32" else 0.85)
    if quantize == "float32":
        assert np.abs(found - expected).mean() < 0.015 * expected.std()


def test_the_cost_falls_with_the_visible_patches(small_classifier):
    from sparse_ist_tf.export.files.operators import operators

    _, network, _ = small_classifier
    macs = []
    for count in (16, 8):
        content = convert(dataclasses.replace(network, positions=tuple(range(count))), "float32")
        macs.append(sum(op.macs for op in operators(content)))
    assert macs[1] < 0.6 * macs[0]


def test_a_sensors_pixels_cost_less_than_what_they_are_enlarged_to(classifier_file):
    from sparse_ist_tf.export.files.operators import operators

    sensor, whole = (
        sum(op.macs for op in operators(classifier_file("float32", kind=kind)))
        for kind in ("classifier_sensor", "classifier")
    )
    assert whole - sensor == 8 * 3 * (16 - 4) * 8  # patches, colours, pixels of each, width


def test_inputs_and_outputs_are_named(small_classifier, head_layers):
    _, network, _ = small_classifier
    assert make_function(network, pixels="uint8").input_signature[0].dtype == "uint8"
    encoder = dataclasses.replace(network, kind="encoder", layers=())
    assert encoder.input_names == ("patches", "positions")
    assert encoder.output_name == "feature"
    assert network.input_names == ("image",)
    head = dataclasses.replace(network, kind="head")
    assert (head.input_names, head.output_name) == (("feature",), "logits")
