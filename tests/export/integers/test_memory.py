"""Files that have parts in common are what they are alone, with less work."""

import dataclasses
import functools

import numpy as np
import pytest

from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.forms import Network, layers_of
from sparse_ist_tf.export.graphs.interface import Interface
from sparse_ist_tf.export.integers import memory as memory_module
from sparse_ist_tf.export.integers.memory import Memory, Recording
from sparse_ist_tf.ist.head import HeadSpec, init_parameters
from sparse_ist_tf.masks import select_patches
from tests.fixtures.finished_run import make_images


def _other_head(layers):
    """The same first layer, others behind it."""
    first, *rest = layers
    return (first, *(dataclasses.replace(layer, kernel=layer.kernel * 1.5) for layer in rest))


@pytest.fixture
def runs(monkeypatch):
    """How often a file was run on samples."""
    counted, run = [], Recording._run

    def counting(self, watched):
        counted.append(len(watched))
        return run(self, watched)

    monkeypatch.setattr(Recording, "_run", counting)
    return counted


@pytest.mark.parametrize("quantize", ["int8", "int16x8"])
def test_files_are_those_that_are_made_alone(head_layers, head_samples, quantize, runs):
    networks = [Network("head", layers) for layers in (head_layers, _other_head(head_layers))]
    memory, one_by_one = Memory(), []
    for network in networks:
        one_by_one.append(convert(network, quantize, samples=head_samples))
    runs.clear()
    together = [convert(n, quantize, samples=head_samples, memory=memory) for n in networks]
    assert together == one_by_one
    assert together[0] != together[1]
    assert len(runs) == 2
    assert runs[1] < runs[0]  # the first layer's tensors aren't looked at again
    assert convert(networks[0], quantize, samples=head_samples, memory=memory) == one_by_one[0]
    assert len(runs) == 2


def test_other_samples_are_measured_anew(head_layers, head_samples):
    def wider():
        return [{"feature": 2 * sample["feature"]} for sample in head_samples()]

    network, memory = Network("head", head_layers), Memory()
    files = [convert(network, "int8", samples=s, memory=memory) for s in (head_samples, wider)]
    assert files[1] == convert(network, "int8", samples=wider)
    assert files[0] != files[1]


def test_what_is_too_large_to_keep_is_run_again(head_layers, head_samples, monkeypatch, runs):
    expected = convert(Network("head", head_layers), "int8", samples=head_samples)
    assert len(runs) == 1
    monkeypatch.setattr(memory_module, "_KEPT_BYTES", 100)
    assert convert(Network("head", head_layers), "int8", samples=head_samples) == expected
    assert len(runs) == 4


def test_an_origin_is_all_that_a_tensor_is_computed_from(head_layers, head_samples):
    def origins(layers, samples=head_samples):
        recording = Recording(convert(Network("head", layers), "float32"), samples)
        outputs = [op.outputs[0] for op in recording.model.subgraphs[0].operators]
        return [recording.origins[index] for index in outputs]

    mine = origins(head_layers)
    assert len(set(mine)) == len(mine)
    assert origins(head_layers) == mine
    other = origins(_other_head(head_layers))
    assert other[0] == mine[0]
    assert other[-1] != mine[-1]
    few = functools.partial(lambda: list(head_samples())[:-1])
    assert not set(origins(head_layers, few)) & set(mine)
    first, *rest = head_layers
    assert not set(origins((dataclasses.replace(first, bias=first.bias + 1), *rest))) & set(mine)
    assert np.unique([len(origin) for origin in mine]).tolist() == [32]


@pytest.fixture
def networks(small_classifier):
    """Artefacts of one encoder, whose heads have nothing in common."""
    _, network, _ = small_classifier
    other = layers_of(init_parameters(HeadSpec(8, (6, 5), 3), seed=5))
    second = dataclasses.replace(network, layers=other)
    return {
        "one": network,
        "another head": second,
        "tuned": dataclasses.replace(second, tuned=True),
        "of patches": dataclasses.replace(network, kind="classifier_patches"),
        "encoder": dataclasses.replace(network, kind="encoder", layers=()),
    }


@pytest.fixture
def image_samples(small_classifier):
    """Makes the calibration samples of networks."""
    vit, _, places = small_classifier

    def samples():
        for image in make_images(8):
            patches = select_patches(image[None], places[None], vit.patch_size)
            yield {"image": image[None], "patches": patches, "positions": places[None]}

    return samples


@pytest.mark.parametrize("form", ["matmul", "conv"])
def test_classifiers_of_one_encoder_are_those_that_are_made_alone(networks, image_samples, form):
    interface, memory = Interface(form), Memory()
    alone = {
        (name, quantize): convert(network, quantize, interface, image_samples)
        for name, network in networks.items()
        for quantize in ("int8", "int16x8")
    }
    for name, quantize in [*alone, *reversed(alone)]:
        content = convert(networks[name], quantize, interface, image_samples, memory)
        assert content == alone[name, quantize], (name, quantize)


def test_the_encoder_of_another_head_is_not_run_again(networks, image_samples, monkeypatch):
    run, look_ahead = [], memory_module._look_ahead

    def counting(content, feeds, watched):
        run.append(len(flatbuffer.parse(content).subgraphs[0].operators))
        return look_ahead(content, feeds, watched)

    monkeypatch.setattr(memory_module, "_look_ahead", counting)
    memory = Memory()
    convert(networks["one"], "int8", Interface(), image_samples, memory)
    first = run.pop(0)
    assert first > 20
    run.clear()
    for quantize in ("int8", "int16x8"):
        convert(networks["another head"], quantize, Interface(), image_samples, memory)
    assert run
    assert max(run) <= 3  # the head alone
