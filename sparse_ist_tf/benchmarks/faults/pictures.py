"""A small folder of images, and copies of it that aren't quite the same."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "red")
_OF_A_CLASS, _SIDE = 80, 16


def draw_pictures(folder: Path) -> None:
    """Makes two classes of images that are told apart by their colour."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(_OF_A_CLASS):
            pixels = rng.integers(0, 160, (_SIDE, _SIDE, 3), dtype=np.uint8)
            pixels[..., k] += 60
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")


def exchange_classes(source: Path, copy: Path) -> None:
    """A copy in which each of the two folders has the other's name."""
    for name, other in zip(CLASSES, reversed(CLASSES), strict=True):
        shutil.copytree(source / name, copy / other)


def leave_out(source: Path, copy: Path, count: int) -> None:
    """A copy that lacks some files of the first class."""
    shutil.copytree(source, copy)
    for path in sorted((copy / CLASSES[0]).iterdir())[:count]:
        path.unlink()
