"""The encoder's last blocks train with the head: what changes, what doesn't, and what is kept."""

import numpy as np
import pytest

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.config import get_config, validate
from sparse_ist_tf.encoder.bundle import stored_arrays
from sparse_ist_tf.encoder.features import Features
from sparse_ist_tf.encoder.finetuning import FrozenTokens, trained_variables
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.evaluate import evaluate
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.split import ArraySource, Split
from sparse_ist_tf.ist.finetuning import FineTuningTrainer, Tuning
from sparse_ist_tf.ist.head import HeadSpec
from sparse_ist_tf.ist.rounds import IstTrainer
from sparse_ist_tf.ist.trainer import TrainerOptions, TrainingData
from sparse_ist_tf.masks import MaskOptions, visible_from_positions
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs import training
from sparse_ist_tf.runs.training import train_and_evaluate
from sparse_ist_tf.workers.cluster import Cluster
from sparse_ist_tf.workers.link import Link

OPTIONS = TrainerOptions(batch_size=32, local_steps=4)
SPEC = HeadSpec(96, (32,), 10)


@pytest.fixture(scope="module")
def test_split():
    """360 digits."""
    return datasets.load("digits")["test"]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    """Where decoded images go."""
    return tmp_path_factory.mktemp("decoded")


def _trainer(split, cache_dir, kind="fixed", blocks=1, factor=1.0):
    encoder = load_encoder("packaged:vit_pico")
    tokens = FrozenTokens(encoder, split, MaskOptions(kind, 0.5), 4 - blocks, cache_dir)
    data = TrainingData(None, split.labels, [np.arange(split.size)])
    tuning = Tuning(encoder, blocks, factor, tokens)
    return FineTuningTrainer(SPEC, OPTIONS, Link.alone(), data, tuning)


@pytest.mark.parametrize(
    "kind", ["fixed", "random", pytest.param("shared", marks=pytest.mark.large)]
)
def test_frozen_blocks_stay_and_the_others_learn(kind, test_split, cache_dir):
    trainer = _trainer(test_split, cache_dir, kind, blocks=2)
    before = stored_arrays(trainer.encoder.model)
    first = trainer.run_round()["loss"]
    for _ in range(7):
        last = trainer.run_round()["loss"]
    assert last < 0.9 * first
    after = stored_arrays(trainer.encoder.model)
    for path, value in before.items():
        trains = path.startswith(("block_2/", "block_3/", "norm/"))
        assert np.array_equal(value, after[path]) != trains, path
    assert trained_variables(trainer.encoder, 2).keys() == trainer.gather().encoder.values.keys()


def test_an_encoder_at_rest_gives_the_head_of_centralised_training(test_split, cache_dir):
    """With a rate of 0 for its blocks: the path on features that are encoded once."""
    tuned = _trainer(test_split, cache_dir, factor=0.0)
    encoder = load_encoder("packaged:vit_pico")
    features = Features(encoder, MaskOptions("fixed", 0.5)).encode(test_split, progress=False)
    np.testing.assert_allclose(tuned.features_of(tuned.tokens), features, atol=1e-4)
    data = TrainingData(features, test_split.labels, [np.arange(test_split.size)])
    plain = IstTrainer(SPEC, OPTIONS, Link.alone(), data)
    for trainer in (tuned, plain):
        for _ in range(3):
            record = trainer.run_round()
    assert record["step"] == tuned.step == 12
    found = tuned.gather().arrays()
    for name, value in plain.gather().arrays().items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4, err_msg=name)


def test_random_masks_change_with_the_epoch_of_an_example(test_split, cache_dir):
    tokens = _trainer(test_split, cache_dir, "random").tokens
    rows = np.array([5, 3])
    first, again = tokens(rows), tokens(rows[::-1])[::-1]
    most = np.abs(first).max()  # places in a batch differ: float32 sums of such sizes do, too
    np.testing.assert_allclose(first, again, rtol=1e-5, atol=1e-5 * most)
    second = tokens(rows, 1)
    assert (np.abs(second - first).max(axis=(1, 2)) > 1e-3).all()
    mixed = tokens(rows, np.array([1, 0]))
    np.testing.assert_allclose(mixed, [second[0], first[1]], rtol=1e-5, atol=1e-5)


