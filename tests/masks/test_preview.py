import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.masks import fixed_positions, write_mask_preview
from sparse_ist_tf.masks.__main__ import preview


def command(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "sparse_ist_tf.masks", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_sheet_shows_each_image_beside_what_is_visible(tmp_path):
    images = np.full((5, 128, 128, 3), 200, np.uint8)
    images[:, :, :, 1] = np.arange(5)[:, None, None] * 10
    places = fixed_positions(0, np.arange(5), 64, 0.5)
    write_mask_preview(tmp_path / "masks.png", images, places, patch_size=16)
    assert [p.name for p in tmp_path.iterdir()] == ["masks.png"]
    sheet = np.asarray(Image.open(tmp_path / "masks.png"))
    for i in range(5):
        shown = (sheet == np.array([200, i * 10, 200])).all(axis=-1).sum()
        assert shown == 128 * 128 * 1.5
    assert (sheet == 128).all(axis=-1).sum() == 5 * 128 * 128 // 2


def test_sheet_of_small_and_oblong_images(tmp_path):
    images = np.zeros((1, 16, 8, 3), np.uint8)
    write_mask_preview(tmp_path / "m.png", images, np.array([[1]]), patch_size=8)
    width, height = Image.open(tmp_path / "m.png").size
    assert width >= 256
    assert height >= 256


def test_no_images_no_sheet(tmp_path):
    with pytest.raises(ValueError, match="0 images"):
        write_mask_preview(
            tmp_path / "m.png", np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 1)), 8
        )
    assert not list(tmp_path.iterdir())


def test_command_draws_handwriting(tmp_path):
    done = command(tmp_path, "--count=6", "--ratio=0.75", "--kind=shared", "--pattern=grid")
    assert done.returncode == 0, done.stderr
    assert "masks.png: 6 images of mnist5k/test, shared masks at 0.75" in done.stdout
    assert Image.open(tmp_path / "masks.png").size[0] > 512


def test_command_refuses_in_one_line(tmp_path):
    done = command(tmp_path, "--ratio=1")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "mask_ratio=1" in errors[0]
    assert "[0, 1)" in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"patch_size": 7}, "--patch_size=7: must divide --image_size=32"),
        ({"output": "/nowhere/at/all.png"}, "--output=/nowhere/at/all.png: must lie in a folder"),
        ({"split": "dev"}, "--split=dev: must be one of train, test"),
        ({"dataset": "mnist"}, "dataset.name='mnist'"),
    ],
)
def test_impossible_flags_are_named(tmp_path, changed, says):
    flags = {"dataset": "digits", "data_dir": "", "split": "test", "kind": "fixed", "epoch": 0}
    flags |= {"pattern": "uniform", "ratio": 0.5, "image_size": 32, "patch_size": 8, "count": 2}
    flags |= {"seed": 0, "grid": "sensor", "output": str(tmp_path / "m.png")} | changed
    with pytest.raises(RequestError, match=re.escape(says)):
        preview(SimpleNamespace(**flags))


def test_the_command_prints_nothing_of_tensorflows_own_log(tmp_path):
    command = [sys.executable, "-m", "sparse_ist_tf.masks", "--dataset=digits"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}/m.png"], capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, "--ratio=2"], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
