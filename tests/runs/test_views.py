"""Random masks: every example is drawn anew in every pass, whoever asks, whatever the rounds."""

import itertools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.config import get_config, validate
from sparse_ist_tf.encoder import features as encoding
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.batches import BatchStream
from sparse_ist_tf.ist.rounds import IstTrainer
from sparse_ist_tf.ist.trainer import Trainer
from sparse_ist_tf.masks import (
    MaskOptions,
    fixed_positions,
    random_positions,
    visible_from_positions,
)
from sparse_ist_tf.runs.parts import mask_options, training_masks
from sparse_ist_tf.runs.training import train_and_evaluate
from sparse_ist_tf.runs.views import Views, in_turns
from sparse_ist_tf.workers.cluster import Cluster
from sparse_ist_tf.workers.link import Link

pytestmark = pytest.mark.usefixtures("without_an_end")


class Recorder:
    """In place of Features: a feature is its (row, pass); keeps what is encoded in one batch."""

    def __init__(self, batch_size):
        self.options = SimpleNamespace(batch_size=batch_size)
        self.encoder = SimpleNamespace(feature_dim=2)
        self.batches = []

    def of_views(self, split, rows, epochs, link, progress):
        pairs = np.stack([rows, epochs], axis=1)
        assert len(pairs) % self.options.batch_size == 0
        self.batches += [x.tolist() for x in pairs.reshape(-1, self.options.batch_size, 2)]
        return pairs


@st.composite
def _cases(draw):
    count = draw(st.integers(1, 30))
    cuts = draw(st.sets(st.integers(1, max(1, count - 1)), max_size=3)) if count > 1 else set()
    order = np.random.default_rng(draw(st.integers(0, 9))).permutation(count)
    shards = [np.sort(part) for part in np.split(order, sorted(cuts))]
    if draw(st.booleans()):
        shards = [np.arange(count)] * len(shards)
    rounds = draw(st.lists(st.integers(1, 25), min_size=1, max_size=6))
    return count, shards, draw(st.integers(1, 9)), rounds, draw(st.integers(1, 8))


def _follow(views, split, streams, rounds, first=0):
    """Checks what trainers would see in all rounds from one on."""
    step = sum(rounds[:first])
    for steps in rounds[first:]:
        views.advance(step, steps)
        for k, some in enumerate(streams):
            data = views.data(k)
            for subnet, stream in enumerate(some):
                rows, passes = stream.rows(step, steps), stream.passes(step, steps)
                found = data.locate(subnet, passes, rows)
                assert np.array_equal(data.features[found], np.stack([rows, passes], axis=-1))
                assert np.array_equal(data.labels[found], split.labels[rows])
        step += steps


@settings(max_examples=60, deadline=None)
@given(case=_cases(), resumed=st.integers(0, 5))
def test_a_draw_belongs_to_one_example_and_pass_and_is_encoded_once(case, resumed):
    count, shards, batch, rounds, encoded_at_once = case
    split = SimpleNamespace(labels=np.arange(count) * 7 % 5)
    streams = [
        [BatchStream(shard, batch, 3, n) for n, shard in enumerate(shards)],
        [BatchStream(np.arange(count), batch, 3, 0)],
    ]

    def views():
        recorder = Recorder(encoded_at_once)
        return recorder, Views(recorder, split, Link.alone(), streams, sum(rounds))

    recorder, whole = views()
    _follow(whole, split, streams, rounds)
    again, resumed_views = views()
    _follow(resumed_views, split, streams, rounds, min(resumed, len(rounds) - 1))
    assert all(batch in recorder.batches for batch in again.batches)

    different = {tuple(s.shard): [] for s in itertools.chain(*streams)}
    for stream in itertools.chain(*streams):
        steps = sum(rounds)
        drawn = zip(stream.rows(0, steps).flat, stream.passes(0, steps).flat, strict=True)
        different[tuple(stream.shard)] += drawn
    at_least = sum(len(set(drawn)) for drawn in different.values())
    not_full = len(different) * (encoded_at_once - 1)
    assert len(recorder.batches) * encoded_at_once <= at_least + not_full


def _config(cache, shards):
    config = get_config()
    config.dataset.name, config.dataset.shards = "digits", shards
    config.encoder.weights, config.features.cache_dir = "random:vit_pico", str(cache)
    config.masks.kind = "random"
    config.ist.local_steps = 100
    config.head.hidden, config.batch_size = (32,), 8
    config.total_epochs, config.total_steps = 0.0, 150
    validate(config, 1)
    return config


def _telling(encoder):
    """In place of make_encode: a feature tells its mask."""

    def encode(images, positions):
        visible = visible_from_positions(positions, encoder.num_patches)
        rest = encoder.feature_dim - encoder.num_patches
        return tf.constant(np.pad(visible, [(0, 0), (0, rest)]), tf.float32)

    return encode


