"""Whether two runs ended alike is told to the bit."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparse_ist_tf.benchmarks.faults.pictures import (
    CLASSES,
    draw_pictures,
    exchange_classes,
    leave_out,
)
from sparse_ist_tf.benchmarks.faults.trial import same_end, same_weights


def _run(path, weights, round_=8, accuracy=0.5):
    (path / "checkpoints").mkdir(parents=True)
    save_file({"w": weights}, path / f"checkpoints/round_{round_:08d}.safetensors")
    (path / "results.json").write_text(json.dumps({"accuracy": {"merged": accuracy}}))
    return path


def test_equal_runs_are_the_same(tmp_path):
    runs = [_run(tmp_path / name, np.arange(4.0)) for name in "ab"]
    assert same_weights(*runs)
    assert same_end(*runs)


@pytest.mark.parametrize(
    "other",
    [
        {"weights": np.nextafter(np.arange(4.0), 9)},
        {"round_": 9},
        {"accuracy": 0.25},
        {"weights": np.arange(5.0)},
    ],
)
def test_the_last_bit_counts(tmp_path, other):
    one = _run(tmp_path / "a", np.arange(4.0))
    assert not same_end(one, _run(tmp_path / "b", **{"weights": np.arange(4.0)} | other))


def test_a_run_without_a_checkpoint_is_no_other(tmp_path):
    assert not same_weights(_run(tmp_path / "a", np.arange(4.0)), tmp_path / "b")


def test_pictures_are_exchanged_and_left_out(tmp_path):
    draw_pictures(tmp_path / "images")
    exchange_classes(tmp_path / "images", tmp_path / "exchanged")
    leave_out(tmp_path / "images", tmp_path / "fewer", 20)
    one, other = CLASSES
    first = "00.png"
    assert (tmp_path / "exchanged" / one / first).read_bytes() == (
        tmp_path / "images" / other / first
    ).read_bytes()
    assert len(list((tmp_path / "images").glob("*/*.png"))) == 160
    assert len(list((tmp_path / "fewer").glob("*/*.png"))) == 140
