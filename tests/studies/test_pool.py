"""The pool, with trainings of a moment: order, ends of all kinds, a full disk."""

import json
import subprocess

import pytest

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.studies import pool
from sparse_ist_tf.studies.grid import cells_of
from sparse_ist_tf.studies.results import row_of
from sparse_ist_tf.study import study
from sparse_ist_tf.study_config import get_config

# Stands in for sparse_ist_tf.train: what it does is the number of subnets that it is given.
TRAIN = """
import importlib.util, json, os, pathlib, signal, sys, time

path, place = (pathlib.Path(word.partition("=")[2]) for word in sys.argv[1:3])
spec = importlib.util.spec_from_file_location("cell", path)
cell = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cell)
config = cell.get_config()
journal = open(pathlib.Path(os.environ["JOURNAL"]), "a")
print("begin", config.seed, config.masks.ratio, file=journal, flush=True)
time.sleep(0.3)
what = config.ist.num_subnets
if what == 2:
    print("error: no such images", file=sys.stderr)
    sys.exit(2)
if what == 3:
    os.kill(os.getpid(), signal.SIGKILL)
place.mkdir(exist_ok=True)
if what == 5:
    try:
        (place / "big").write_bytes(bytes(10**6))
    except OSError as error:
        (place / "big").unlink()  # as train does with what it could not write whole
        print(f"error: {place}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
results = {
    "accuracy": {"merged": 0.5, "subnets": [], "ensembles": []},
    **dict.fromkeys(
        ["best_accuracy", "centralized_accuracy", "centralized_best_accuracy"], 0.5
    ),
    "steps": 1,
    "training_bytes": 0,
}
(place / "results.json").write_text(json.dumps(results))
print("end", config.seed, config.masks.ratio, file=journal, flush=True)
"""


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """Where the trainings write when they begin and end."""
    (tmp_path / "stand_in.py").write_text(TRAIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("JOURNAL", str(tmp_path / "journal"))
    real = pool.command_of
    monkeypatch.setattr(pool, "command_of", lambda *a: ["stand_in", *real(*a)[1:]])
    return tmp_path / "journal"


def _study(*axes, seeds=(0,), **settings):
    config = get_config()
    config.grids, config.seeds = {"a": axes}, seeds
    config.update(settings)
    return config


def test_trainings_that_fail_or_are_killed_say_why_and_do_not_stop_the_others(journal, tmp_path):
    config = _study(("ist.num_subnets", (2, 3, 4)), jobs=2)
    rows = study(config, tmp_path / "study")
    assert [row["status"] for row in rows] == ["failed", "failed", "finished"]
    assert rows[0]["error"] == "no such images"
    assert rows[1]["error"] == "it was ended by signal 9 (Killed)"
    journal.unlink()
    study(config, tmp_path / "study")
    assert journal.read_text().count("begin") == 2, (
        "the finished one is kept, the others tried again"
    )
    page = (tmp_path / "study/report.html").read_text()
    assert "2 of 3 trainings are not finished" in page
    assert "it was ended by signal 9" in page


def test_who_can_share_features_waits_until_they_are_there(journal, tmp_path):
    config = _study(("masks.ratio", (0.5,)), ("ist.num_subnets", (1, 4, 8)))
    [cells] = cells_of(config).values()
    pool.run_cells(cells, tmp_path / "study", jobs=3)
    words = [line.split()[0] for line in journal.read_text().splitlines()]
    assert words[:2] == ["begin", "end"], "the first encodes for all"
    assert words[2:4] == ["begin", "begin"], "the others run side by side"


def test_random_masks_start_first(journal, tmp_path):
    config = _study(("masks.ratio", (0.25, 0.5)))
    [cells] = cells_of(config).values()
    config = _study(("masks.kind", ("random",)), ("masks.ratio", (0.75,)))
    [longest] = cells_of(config).values()
    pool.run_cells([*cells, *longest], tmp_path / "study", jobs=1)
    lines = journal.read_text().splitlines()
    assert [line for line in lines if line.startswith("begin")] == [
        "begin 0 0.75",
        "begin 0 0.25",
        "begin 0 0.5",
    ]


def test_no_more_workers_than_cores(journal, tmp_path):
    """Of random masks nothing is shared: only the number of workers holds them back."""
    config = _study(("masks.kind", ("random",)), ("num_workers", (2,)), seeds=(0, 1))
    [cells] = cells_of(config).values()
    pool.run_cells(cells, tmp_path / "study", jobs=3)
    words = [line.split()[0] for line in journal.read_text().splitlines()]
    assert words == ["begin", "end"] * 2
    journal.unlink()
    pool.run_cells(cells, tmp_path / "other", jobs=4)
    words = [line.split()[0] for line in journal.read_text().splitlines()]
    assert words[:2] == ["begin", "begin"]


def test_damaged_results_are_a_failed_training_and_not_the_end(journal, tmp_path):
    config = _study(("ist.num_subnets", (1, 4)))
    rows = study(config, tmp_path / "study")
    (tmp_path / "study/cells" / rows[0]["cell"] / "results.json").write_text("{")
    [cells] = cells_of(config).values()
    assert row_of(cells[0], tmp_path / "study")["error"].endswith("results.json is damaged")
    assert [row["status"] for row in study(config, tmp_path / "study")] == ["finished"] * 2


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(journal, tmp_path):
    """A real file system without space: a tmpfs of 512 kB, where this process may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        config = _study(("ist.num_subnets", (4, 5)), jobs=1)
        first, second = study(config, place / "study")
        assert (first["status"], second["status"]) == ("finished", "failed")
        assert second["error"].endswith("No space left on device")
        page = (place / "study/report.html").read_text()
        assert "No space left on device" in page
        subprocess.run(["dd", "if=/dev/zero", f"of={place / 'filler'}"], capture_output=True)
        with pytest.raises(RunError, match="can't be written: No space left on device"):
            study(config, place / "study")
        results = place / "study/cells" / first["cell"] / "results.json"
        assert json.loads(results.read_text())["accuracy"]["merged"] == 0.5
        assert (place / "study/report.html").read_text() == page
    finally:
        subprocess.run(["umount", str(place)], check=True)
