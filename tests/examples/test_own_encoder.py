"""examples/own_encoder.py as its reader would run it: trained, and evaluated again."""

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_encoder.py"
SMALL = (
    "--num_workers=1",
    "--config.encoder.weights=brightness:8",
    "--config.head.hidden=(100,)",
    "--config.ist.num_subnets=2",
    "--config.dataset.name=digits",
    "--config.total_epochs=10",
    "--config.centralized_baseline=False",
    "--config.masks.ratio=0.0",
    "--config.masks.test_ratios=(0.5,)",
)


def _run(module, tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"sparse_ist_tf.{module}", *map(str, arguments)],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )


def test_it_trains_the_digits_and_is_evaluated_again(tmp_path):
    assert len(EXAMPLE.read_text().splitlines()) < 60
    plugin, run = f"--plugin={EXAMPLE}", tmp_path / "run"
    done = _run("train", tmp_path, plugin, f"--workdir={run}", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "brightness:8: Brightness to 64 features" in done.stderr
    results = json.loads((run / "results.json").read_text())
    assert results["accuracy"]["merged"] > 0.6, "ten classes"
    again = _run("evaluate", tmp_path, plugin, f"--run={run}")
    assert again.returncode == 0, again.stderr
    assert again.stdout.endswith("The same as stored.\n")
