"""A device's own folder: what is in it, and what it can't be."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.devices.device import command
from sparse_ist_tf.devices.device.pictures import Pictures
from sparse_ist_tf.errors import RequestError

NAMES = ("cat", "dog")


def make(root, **counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, i, i)).save(root / name / f"{i}.png")
    return root


def test_classes_are_folders_by_name(tmp_path):
    pictures = Pictures(make(tmp_path, dog=2, cat=3))
    pictures.check(NAMES)
    assert pictures.counts(NAMES) == (3, 2)
    assert pictures.counts(NAMES[::-1]) == (2, 3)


def test_a_class_may_have_no_picture(tmp_path):
    pictures = Pictures(make(tmp_path, dog=2, cat=0))
    pictures.check(NAMES)
    assert pictures.counts(NAMES) == (0, 2)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"dog": 1, "cow": 1}, "has other classes.*unknown here: 'cow', missing: 'cat'"),
        ({"dog": 1}, "has 1 folders of classes, the training 2; missing: 'cat'"),
        ({"dog": 1, "cat": 1, "cow": 1}, "has 3 folders.*unknown here: 'cow'"),
        ({"dog": 1, "cat": 1, "cow": 0}, "has 3 folders.*unknown here: 'cow'"),
        ({"Dog": 1, "cat": 1}, "unknown here: 'Dog'"),
    ],
)
def test_other_classes_are_refused(counts, text, tmp_path):
    with pytest.raises(RequestError, match=text) as error:
        Pictures(make(tmp_path, **counts)).check(NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["nothing", "empty", "empty classes", "a file", "loose", "texts"])
def test_a_folder_without_pictures_is_refused(kind, tmp_path):
    root = tmp_path / "pictures"
    if kind != "nothing":
        root.mkdir()
    if kind == "a file":
        root = root / "file"
        root.write_text("")
    elif kind == "empty classes":
        make(root, cat=0, dog=0)
    elif kind == "loose":
        Image.new("RGB", (8, 8)).save(root / "0.png")
    elif kind == "texts":
        (root / "cat").mkdir()
        (root / "cat" / "a.txt").write_text("cat")
    with pytest.raises(RequestError, match="--images="):
        Pictures(root)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--images=x"], "--server"),
        (["--server=a:1"], "--images"),
        (["--images=x", "--server=a"], "--server=a: must be HOST:PORT"),
        (["--images=x", "--server=a:70000"], "must be HOST:PORT"),
        (["--images=x", "--server=http://a:1"], "must be HOST:PORT"),
        (["--images=x", "--server=a:1", "--capacity=-1"], "--capacity=-1: must be"),
        (["--images=x", "--server=a:1", "--capacity=nan"], "--capacity=nan: must be"),
        (["--images=x", "--server=a:1", "--capacity=much"], "--capacity=much: must be"),
        (["--images=/nowhere", "--server=a:1"], "there is no such folder"),
        (["--images=x", "--server=a:1", "--colour=1"], "--colour"),
    ],
)
def test_a_bad_request_is_one_line(flags, text, capsys):
    assert command.main(flags) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert text in line


def test_without_flower_the_command_that_brings_it_is_named(tmp_path, monkeypatch, capsys):
    make(tmp_path, cat=1, dog=1)
    monkeypatch.setitem(sys.modules, "flwr", None)
    assert command.main([f"--images={tmp_path}", "--server=a:1"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: devices need Flower: pip install 'flwr>=1.42,<1.43'"


def test_neither_tensorflow_nor_keras_is_imported(tmp_path):
    pytest.importorskip("flwr")
    make(tmp_path / "pictures", cat=1, dog=1)
    code = (
        "import sys\n"
        "from sparse_ist_tf.devices.__main__ import main\n"
        f"sys.argv = ['x', 'client', '--images={tmp_path}/pictures', '--server=127.0.0.1:1', "
        "'--patience_s=0']\n"
        "status = main()\n"
        "import sparse_ist_tf.devices.device.subnet\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "print(status, sorted(names & {'tensorflow', 'keras', 'jax', 'torch', 'scipy'}))\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert done.stdout.splitlines()[-1].endswith(" []"), done.stderr
    assert "Traceback" not in done.stderr


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path, monkeypatch, capsys):
    make(tmp_path, cat=2, dog=2)
    (tmp_path / "dog" / "1.png").write_bytes(b"no picture")

    class Runtime:
        def __init__(self, *args, **kwargs):
            pass

        def run(self, example):
            return example["patches"].astype(np.float32).mean(axis=1)

    from sparse_ist_tf.devices.device import pictures as module
    from sparse_ist_tf.devices.wire.records import Joined

    monkeypatch.setattr(module, "LiteRT", Runtime)
    masks = {"kind": "fixed", "ratio": 0.5, "pattern": "uniform", "seed": 0, "grid": "sensor"}
    joined = Joined(NAMES, masks, 8, 2, b"", 4)
    found = Pictures(tmp_path).encode(joined, lambda done, count: None)
    assert found.labels.tolist() == [0, 0, 1]
    assert found.features.shape == (3, 8)
    assert "dog/1.png" in capsys.readouterr().err
    odd = Joined(NAMES, {"kind": "none", "ratio": 0.5}, 8, 2, b"", 4)
    with pytest.raises(RequestError, match="masks that can't be"):
        Pictures(tmp_path).encode(odd, lambda done, count: None)
