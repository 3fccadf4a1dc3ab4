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
from tests.fixtures.presets import small_preset
from tests.fixtures.shared import feature_cache

__all__ = [
    "classifier_file",
    "feature_cache",
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
    "small_preset",
    "torch",
    "write_torch",
]

# Files that train with real processes for long: first, so that no core waits for one at the end.
LONG = {
    "": ("train", "study", "pretrain"),
    "runs": ("elastic",),
    "encoder": ("features",),
    "face": ("classifier",),
    "pretraining": ("tensorflow_run",),
    "export": ("pipeline",),
    "benchmarks/cluster": ("comparison",),
    "ist": ("rounds",),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts files, which are dealt out in this order; tests of a file keep theirs."""
    tests = Path(__file__).parent
    long = {tests / room / f"test_{name}.py" for room, names in LONG.items() for name in names}
    items.sort(key=lambda item: item.path not in long)
