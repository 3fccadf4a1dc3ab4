"""What all workers must have alike is found out before any of it is used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.config import get_config
from sparse_ist_tf.workers.agreement import OF_A_HOST, command_facts, disagreement
from sparse_ist_tf.workers.launch import free_ports


def test_alike_is_alike():
    assert disagreement([{"a": "1", "b": "2"}] * 3) is None


def test_the_first_difference_is_told():
    facts = [{"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "2", "b": "2"}]
    assert disagreement(facts).startswith("a: worker 2 has 2, worker 0 has 1")


def test_every_key_counts_but_those_of_a_host():
    config = get_config()
    facts = command_facts("train", config.to_dict())
    assert facts["masks.ratio"] == str(config.masks.ratio)
    assert not set(OF_A_HOST).intersection(facts)
    config.masks.ratio, config.features.cache_dir = 0.25, "elsewhere"
    changed = command_facts("train", config.to_dict())
    assert {key for key in facts if facts[key] != changed[key]} == {"masks.ratio"}


def _two(module, each, folders=(None, None)):
    """Two workers of TF_CONFIG, with arguments and folders of their own: (statuses, last lines)."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    package = str(Path(__file__).parents[2])
    processes = []
    for worker, arguments in enumerate(each):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", f"sparse_ist_tf.{module}", *arguments],
                env={**os.environ, "TF_CONFIG": json.dumps(task), "PYTHONPATH": package},
                cwd=folders[worker],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
    lines = [process.communicate(timeout=240)[1].strip().splitlines()[-1] for process in processes]
    return [process.returncode for process in processes], lines


def _pictures(folder, classes=("blue", "red")):
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
            pixels[..., k] += 150
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.mark.parametrize(
    ("module", "keys"),
    [
        ("train", ("dataset.split_seed=1",)),
        pytest.param("pretrain", ("learning_rate=1e-3",), marks=pytest.mark.large),
    ],
)
def test_workers_of_other_configurations_end_with_the_key_and_leave_nothing(tmp_path, module, keys):
    _pictures(tmp_path / "images")
    for key in keys:
        same = [f"--config.dataset.name=folder:{tmp_path / 'images'}"]
        same += [f"--workdir={tmp_path / 'run'}"]
        cache = "features" if module == "train" else "dataset"
        same += [f"--config.{cache}.cache_dir={tmp_path / 'cache'}"]
        statuses, lines = _two(module, [same, [*same, f"--config.{key}"]])
        name = key.partition("=")[0]
        assert statuses == [2, 2], lines
        assert lines[0] == lines[1]
        assert lines[0].startswith(f"error: {name}: worker 1 has ")
        assert not list(tmp_path.glob("cache/*"))
        assert not list(tmp_path.glob("run/*.json"))


def test_workers_of_other_images_end_with_what_differs_and_leave_nothing(tmp_path):
    _pictures(tmp_path / "a" / "images")
    _pictures(tmp_path / "b" / "images", ("red", "blue"))  # the same files in exchanged classes
    each = []
    for host in "ab":
        (tmp_path / host / "cache").mkdir()
        each.append(
            [
                "--config.dataset.name=folder:images",
                f"--workdir={tmp_path / host / 'run'}",
                f"--config.features.cache_dir={tmp_path / host / 'cache'}",
            ]
        )
    statuses, lines = _two("train", each, [tmp_path / host for host in "ab"])
    assert statuses == [2, 2], lines
    assert lines[0] == lines[1]
    assert lines[0].startswith("error: contents of "), lines
    assert not list(tmp_path.glob("*/cache/*"))
