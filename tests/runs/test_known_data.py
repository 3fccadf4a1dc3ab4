"""A run and its data: read again wherever one stands, and refused once the data has changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.config import get_config
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs.finished_run import FinishedRun
from sparse_ist_tf.runs.training import train_and_evaluate
from sparse_ist_tf.workers.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]


def fill(folder, names=("cat", "dog"), count=12, seed=0):
    """Pictures whose colour tells their class."""
    rng = np.random.default_rng(seed)
    for hue, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.clip(rng.normal((60, 190)[hue % 2], 30, (24, 24, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")


def configured(cache):
    config = get_config()
    config.dataset.name, config.features.cache_dir = "folder:photos", str(cache)
    config.encoder.weights, config.masks.kind = "packaged:vit_pico", "shared"
    config.head.hidden, config.ist.num_subnets = (32,), 2
    config.total_epochs, config.total_steps = 0.0, 24
    config.centralized_baseline = False
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with photos/ and run/, which was trained there on folder:photos."""
    root = tmp_path_factory.mktemp("home")
    fill(root / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train_and_evaluate(configured(root / "cache"), "run", Cluster(0, ()))
    return root


@pytest.fixture
def home(trained, tmp_path, monkeypatch):
    """A copy of it, for the data to be changed; the run remembers that it lies there."""
    shutil.copytree(trained, tmp_path / "home")
    path = tmp_path / "home" / "run" / "data.json"
    kept = json.loads(path.read_text())
    assert kept["place"] == str(trained / "photos")
    path.write_text(json.dumps(kept | {"place": str(tmp_path / "home" / "photos")}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


def test_it_is_read_again_from_anywhere(home, tmp_path):
    fill(tmp_path / "elsewhere" / "photos", ("apple", "pear"))
    run = FinishedRun(home / "run")
    assert run.labels == ("cat", "dog")
    run.confirm()
    again = run.accuracies()
    assert again["merged"] == run.results["accuracy"]["merged"]


def test_a_folder_that_has_been_moved_is_found_where_one_stands(home, tmp_path):
    (home / "photos").rename(tmp_path / "elsewhere" / "photos")
    assert FinishedRun(home / "run").labels == ("cat", "dog")
    (tmp_path / "elsewhere" / "photos").rename(tmp_path / "gone")
    with pytest.raises(RequestError, match=f"folder:{home}/photos: there is no such folder"):
        FinishedRun(home / "run")


def rename(photos):
    (photos / "cat").rename(photos / "zebra")


def swap(photos):
    (photos / "cat").rename(photos / "x")
    (photos / "dog").rename(photos / "cat")
    (photos / "x").rename(photos / "dog")


def another(photos):
    shutil.rmtree(photos)
    fill(photos.parent.parent / "elsewhere" / "photos", ("apple", "pear"))


def a_byte(photos):
    path = photos / "dog" / "3.png"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


CHANGES = {
    "'zebra' is new, 'cat' is gone": rename,
    "class 'emu' is new": lambda photos: shutil.copytree(photos / "cat", photos / "emu"),
    "class 'cow' is new, 'dog' is gone": lambda photos: (
        fill(photos, ("cat", "cow")),
        shutil.rmtree(photos / "dog"),
    ),
    "24 images changed": swap,
    "1 image changed .*dog/3.png": a_byte,
    "1 image gone .*cat/5.png": lambda photos: (photos / "cat" / "5.png").unlink(),
    "1 image new .*cat/5b.png": lambda photos: shutil.copy(
        photos / "cat" / "5.png", photos / "cat" / "5b.png"
    ),
    "'apple', 'pear' are new, 'cat', 'dog' are gone": another,
}


@pytest.mark.parametrize("says", CHANGES)
def test_data_that_has_changed_is_refused_with_what_changed(home, says):
    CHANGES[says](home / "photos")
    with pytest.raises(RequestError, match="has changed since the training: .*" + says) as caught:
        FinishedRun(home / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["evaluate", pytest.param("export", marks=pytest.mark.large)])
def test_the_commands_refuse_it_in_one_line(home, command):
    rename(home / "photos")
    flags = {"evaluate": [], "export": ["--target=phone"]}[command]
    done = subprocess.run(
        [sys.executable, "-m", f"sparse_ist_tf.{command}", f"--run={home / 'run'}", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "class 'zebra' is new, 'cat' is gone" in line
    assert not (home / "run" / "export").exists()


def resume(home, monkeypatch):
    monkeypatch.chdir(home)
    return train_and_evaluate(configured(home / "cache"), "run", Cluster(0, ()))


def test_an_unfinished_run_refuses_it_too(home, monkeypatch):
    (home / "run" / "results.json").unlink()
    rename(home / "photos")
    with pytest.raises(RequestError, match=r"--workdir=run: .*: class 'zebra' is new"):
        resume(home, monkeypatch)
    (home / "photos" / "zebra").rename(home / "photos" / "cat")
    assert resume(home, monkeypatch)["accuracy"] == RunDirectory("run").results()["accuracy"]


def test_a_run_that_has_learnt_nothing_yet_begins_with_what_is_there(home, monkeypatch):
    (home / "run" / "results.json").unlink()
    shutil.rmtree(home / "run" / "checkpoints")
    rename(home / "photos")
    resume(home, monkeypatch)
    assert FinishedRun("run").labels == ("dog", "zebra")


def test_runs_of_before_go_on_working(home, capsys, monkeypatch):
    (home / "run" / "data.json").unlink()
    with pytest.raises(RequestError, match="folder:photos: there is no such folder"):
        FinishedRun(home / "run")
    monkeypatch.chdir(home)
    capsys.readouterr()
    FinishedRun("run").confirm()
    assert "warning" not in capsys.readouterr().err
    a_byte(home / "photos")
    FinishedRun("run")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: run: keeps no record of its data")


def test_a_head_that_is_not_worth_what_it_was_stops_an_export(home, monkeypatch):
    path = home / "run" / "results.json"
    results = json.loads(path.read_text())
    results["accuracy"]["merged"] -= 0.5
    path.write_text(json.dumps(results))
    with pytest.raises(RunError, match=r"and had .* % after its training"):
        FinishedRun(home / "run").confirm()


def test_the_record_changes_no_name(home):
    with_record = FinishedRun(home / "run").digest
    (home / "run" / "data.json").unlink()
    os.chdir(home)
    assert FinishedRun("run").digest == with_record