def test_every_pass_draws_masks_of_its_own(test_split, cache_dir, monkeypatch):
    """Of rounds as long as 8 passes."""
    trainer, drawn = _trainer(test_split, cache_dir, "random"), []
    tokens = trainer.tokens
    monkeypatch.setattr(tokens, "_compute", lambda rows, epochs: drawn.append((rows, epochs)))
    monkeypatch.setattr(trainer, "tokens", lambda *draws: tokens(*draws))
    monkeypatch.setattr(trainer, "_step", lambda *_: (0.0, 0.0))
    for _ in range(2):
        trainer.run_round(90)
    rows, epochs = (np.concatenate(some) for some in zip(*drawn, strict=True))
    assert np.array_equal(epochs, np.arange(180 * 32) // 360)
    assert len(set(zip(rows.tolist(), epochs.tolist(), strict=True))) == len(rows)


def test_hidden_pixels_of_the_sensor_reach_no_token(cache_dir):
    encoder, masks = load_encoder("random:vit_pico"), MaskOptions("fixed", 0.5)
    rng = np.random.default_rng(0)
    images, others = rng.integers(0, 256, (2, 6, 24, 24, 3), np.uint8)
    positions = masks.positions(np.arange(6), 64)
    visible = visible_from_positions(positions, 64).reshape(6, 8, 8, 1)
    others = np.where(visible.repeat(3, axis=1).repeat(3, axis=2), images, others)

    def tokens(name, images):
        split = Split(name, ArraySource(images), np.zeros(6, np.int32), ("a",), name)
        return FrozenTokens(encoder, split, masks, 2, cache_dir)(np.arange(6))

    assert (images != others).any(axis=(1, 2, 3)).all()
    assert np.array_equal(tokens("images", images), tokens("others", others))


def test_more_blocks_than_there_are_is_refused():
    with pytest.raises(RequestError, match=r"trainable_blocks=5: must be from 0 to 4"):
        trained_variables(load_encoder("random:vit_pico"), 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, r"ist.algorithm='ist': must be 'centralized' for encoder.trainable_blocks=1"),
        ({"encoder.dtype": "bfloat16"}, "encoder.dtype='bfloat16': must be 'float32'"),
        ({"transport.codec": "jpeg"}, "transport.codec='jpeg': must be 'none'"),
        ({"head.standardize": True}, "head.standardize=True: must be False"),
        ({"encoder.trainable_blocks": -1}, "encoder.trainable_blocks=-1: must be at least 0"),
        ({"encoder.learning_rate_factor": 0.0}, "encoder.learning_rate_factor=0.0: must be above"),
    ],
)
def test_what_does_not_go_together_is_named(changes, words):
    config = get_config()
    config.encoder.trainable_blocks = 1
    if changes:
        config.ist.algorithm = "centralized"
    config.update_from_flattened_dict(changes)
    with pytest.raises(RequestError, match=words):
        validate(config, num_workers=1)


def _config(cache):
    config = get_config()
    config.dataset.name = "digits"
    config.encoder.weights, config.features.cache_dir = "packaged:vit_pico", str(cache)
    config.encoder.trainable_blocks = 1
    config.ist.algorithm, config.ist.local_steps = "centralized", 5
    config.head.hidden = (32,)
    config.total_epochs, config.total_steps = 0.0, 20
    config.eval_every_rounds = config.checkpoint_every_rounds = 2
    return config


def test_a_run_is_kept_recomputed_exported_and_resumed(cache_dir, tmp_path, monkeypatch):
    from sparse_ist_tf.runs.finished_run import FinishedRun

    config, alone = _config(cache_dir), Cluster(0, ())
    validate(config, 1)
    results = train_and_evaluate(config, tmp_path / "whole", alone)
    tuned = load_encoder(str(tmp_path / "whole" / "encoder.safetensors"))
    assert tuned.digest != load_encoder("packaged:vit_pico").digest
    again = evaluate(str(tmp_path / "whole"))
    assert again["accuracy"] == results["accuracy"]
    assert again["head_keras"] == results["accuracy"]["merged"]
    run = FinishedRun(tmp_path / "whole")
    assert run.encoder.digest == tuned.digest
    assert run.config.encoder.weights == str(tmp_path / "whole" / "encoder.safetensors")

    parts = tmp_path / "parts"
    (parts / "checkpoints").mkdir(parents=True)
    half = "round_00000002.safetensors"
    first = RunDirectory(tmp_path / "whole").path / "checkpoints"
    assert sorted(path.name for path in first.iterdir()) == [half, "round_00000004.safetensors"]
    (parts / "checkpoints" / half).write_bytes((first / half).read_bytes())
    monkeypatch.setattr(training, "finish", lambda run: {})  # shown above
    train_and_evaluate(config, parts, alone)
    states = [RunDirectory(folder).checkpoint()[0] for folder in (tmp_path / "whole", parts)]
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=0, atol=1e-5, err_msg=name)
