"""What a worker holds at its most, measured on real processes."""

import json
import sys
from pathlib import Path

import pytest

from sparse_ist_tf.ist.exchange.parcels import PARCEL_BYTES
from sparse_ist_tf.ist.head import HeadSpec
from sparse_ist_tf.workers.launch import run_local_workers

SCRIPT = Path(__file__).parent / "memory_script.py"


@pytest.mark.large
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc")
def test_a_worker_holds_its_share_its_subnet_and_a_bounded_rest(tmp_path):
    width, workers = 6000, 2
    assert run_local_workers([sys.executable, str(SCRIPT), str(tmp_path), str(width)], workers) == 0
    columns = 3  # weights and Adam's moments
    whole = 4 * columns * HeadSpec(16, (width, width), 10).num_parameters
    homes, subnet = whole / workers, whole / workers**2
    kernel = 4 * (width // workers) ** 2
    # A gradient and two temporary arrays of the largest kernel; parcels as they are taken from home
    # shards, ordered, transposed and packed.
    rest = 3 * kernel + 8 * PARCEL_BYTES
    for worker in range(workers):
        found = json.loads((tmp_path / f"{worker}.json").read_text())
        assert found["wide"] <= homes + subnet + rest, (worker, found)
        assert found["wide"] >= homes + subnet, "else nothing was measured"


@pytest.mark.large
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
def test_rounds_add_nothing(tmp_path):
    """TensorFlow keeps 1.3 KB for every key that a collective ever had."""
    rounds, messages = 1000, 6  # of a worker in a round: two ways to two subnets, two others
    command = [sys.executable, str(SCRIPT), str(tmp_path), "64", str(rounds)]
    assert run_local_workers(command, 2) == 0
    for worker in range(2):
        growth = json.loads((tmp_path / f"{worker}.json").read_text())["growth"]
        assert growth < 1300 * messages / 8
