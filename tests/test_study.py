"""A study with real trainings: stopped, gone on with, one that fails, and its pages."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest

CONFIG = """
from sparse_ist_tf import study_config

def get_config():
    config = study_config.get_config()
    base = config.base
    base.dataset.name = "digits"
    base.encoder.weights = "random:vit_pico"
    base.head.hidden = (32,)
    base.centralized_baseline, base.masks.test_ratios = False, (0.0,)
    base.total_epochs, base.total_steps = 0.0, 20
    base.ist.local_steps, base.ist.num_subnets = 10, 2
    base.eval_every_rounds = 1
    config.seeds = (0,)
    config.grids = {
        "2_data": (
            ("dataset.name", ("folder:nowhere", "digits")),
            ("masks.test_ratios", ((0.0,),)),
        ),
        "10_bytes": (("num_workers", (1, 2)), ("ist.algorithm", ("ist",))),  # one is trained above
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
    """(folder, what the command printed) of a study of which one data set isn't there."""
    tmp_path = tmp_path_factory.mktemp("study")
    (tmp_path / "config.py").write_text(CONFIG)
    return tmp_path, _run(tmp_path, f"--config={tmp_path / 'config.py'}")


def test_a_data_set_that_fails_is_reported_and_not_fatal(study):
    tmp_path, done = study
    assert done.returncode == 1, done.stderr
    assert "2 of 3 trainings are finished." in done.stdout
    lines = [line for line in done.stdout.splitlines() if "nowhere" in line]
    assert len(lines) == 1, "one clear line"
    rows = [json.loads(line) for line in (tmp_path / "study/results.jsonl").open()]
    failed = {row["dataset"]: row["status"] == "failed" for row in rows}
    assert failed == {"digits": False, "folder:nowhere": True}
    assert len(rows) == 3
    sent = {
        row["num_workers"]: row["training_bytes"] for row in rows if row["status"] == "finished"
    }
    assert 0 == sent[1] < sent[2]
    assert "trainings: 100%" in done.stderr
    assert "at work" in done.stderr


def test_results_have_a_column_for_each_number(study):
    tmp_path, _ = study
    rows = list(csv.DictReader((tmp_path / "study/results.csv").open()))
    for row in rows:
        if row["status"] == "failed":
            assert row["accuracy_at.0"] == row["missing_workers.1.merged"] == ""
            continue
        assert (row["dataset"], row["status"]) == ("digits", "finished")
        assert 0 <= float(row["accuracy_at.0"]) <= 1
        assert row["missing_workers.2.merged"] == row["accuracy"]
        assert 0 <= float(row["missing_workers.1.ensemble"]) <= 1


def test_the_pages_hold_tables_and_figures(study):
    tmp_path, _ = study
    folder = tmp_path / "study"
    markdown = (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    for text in (markdown, page):
        assert "1 of 3 trainings are not finished" in text
        assert "folder:nowhere" in text
        assert "Data" in text
        assert "All with IST." in text
        assert "at its best evaluation" in text
    assert [line for line in markdown.splitlines() if line.startswith("## ")] == [
        "## Data",
        "## Bytes",
    ]
    for name in ("2_data", "2_data_test_ratios", "10_bytes"):
        assert f"({name}.svg)" in markdown
        assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    assert page.count("<svg") == 3
    assert not re.search(r"src=|url\((?!#)|@import|<link|<script", page), "nothing is fetched"
    assert "color-scheme: light dark" in page


def test_a_training_can_be_repeated_by_hand(study):
    tmp_path, _ = study
    files = sorted((tmp_path / "study/cells").glob("*.py"))
    assert len(files) == 3
    command = next(line for line in files[0].read_text().splitlines() if "python -m" in line)
    assert f"--config={files[0]}" in command


def test_finished_trainings_are_kept_and_another_base_is_refused(study):
    tmp_path, _ = study
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("study/cells/*/results.json")}
    assert len(stamps) == 2
    config = f"--config={tmp_path / 'config.py'}"
    done = _run(tmp_path, config)  # tries the one that failed again
    assert done.returncode == 1
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    done = _run(tmp_path, config, "--config.base.learning_rate=0.1")
    assert done.returncode == 2
    assert "another base.learning_rate (0.001, not 0.1)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_stopped_by_a_signal_its_trainings_keep_a_checkpoint(tmp_path):
    text = CONFIG.replace("total_steps = 0.0, 20", "total_steps = 0.0, 100_000")
    text = text.replace('"folder:nowhere", "digits"', '"digits",').replace(
        '"10_bytes": (("num_workers", (1, 2)), ("ist.algorithm", ("ist",))),', ""
    )
    (tmp_path / "config.py").write_text(text)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sparse_ist_tf.study", f"--workdir={tmp_path / 'study'}"),
            f"--config={tmp_path / 'config.py'}",
        ],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    cells = tmp_path / "study" / "cells"
    while not list(cells.glob("*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.endswith("stopped by SIGTERM; the same command goes on\n")
    [log] = cells.glob("*.log")
    stopped = int(re.search(r"stopped by SIGTERM after round (\d+);", log.read_text())[1])
    [checkpoint] = [path for path in cells.glob("*/checkpoints/*") if f"{stopped:08d}" in path.name]
    assert checkpoint.exists()
    assert (tmp_path / "study" / "results.jsonl").exists()
