"""examples/own_algorithm.py as its reader would run it: trained by two workers, evaluated again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_algorithm.py"
SMALL = (
    "--config.dataset.name=digits",
    "--config.encoder.image_size=32",
    "--config.encoder.weights=packaged:vit_pico",
    "--config.head.hidden=(64, 48)",
    "--config.total_epochs=0",
    "--config.total_steps=100",
    "--config.optimizer.name=sgd",
    "--config.learning_rate=1e-3",
    "--config.ist.algorithm=sign_sgd",
)


def _run(module, tmp_path, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    return subprocess.run(
        [sys.executable, "-m", f"sparse_ist_tf.{module}", *map(str, arguments)],
        env=environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )


@pytest.mark.large
def test_it_trains_on_two_workers_and_is_evaluated_again(tmp_path):
    plugin, run = f"--plugin={EXAMPLE}", tmp_path / "run"
    done = _run("train", tmp_path, plugin, f"--workdir={run}", *SMALL)
    assert done.returncode == 0, done.stderr
    results = json.loads((run / "results.json").read_text())
    assert results["algorithm"] == "sign_sgd"
    assert results["num_workers"] == 2
    assert results["accuracy"]["merged"] > 0.4, "ten classes"
    assert 0 < results["bytes"]["gradients"] == results["training_bytes"]
    again = _run("evaluate", tmp_path, plugin, f"--run={run}")
    assert again.returncode == 0, again.stderr
    assert again.stdout.endswith("The same as stored.\n")


def test_without_the_plugin_its_name_is_refused_in_one_line(tmp_path):
    done = _run("train", tmp_path, f"--workdir={tmp_path / 'run'}", *SMALL)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ist.algorithm='sign_sgd'")
    assert "data_parallel" in line


def test_a_key_that_it_does_not_use_is_refused(tmp_path):
    arguments = (f"--plugin={EXAMPLE}", *SMALL, "--config.ist.moments=reset")
    done = _run("train", tmp_path, *arguments)
    assert done.returncode == 2
    assert "ist.moments" in done.stderr
