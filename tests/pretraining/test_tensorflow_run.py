"""Pre-training: both objectives learn, resume where they were, and say what is wrong."""

import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.checkpoints.writing import save_encoder
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.masks.patches import patchify
from sparse_ist_tf.pretraining.data import Images
from sparse_ist_tf.pretraining.run import assign_state, named_variables
from sparse_ist_tf.pretraining.tensorflow_run import Pretraining
from tests.fixtures.presets import SMALL_PRESET

pytestmark = pytest.mark.usefixtures("small_preset")
ORDER = {"supervised": "2f974c0d622f", "mae": "fdbc9ef27976"}


def _config(**changes):
    config = ConfigDict(
        {
            "seed": 0,
            "preset": SMALL_PRESET,
            "weights": "",
            "start_share": 0.0,
            "dtype": "float32",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "objective": "supervised",
            "label_smoothing": 0.1,
            "distillation": 0.0,
            "teacher": "",
            "projector": 0,
            "decoder": {"width": 32, "depth": 1, "num_heads": 2},
            "mask_ratios": (0.75, 0.5),
            "mask_probabilities": (0.5, 0.5),
            "masks": {"grid": "sensor", "scaled_share": 0.0},
            "sensor_sizes": (),
            "sensor_probabilities": (),
            "image_sizes": (),
            "size_probabilities": (),
            "augment": ("flip", "crop"),
            "crop_area": 0.5,
            "mix_probability": 1.0,
            "optimizer": {"name": "adamw", "kwargs": {"weight_decay": 0.05}},
            "learning_rate": 1e-3,
            "scale_learning_rate": False,
            "schedule": "cosine",
            "decay": 0.0,
            "warmup_steps": 2,
            "batch_size": 16,
            "total_steps": 12,
            "eval_mask_ratios": (0.0, 0.5),
            "eval_images": 32,
            "probe": {"every": 0, "images": 64, "mask_ratios": (0.0,)},
            "log_every": 4,
            "eval_every": 8,
            "checkpoint_every": 4,
        }
    )
    config.update(changes)
    return config


def test_the_supervised_objective_learns(images, tmp_path):
    record = Pretraining(_config(total_steps=24), images, tmp_path).train(lambda _: None)
    assert record["step"] == 24
    assert record["test_accuracy@0.0"] > 0.9
    assert record["test_accuracy@0.5"] > 0.9
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8, 12, 16, 20, 24]


def test_stopping_and_going_on_gives_the_same_weights(images, tmp_path):
    whole = Pretraining(_config(), images, tmp_path / "whole")
    whole.train(lambda _: None)
    first = Pretraining(_config(), images, tmp_path / "parts")
    for batch in first.batches():  # killed two steps behind its second checkpoint
        first.train_step(*batch)
        if first.step == 8:
            first.save()
        if first.step == 10:
            break
    for step in (4, 8, 10):
        first.directory.append_metrics({"step": step})
    second = Pretraining(_config(), images, tmp_path / "parts")
    assert second.step == 8
    second.train(lambda _: None)
    for a, b in zip(whole.model.variables, second.model.variables, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6)
    assert [record["step"] for record in second.directory.metrics()] == [4, 8, 12]


def test_the_masked_autoencoder_learns(images, tmp_path):
    config = _config(objective="mae", total_steps=30, learning_rate=3e-3, eval_mask_ratios=(0.75,))
    run = Pretraining(config, images, tmp_path)
    before = run.evaluate(32)["test_loss@0.75"]
    after = run.train(lambda _: None)["test_loss@0.75"]
    assert after < 0.95 * before


@pytest.mark.large
def test_distillation_adds_the_whole_view(images, tmp_path):
    plain = Pretraining(_config(), images, tmp_path / "a")
    distilled = Pretraining(_config(distillation=0.5), images, tmp_path / "b")
    batch = next(iter(plain.batches()))
    assert float(plain.train_step(*batch)[0]) != float(distilled.train_step(*batch)[0])


def _teacher(images, folder, **changes):
    config = _config(seed=1, projector=32, **changes)
    run = Pretraining(config, images, folder)
    with run.directory.opened(config.to_dict()):
        run.save()
    return run


