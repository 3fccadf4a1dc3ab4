"""Rounds of real processes, which tests of IST, of the baselines and of DiLoCo look at."""

import sys
from pathlib import Path

import pytest

from sparse_ist_tf.workers.launch import run_local_workers
from tests.fixtures.shared import made_once

SCRIPT = Path(__file__).parent / "worker_script.py"


@pytest.fixture(scope="session")
def runs(tmp_path_factory, request):
    """runs[P]: the folder in which P workers left their results; the first half of one's is kept.

    All kinds of trainers are of the same processes, most of whose time goes into their start.
    """
    is_short = "not large" in request.config.option.markexpr

    def make(root):
        for num_workers in (1, 2) if is_short else (1, 2, 4):
            folder = root / str(num_workers)
            folder.mkdir()
            command = [sys.executable, str(SCRIPT), str(folder), "few" if is_short else "all"]
            assert run_local_workers(command, num_workers) == 0

    root = made_once(tmp_path_factory, "ist_rounds", make)
    return {int(folder.name): folder for folder in root.iterdir()}
