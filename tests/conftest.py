"""Fixtures that several rooms' tests share."""

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