@pytest.mark.parametrize("shards", ["iid", pytest.param("all", marks=pytest.mark.large)])
def test_every_pass_has_masks_of_its_own_however_long_a_round(shards, tmp_path, monkeypatch):
    """Of a run in which a feature tells its mask: 100 local steps are up to 2.2 passes."""
    seen = []
    train_round = IstTrainer.train_round

    def recorded(trainer, steps):
        rows = trainer._batches(steps)[0].numpy()
        for stream, some in zip(trainer.streams.values(), rows, strict=True):
            features, labels = trainer.features.numpy()[some], trainer.labels.numpy()[some]
            seen.append((stream, trainer.step, steps, features, labels))
        return train_round(trainer, steps)

    monkeypatch.setattr(encoding, "make_encode", _telling)
    monkeypatch.setattr(IstTrainer, "train_round", recorded)
    config = _config(tmp_path / "cache", shards)
    train_and_evaluate(config, tmp_path / "run", Cluster(0, ()))
    assert [steps for *_, steps, _, _ in seen] == [100] * 5 + [50] * 5
    labels = datasets.load("digits")["train"].labels
    for stream, step, steps, features, their_labels in seen:
        rows = stream.rows(step, steps)
        start = np.arange(step * 8, (step + steps) * 8)
        epochs = start // len(stream.shard)
        positions = random_positions(config.seed, rows.ravel(), epochs, 64, 0.5)
        visible = visible_from_positions(positions, 64).reshape(*rows.shape, 64)
        assert np.array_equal(features[..., :64], visible)
        assert np.array_equal(their_labels, labels[rows])


