"""A run whose features cross in few bits: trained, tested, resumed and read again by them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from sparse_ist_tf.codec.few_bits import Channels
from sparse_ist_tf.config import get_config, validate
from sparse_ist_tf.errors import RunError
from sparse_ist_tf.evaluate import evaluate
from sparse_ist_tf.ist.trainer import Trainer
from sparse_ist_tf.runs import training
from sparse_ist_tf.runs.training import train_and_evaluate
from sparse_ist_tf.workers.cluster import Cluster


def _config(cache, **masks):
    config = get_config()
    config.dataset.name, config.features.cache_dir = "digits", str(cache)
    config.encoder.weights, config.transport.features = "packaged:vit_pico", "int2"
    config.head.hidden, config.head.standardize = (32, 32), True
    config.total_epochs, config.total_steps, config.ist.local_steps = 0.0, 120, 40
    config.checkpoint_every_rounds, config.masks.test_ratios = 1, (0.25,)
    config.masks.update(masks)
    validate(config, 1)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, results, cache) of a run."""
    folder = tmp_path_factory.mktemp("few_bits")
    results = train_and_evaluate(_config(folder / "cache"), folder / "run", Cluster(0, ()))
    return folder / "run", results, folder / "cache"


def test_it_is_tested_again_with_what_it_knew(finished):
    path, results, _ = finished
    again = evaluate(path)
    for what in ("accuracy", "centralized_accuracy", "accuracy_at", "missing_workers"):
        assert again[what] == results[what]
    assert results["centralized_accuracy"] > 0.3
    sizes = results["bytes_per_image"]
    assert [sizes[f"feature_int{bits}"] for bits in (8, 4, 3, 2)] == [
        109,
        57,
        45,
        33,
    ]  # 96 channels


@pytest.mark.parametrize(
    "masks", [{"kind": "random"}, pytest.param({"views": 2}, marks=pytest.mark.large)]
)
def test_training_sees_four_values_a_channel(masks, finished, tmp_path, monkeypatch):
    *_, cache = finished
    seen, before = [], Trainer.set_data

    def recorded(trainer, data):
        seen.append(data.features)
        before(trainer, data)

    monkeypatch.setattr(Trainer, "set_data", recorded)
    monkeypatch.setattr(training, "finish", lambda run: {})
    config = _config(cache, **masks)
    config.batch_size, config.total_steps, config.centralized_baseline = 16, 80, False
    config.masks.test_ratios = ()
    train_and_evaluate(config, tmp_path / "run", Cluster(0, ()))
    channels = Channels.of_dict(json.loads((tmp_path / "run" / "channels.json").read_text()))
    assert seen
    for features in seen:
        if len(features):
            assert max(len(np.unique(channel)) for channel in features.T) <= 4
            codes = channels.codes(features, 2)
            np.testing.assert_array_equal(channels.values(codes, 2), features)


def test_a_restart_changes_no_bit_whatever_is_in_the_cache(finished, tmp_path):
    path, results, cache = finished
    kept = sorted((path / "checkpoints").iterdir())
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in ("channels.json", f"checkpoints/{kept[0].name}"):
        (tmp_path / "run" / name).write_bytes((path / name).read_bytes())
    again = train_and_evaluate(_config(cache), tmp_path / "run", Cluster(0, ()))
    assert again["accuracy"] == results["accuracy"]
    state = load_file(tmp_path / "run" / "checkpoints" / kept[1].name)
    for name, value in load_file(kept[1]).items():
        np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("text", [None, "", "{}", '{"mean": [1], "std": "x"}', '{"mean": 1}'])
def test_channels_that_are_gone_or_damaged_are_one_line(text, finished, tmp_path):
    path, *_ = finished
    for name in ("config.json", "results.json", "data.json"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    (tmp_path / "checkpoints").symlink_to(path / "checkpoints")
    if text is not None:
        (tmp_path / "channels.json").write_text(text)
    with pytest.raises(RunError, match=r"channels.json is (damaged|missing)"):
        evaluate(tmp_path)