def test_both_views_learn_from_a_teacher(images, tmp_path):
    """With nothing but the teacher to learn from, labels don't matter and its outputs do."""
    teacher = _teacher(images, tmp_path / "teacher")
    config = _config(distillation=1.0, teacher=str(tmp_path / "teacher"))
    run = Pretraining(config, images, tmp_path / "run")
    pictures, labels, *rest = next(iter(run.batches()))
    losses = [float(run._gradients(pictures, x, *rest)[1][0]) for x in (labels, 1 - labels)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    _, whole = run._views(pictures, rest[0])
    outputs = teacher.model.of_whole(whole)
    np.testing.assert_allclose(run.teacher.of_whole(whole), outputs, atol=1e-5)
    assert not set(map(id, run.teacher.variables)) & set(map(id, run.model.variables))


def test_a_teacher_that_is_none_is_named(images, tmp_path):
    def taught(name):
        config = _config(distillation=0.5, teacher=str(tmp_path / name))
        Pretraining(config, images, tmp_path / "run")

    with pytest.raises(RequestError, match="nowhere: is no run directory"):
        taught("nowhere")
    _teacher(images, tmp_path / "mae", objective="mae")
    with pytest.raises(RequestError, match=r"mae': no supervised run of pretrain"):
        taught("mae")
    more = Images(images.train, images.train_labels, images.test, images.test_labels, 5)
    _teacher(more, tmp_path / "classes")
    with pytest.raises(RequestError, match="must be a classifier of 2 classes on images of 64 px"):
        taught("classes")


def test_mixed_patches_are_the_neighbour_s(images, tmp_path):
    run = Pretraining(_config(augment=("cutmix",), projector=64), images, tmp_path)
    pictures, labels, places, shares = next(iter(run.batches()))
    _, plain = run._views(pictures, places)
    patches, mixed = run._views(pictures, places, shares)
    plain, mixed, shares = (np.asarray(part) for part in (plain, mixed, shares))
    other = plain.reshape(-1, 2, *plain.shape[1:])[:, ::-1].reshape(plain.shape)
    np.testing.assert_allclose(mixed, np.where(shares[:, :, None] > 0, other, plain), atol=1e-6)
    chosen = np.take_along_axis(mixed, np.asarray(places)[:, :, None], axis=1)
    np.testing.assert_array_equal(np.asarray(patches), chosen)
    assert len(set(np.asarray(labels).reshape(-1, 2).sum(axis=1))) > 1  # neighbours of all kinds
    assert run.train(lambda _: None)["loss"] > 0


def test_the_projector_is_not_part_of_the_encoder(images, tmp_path):
    plain = Pretraining(_config(), images, tmp_path / "a")
    other = Pretraining(_config(projector=64), images, tmp_path / "b")
    assert len(other.encoder.weights) == len(plain.encoder.weights)
    names = [variable.path for variable in other.model.trainable_variables]
    assert sum("projector" in name for name in names) == 6
    before = [np.asarray(variable) for variable in other.model.trainable_variables]
    other.train_step(*next(iter(other.batches())))
    after = [np.asarray(variable) for variable in other.model.trainable_variables]
    for name, a, b in zip(names, before, after, strict=True):
        assert (a != b).any(), name


def test_another_run_s_checkpoint_is_refused(images, tmp_path):
    Pretraining(_config(), images, tmp_path).save()
    with pytest.raises(RequestError, match="another configuration"):
        Pretraining(_config(objective="mae"), images, tmp_path)


def test_a_checkpoint_names_what_it_holds(images, tmp_path):
    run = Pretraining(_config(projector=8), images, tmp_path)
    run.save()
    names = load_file(run.checkpoint_path).keys()
    assert len(names) == len(run.model.variables) + len(run.optimizer.variables)
    assert {
        "model/cls_token",
        "model/block_0/qkv/kernel",
        "model/projector_hidden/bias",
        "model/classifier/kernel",
        "optimizer/iteration",
        "optimizer/cls_token/momentum",
        "optimizer/block_0/qkv/kernel/momentum",
        "optimizer/classifier/kernel/velocity",
    } <= names


def _numbered(state, metadata, path):
    """The same checkpoint as 0.1.0 wrote it, without names."""
    counts, old = {"model": 0, "optimizer": 0}, {}
    for name, array in state.items():
        group = name.partition("/")[0]
        old[f"{group}/{counts[group]}"] = array
        counts[group] += 1
    save_file(old, path, metadata=metadata)
    return old


@pytest.mark.parametrize("objective", ["supervised", "mae"])
def test_checkpoints_of_0_1_0_are_read(images, tmp_path, objective):
    config = _config(objective=objective)
    run = Pretraining(config, images, tmp_path)
    run.train_step(*next(iter(run.batches())))
    state = {n: np.array(v) for n, v in named_variables(run.model, run.optimizer).items()}
    old = _numbered(state, {"step": "1", "preset": SMALL_PRESET}, run.checkpoint_path)
    assert list(old)[:2] == ["model/0", "model/1"]
    again = Pretraining(config, images, tmp_path)
    assert again.step == 1
    for name, value in named_variables(again.model, again.optimizer).items():
        np.testing.assert_array_equal(np.asarray(value), state[name], err_msg=name)
    with pytest.raises(RequestError, match="another configuration"):
        Pretraining(_config(objective=objective, preset="vit_pico"), images, tmp_path)
    del old["optimizer/7"]
    save_file(old, run.checkpoint_path, metadata={"step": "1", "preset": SMALL_PRESET})
    with pytest.raises(RequestError, match="another configuration"):
        Pretraining(config, images, tmp_path)


def test_the_order_of_0_1_0_still_stands(images, tmp_path):
    """By which its checkpoints, which have no names, are read."""
    for config, first, last in (
        (
            _config(preset="vit_pico", projector=8),
            "model/cls_token",
            "optimizer/classifier/bias/velocity",
        ),
        (
            _config(preset="vit_pico", objective="mae"),
            "model/masked_autoencoder/mask_token",
            "optimizer/decoder_pixels/bias/velocity",
        ),
    ):
        run = Pretraining(config, images, tmp_path / config.objective)
        names = list(named_variables(run.model, run.optimizer))
        assert (names[0], names[-1]) == (first, last)
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        assert digest[:12] == ORDER[config.objective], names


def test_variables_in_another_order_keep_their_values(images, tmp_path):
    run = Pretraining(_config(), images, tmp_path)
    named = named_variables(run.model, run.optimizer)
    state = {name: np.array(variable) for name, variable in named.items()}
    assert assign_state(dict(reversed(state.items())), named)
    for name, value in named.items():
        np.testing.assert_array_equal(np.asarray(value), state[name], err_msg=name)


def test_a_loss_that_is_not_finite_is_named(images, tmp_path):
    run = Pretraining(_config(learning_rate=1e20, warmup_steps=0), images, tmp_path)
    with pytest.raises(RunError, match="loss is"):
        run.train(lambda _: None)


def test_it_starts_from_given_weights(images, tmp_path):
    """And refuses those of another architecture."""
    given = load_encoder("packaged:vit_pico").model
    run = Pretraining(
        _config(preset="vit_pico", weights="packaged:vit_pico"), images, tmp_path / "a"
    )
    for mine, theirs in zip(run.encoder.weights, given.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
    with pytest.raises(RequestError, match="not those of a vit_pico: width is 192, not 96"):
        Pretraining(
            _config(preset="vit_pico", weights="packaged:vit_micro"), images, tmp_path / "b"
        )


@pytest.mark.large
def test_the_written_encoder_may_lie_between_start_and_end(images, tmp_path):
    """And the checkpoint, from which a finished run averages again, stays what was trained."""
    config = _config(preset="vit_pico", weights="random:vit_pico", start_share=0.25)
    start = load_encoder("random:vit_pico").model
    records = []
    for _ in range(2):
        run = Pretraining(config, images, tmp_path)
        run.train(lambda _: None)
        trained = [np.array(v) for v in run.encoder.weights]
        run.average(records.append)
        for mine, a, b in zip(run.encoder.weights, start.weights, trained, strict=True):
            np.testing.assert_allclose(mine, 0.25 * np.asarray(a) + 0.75 * b, rtol=0, atol=1e-6)
    assert records[0] == records[1]
    assert {"start_share", "test_accuracy@0.5"} <= records[0].keys()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert ["start_share" in line for line in lines] == [False, False, False, True]


def test_weight_decay_spares_biases_and_norms(images, tmp_path):
    """With a rate of 1 and gradients of 0, a decay of 0.05 leaves 0.95 of what decays."""
    run = Pretraining(_config(objective="mae"), images, tmp_path)
    run.optimizer.learning_rate.assign(1.0)
    variables = run.model.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    run._apply([np.zeros(variable.shape, np.float32) for variable in variables])
    for variable in variables:
        left = 1.0 if len(variable.shape) == 1 else 0.95
        np.testing.assert_allclose(np.asarray(variable), left, rtol=1e-6, err_msg=variable.path)


@pytest.mark.large
def test_images_of_another_size_are_what_the_resized_encoder_sees(images, tmp_path):
    """Its accuracy is that of the written encoder, loaded for that size."""
    sizes = {"image_sizes": (64, 128), "size_probabilities": (0.5, 0.5)}
    sizes["masks"] = {"grid": "scaled"}
    run = Pretraining(_config(distillation=0.5, **sizes), images, tmp_path / "run")
    record = run.train(lambda _: None)
    names = [f"test_accuracy{size}@{ratio}" for size in ("", "_128px") for ratio in (0.0, 0.5)]
    assert [name for name in record if "@" in name] == names
    assert min(record[name] for name in names) > 0.9
    save_encoder(
        tmp_path / "e.safetensors", run.encoder, run.config.mean, run.config.std, dtype="float32"
    )
    large = load_encoder(str(tmp_path / "e.safetensors"), image_size=128)
    pixels = tf.image.resize(images.test[:8], (128, 128), antialias=True) / 127.5 - 1
    whole = patchify(pixels, 8)
    every = np.tile(np.arange(256), (8, 1))
    feature = large.model({"patches": whole, "positions": every})
    np.testing.assert_allclose(
        run.model.of_whole(whole), run.model.classifier(feature), rtol=0, atol=1e-5
    )


def test_no_hidden_pixel_reaches_a_view_or_a_test(images, tmp_path):
    """Whatever the sensor has in hidden cells: patches, outputs and accuracy are the same."""
    few = {"sensor_sizes": (32,), "sensor_probabilities": (1.0,), "augment": ()}
    record = {}
    for name, value in (("black", 0), ("white", 255)):
        pixels = images.test.copy()
        pixels[:, :, 32:] = value  # stored; of the sensor columns from 16 on, cells 4 to 7
        half = Images(pixels, images.test_labels, pixels, images.test_labels, 2)
        run = Pretraining(_config(**few), half, tmp_path / name)
        places = np.stack([row * 8 + np.arange(3) for row in range(8)]).ravel()
        places = np.tile(places.astype(np.int32), (16, 1))
        seen, whole = run._views(next(iter(run.batches()))[0], places)
        (resolution,) = run.resolutions
        metric = run._metric_of(np.arange(16), places, resolution)
        record[name] = np.asarray(seen), np.asarray(whole), metric
    for black, white in zip(record["black"][::2], record["white"][::2], strict=True):
        np.testing.assert_array_equal(black, white)
    assert (record["black"][1] != record["white"][1]).any()


@pytest.mark.large
def test_accuracies_name_the_sensor_that_they_are_of(images, tmp_path):
    few = {"sensor_sizes": (64, 16), "sensor_probabilities": (0.5, 0.5)}
    few |= {"image_sizes": (64, 128), "size_probabilities": (0.5, 0.5), "total_steps": 4}
    few |= {"probe": {"every": 4, "images": 64, "mask_ratios": (0.5,)}, "eval_mask_ratios": (0.5,)}
    record = Pretraining(_config(**few), images, tmp_path).train(lambda _: None)
    sides = ("", "_sensor16px", "_128px", "_128px_sensor16px")
    names = [f"test_accuracy{side}@0.5" for side in sides]
    names += [f"linear_accuracy{side}@0.5" for side in sides[:2]]
    assert [name for name in record if "@" in name] == names


def test_the_probe_is_in_the_records(images, tmp_path):
    probe = {"every": 8, "images": 64, "mask_ratios": (0.0, 0.5)}
    run = Pretraining(_config(probe=probe), images, tmp_path)
    run.train(lambda _: None)
    linear = {r["step"]: r for r in run.directory.metrics() if "linear_accuracy@0.5" in r}
    assert list(linear) == [0, 8, 12]
    assert linear[12]["linear_accuracy@0.0"] > 0.9


def test_a_damaged_checkpoint_is_named(images, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RunError, match="damaged"):
        Pretraining(_config(), images, tmp_path)