@given(
    size=st.integers(1, 20), views=st.integers(2, 7), seed=st.integers(0, 99), at=st.integers(0, 50)
)
def test_an_example_has_all_its_views_in_so_many_passes(size, views, seed, at):
    locate, rows = in_turns(size, views, seed), np.arange(size, dtype=np.int32)
    found = np.stack([locate(1, np.full(size, at + k), rows) for k in range(views)])
    assert np.array_equal(found % size, np.tile(rows, (views, 1)))
    assert np.array_equal(np.sort(found // size, axis=0).T, np.tile(np.arange(views), (size, 1)))
    assert np.array_equal(locate(2, np.full(size, at), rows), found[1])  # subnets differ
    assert in_turns(size, 1, seed) is None


def _with_views(cache, algorithm="ist", shards="iid"):
    config = _config(cache, shards)
    config.masks.kind, config.masks.views, config.batch_size = "fixed", 3, 16
    config.ist.algorithm, config.ist.local_steps = algorithm, 40
    config.total_steps, config.centralized_baseline = 120, False
    config.checkpoint_every_rounds = 1
    if algorithm == "data_parallel":
        config.ist.local_steps = 0
    validate(config, 1)
    return config


@pytest.mark.parametrize(
    "algorithm",
    [
        "ist",
        "data_parallel",
        *(pytest.param(name, marks=pytest.mark.large) for name in ("diloco", "local_sgd")),
    ],
)
def test_views_take_turns_and_come_from_the_cache(algorithm, tmp_path, monkeypatch):
    seen, batches = [], Trainer._batches

    def recorded(trainer, steps):
        rows, rates = batches(trainer, steps)
        for stream, some in zip(trainer.streams.values(), rows.numpy(), strict=True):
            features, labels = trainer.features.numpy()[some], trainer.labels.numpy()[some]
            seen.append((stream, trainer.step, steps, features, labels))
        return rows, rates

    monkeypatch.setattr(encoding, "make_encode", _telling)
    monkeypatch.setattr(Trainer, "_batches", recorded)
    config = _with_views(tmp_path / "cache", algorithm)
    train_and_evaluate(config, tmp_path / "run", Cluster(0, ()))
    assert len(list((tmp_path / "cache").iterdir())) == 1 + 3  # one of the test images
    labels = datasets.load("digits")["train"].labels
    size = len(labels)
    masks = [fixed_positions(config.seed, np.arange(size), 64, 0.5, view) for view in range(3)]
    masks = np.stack([visible_from_positions(some, 64) for some in masks])
    locate = in_turns(size, 3, config.seed)
    for stream, step, steps, features, their_labels in seen:
        rows, passes = stream.rows(step, steps), stream.passes(step, steps)
        view = locate(stream.subnet, passes, rows) // size
        assert np.array_equal(features[..., :64], masks[view, rows])
        assert np.array_equal(their_labels, labels[rows])

    def none(encoder):
        raise AssertionError("is encoded again")

    monkeypatch.setattr(encoding, "make_encode", none)
    train_and_evaluate(config, tmp_path / "again", Cluster(0, ()))


def test_with_views_a_restart_changes_no_bit(tmp_path):
    config = _with_views(tmp_path / "cache")
    train_and_evaluate(config, tmp_path / "whole", Cluster(0, ()))
    kept = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    (tmp_path / "resumed" / "checkpoints").mkdir(parents=True)
    (tmp_path / "resumed" / "checkpoints" / kept[0].name).write_bytes(kept[0].read_bytes())
    assert kept[0].name == "round_00000002.safetensors"
    train_and_evaluate(config, tmp_path / "resumed", Cluster(0, ()))
    states = [
        load_file(sorted((tmp_path / name / "checkpoints").iterdir())[-1])
        for name in ("whole", "resumed")
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        np.testing.assert_array_equal(states[1][name], value)


def test_mixed_ways_to_scale_take_turns_and_the_test_has_one(tmp_path, monkeypatch):
    seen = []

    def told(encoder):
        def encode(images, positions):
            seen.append(np.asarray(images))
            return _telling(encoder)(images, positions)

        return encode

    monkeypatch.setattr(encoding, "make_encode", told)
    config = _with_views(tmp_path / "cache")
    config.masks.views, config.dataset.resize, config.masks.kind = 1, "mixed", "shared"
    folder = tmp_path / "images"
    _noise(folder / "train", 6), _noise(folder / "test", 2)
    config.dataset.name, config.total_steps = f"folder:{folder}", 20
    validate(config, 1)
    masks = training_masks(config)
    assert [some.resize for some in masks] == ["antialias", "bilinear", "area"]
    assert mask_options(config) == masks[0]
    train_and_evaluate(config, tmp_path / "run", Cluster(0, ()))
    assert len(list((tmp_path / "cache").iterdir())) == 3 + 1
    assert len({images.tobytes() for images in seen}) >= 3 + 1
    config.masks.kind, config.masks.views = "fixed", 2
    assert [(some.view, some.resize) for some in training_masks(config)] == [
        (view, way) for view in range(2) for way in ("antialias", "bilinear", "area")
    ]


def _noise(folder, count):
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for k in range(count):
            pixels = np.random.default_rng(k).integers(0, 256, (150, 150, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{k}.png")


def test_the_first_view_has_the_cache_file_of_before():
    encoder, split = load_encoder("random:vit_pico"), datasets.load("digits")["test"]

    def key(*masks, view):
        return encoding.Features(encoder, MaskOptions(*masks, view=view)).key(split)

    first = encoding.Features(encoder, MaskOptions("fixed", 0.5)).key(split)
    assert key("fixed", 0.5, view=0) == first
    assert len({first, key("fixed", 0.5, view=1), key("fixed", 0.5, view=2)}) == 3
    for masks in (("fixed", 0.0), ("shared", 0.5), ("random", 0.5)):  # where a view is no other
        assert key(*masks, view=1) == key(*masks, view=0)


SMALL = (
    "--config.dataset.name=digits",
    "--config.dataset.shards=iid",
    "--config.encoder.weights=random:vit_pico",
    "--config.masks.kind=random",
    "--config.head.hidden=(32,)",
    "--config.head.standardize=true",
    "--config.head.normalization=batch",
    "--config.total_epochs=0",
    "--config.batch_size=32",
    "--config.total_steps=40",
    "--config.ist.link=fast",  # shares of features differ in the last bit
    "--config.ist.local_steps=15",
    "--config.eval_every_rounds=1",
    "--config.checkpoint_every_rounds=1",
)


def _train(tmp_path, name, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("TF_CONFIG", "COLUMNS")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TF_DETERMINISTIC_OPS": "1"}
    command = [sys.executable, "-m", "sparse_ist_tf.train", f"--workdir={tmp_path / name}"]
    done = subprocess.run(
        [*command, *SMALL, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    state = load_file(sorted((tmp_path / name / "checkpoints").glob("*"))[-1])
    return state, json.loads((tmp_path / name / "results.json").read_text())


@pytest.mark.large
@pytest.mark.parametrize("masks", [(), ("--config.masks.kind=fixed", "--config.masks.views=3")])
def test_neither_workers_nor_a_restart_change_what_is_drawn(masks, tmp_path):
    state, results = _train(tmp_path, "one", "--num_workers=1", *masks)
    (tmp_path / "resumed" / "checkpoints").mkdir(parents=True)
    kept = sorted((tmp_path / "one" / "checkpoints").iterdir())
    assert kept[0].name == "round_00000002.safetensors"
    (tmp_path / "resumed" / "checkpoints" / kept[0].name).write_bytes(kept[0].read_bytes())
    for name, workers in (("two", 2), ("resumed", 1)):
        other, found = _train(tmp_path, name, f"--num_workers={workers}", *masks)
        assert found["accuracy"] == results["accuracy"]
        assert found["centralized_accuracy"] == results["centralized_accuracy"]
        for key, value in state.items():
            np.testing.assert_allclose(other[key], value, rtol=0, atol=1e-5, err_msg=key)
