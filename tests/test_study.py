"""A study with real trainings: stopped, gone on with, one that fails, and its pages."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

CONFIG = """
from sparse_ist_tf import study_config

def get_config():
    config = study_config.get_config()
    base = config.base
    base.encoder.weights = "random:vit_pico"
    base.head.hidden = (32,)
    base.total_epochs, base.total_steps = 0.0, 20
    base.ist.local_steps = 10
    config.seeds = (0,)
    config.grids = {
        "mask_ratio": (("masks.ratio", (0.5, 0.99)), ("ist.num_subnets", (2,))),
        "bytes": (("ist.algorithm", ("ist", "local_sgd")), ("num_workers", (2,))),
    }
    return config
"""


def _run(tmp_path, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return subprocess.run(
        [
            *(sys.executable, "-m", "sparse_ist_tf.study", f"--workdir={tmp_path / 'study'}"),
            *arguments,
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(folder, what the command printed) of a study of which one training can't be."""
    tmp_path = tmp_path_factory.mktemp("study")
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path, _run(tmp_path, f"--config={tmp_path / 'config.py'}")


def test_a_training_that_fails_is_reported_and_not_fatal(study):
    tmp_path, done = study
    assert done.returncode == 1, done.stderr
    assert "3 of 4 trainings are finished." in done.stdout
    assert "leaves none of 64 patches visible" in done.stdout
    lines = (tmp_path / "study/results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    failed = {row["masks.ratio"]: row["status"] == "failed" for row in rows}
    assert failed == {0.5: False, 0.99: True}
    assert len(rows) == 4
    sent = {row["ist.algorithm"]: row["training_bytes"] for row in rows if row["num_workers"] == 2}
    assert 0 < sent["ist"] < sent["local_sgd"]


def test_the_pages_hold_tables_and_figures(study):
    tmp_path, _ = study
    folder = tmp_path / "study"
    markdown = (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    for text in (markdown, page):
        assert "1 of 4 trainings are not finished" in text
        assert "leaves none of 64 patches visible" in text
        assert "mask_ratio" in text
    for name in ("mask_ratio", "bytes", "bytes_bytes"):
        assert f"({name}.svg)" in markdown
        assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    assert page.count("<svg") == 3
    assert "src=" not in page, "nothing is fetched"
    assert "prefers-color-scheme" in page or "color-scheme: light dark" in page


def test_a_training_can_be_repeated_by_hand(study):
    tmp_path, _ = study
    files = sorted((tmp_path / "study/cells").glob("*.py"))
    assert len(files) == 4
    command = next(line for line in files[0].read_text().splitlines() if "python -m" in line)
    assert f"--config={files[0]}" in command


def test_finished_trainings_are_kept_and_another_base_is_refused(study):
    tmp_path, _ = study
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("study/cells/*/results.json")}
    assert len(stamps) == 3
    config = f"--config={tmp_path / 'config.py'}"
    done = _run(tmp_path, config)  # tries the one that failed again
    assert done.returncode == 1
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    done = _run(tmp_path, config, "--config.base.learning_rate=0.1")
    assert done.returncode == 2
    assert "another base.learning_rate (0.001, not 0.1)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
