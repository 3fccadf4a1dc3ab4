"""Fixtures that several rooms' tests share."""

from pathlib import Path

import pytest

from tests.fixtures.encoders import images, make_case, randomise, torch, write_torch
from tests.fixtures.finished_run import (
    classifier_file,
    finished,
    head_features,
    head_file,
    head_layers,
    head_samples,
    run_path,
    small_classifier,
)
from tests.fixtures.page import litertjs

__all__ = [
    "classifier_file",
    "finished",
    "head_features",
    "head_file",
    "head_layers",
    "head_samples",
    "images",
    "litertjs",
    "make_case",
    "randomise",
    "run_path",
    "small_classifier",
    "torch",
    "write_torch",
]

# Files that train with real processes for long: first, so that no core waits for one at the end.
LONG = (
    *("test_train.py", "test_study.py", "test_pretrain.py", "runs/test_elastic.py"),
    *("encoder/test_features.py", "face/test_classifier.py", "pretraining/test_tensorflow_run.py"),
    *("export/test_pipeline.py", "benchmarks/cluster/test_comparison.py", "ist/test_rounds.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts files, which are dealt out in this order; tests of a file keep theirs."""
    long = {Path(__file__).parent / name for name in LONG}
    items.sort(key=lambda item: item.path not in long)
