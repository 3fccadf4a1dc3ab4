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
from sparse_ist_tf.masks.preview import spread_over_classes


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


@pytest.mark.parametrize("count", [1, 3, 12, 60])
@pytest.mark.parametrize("order", ["sorted", "shuffled", "of one class first"])
def test_a_sheet_spreads_over_the_classes(count, order):
    labels = np.repeat(np.arange(20), 5)
    if order == "shuffled":
        np.random.default_rng(0).shuffle(labels)
    elif order == "of one class first":
        labels = np.concatenate([np.zeros(500, np.int64), labels])
    chosen = spread_over_classes(labels, count)
    assert len(set(chosen.tolist())) == count
    assert (np.diff(chosen) > 0).all()
    shown, times = np.unique(labels[chosen], return_counts=True)
    assert len(shown) == min(20, count)
    assert times.max() - times.min() <= 1
    if 1 < count <= 20:
        assert {shown[0], shown[-1]} == {0, 19}


def test_no_images_no_sheet(tmp_path):
    with pytest.raises(ValueError, match="0 images"):
        write_mask_preview(
            tmp_path / "m.png", np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 1)), 8
        )
    assert not list(tmp_path.iterdir())


def test_command_draws_handwriting(tmp_path):
    done = command(tmp_path, "--count=6", "--ratio=0.75", "--kind=shared", "--pattern=grid")
    assert (done.returncode, done.stderr) == (0, "")
    assert "masks.png: 6 images of mnist5k/test, shared masks at 0.75" in done.stdout
    assert Image.open(tmp_path / "masks.png").size[0] > 512


def test_command_refuses_in_one_line(tmp_path):
    done = command(tmp_path, "--ratio=1")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "mask_ratio=1" in line
    assert "[0, 1)" in line
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
