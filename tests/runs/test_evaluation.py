"""A finished head under other masks: the same as encoding and testing by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sparse_ist_tf.checkpoints.loading import load_configured
from sparse_ist_tf.config import get_config
from sparse_ist_tf.encoder.features import Features
from sparse_ist_tf.ist.head import HeadSpec, accuracy, init_parameters, logits
from sparse_ist_tf.ist.partition import make_partition
from sparse_ist_tf.ist.state import HeadState, Weights
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.runs.evaluation import Evaluation, table_of_accuracies
from sparse_ist_tf.runs.parts import load_splits


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    config = get_config()
    config.dataset.name, config.encoder.weights = "digits", "packaged:vit_pico"
    config.features.cache_dir = str(tmp_path_factory.mktemp("cache"))
    config.head.hidden, config.seed = (12, 12), 3
    config.masks.test_ratios = (0.0, 0.5, 0.9)
    encoder, test = load_configured(config.encoder), load_splits(config)["test"]
    spec = HeadSpec(encoder.feature_dim, (12, 12), 10)
    masks = MaskOptions("fixed", 0.5, seed=3)
    features = Features(encoder, masks).encode(test, progress=False)
    state = HeadState(head=Weights(init_parameters(spec, 0)))
    return Evaluation(config, spec, encoder, test), state, features


def _finished(evaluation, state, features):
    return evaluation.finished_accuracies(state, 7, features, progress=False)


def test_accuracies_at_other_ratios_are_those_of_images_masked_so(case):
    evaluation, state, features = case
    config, encoder, test = evaluation.config, evaluation.encoder, evaluation.test
    head = state.folded()
    table = _finished(*case)["accuracy_at"]
    assert list(table) == ["0", "0.5", "0.9"]
    assert table["0.5"] == accuracy(logits(head, features), test.labels)
    masks = MaskOptions("fixed", 0.9, seed=3)
    features = Features(encoder, masks).encode(test, progress=False)
    assert table["0.9"] == accuracy(logits(head, features), test.labels)
    cache = Path(config.features.cache_dir)
    stamps = {path: path.stat().st_mtime_ns for path in cache.glob("*.features")}
    assert _finished(*case)["accuracy_at"] == table
    assert len(stamps) == 3
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.features")} == stamps


def test_only_heads_with_subnets_miss_any(case):
    evaluation, state, features = case
    config = evaluation.config.copy_and_resolve_references()
    config.masks.test_ratios = ()
    evaluation = dataclasses.replace(evaluation, config=config)
    found = _finished(evaluation, state, features)
    assert list(found["missing_workers"]) == ["1", "2", "3", "4"]
    assert found["accuracy_at"] == {}
    config.ist.algorithm = "local_sgd"
    assert _finished(evaluation, state, features)["missing_workers"] is None


def test_the_table_counts_subnets_and_ensembles():
    spec = HeadSpec(6, (9, 8), 4)
    features = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    head = init_parameters(spec, 0)
    labels = logits(head, features).argmax(1)
    table = table_of_accuracies(head, spec, make_partition(0, 0, spec.hidden, 2), features, labels)
    assert table["merged"] == 1.0
    assert len(table["subnets"]) == len(table["ensembles"]) == 2
    assert table["subnets"][0] == table["ensembles"][0]
