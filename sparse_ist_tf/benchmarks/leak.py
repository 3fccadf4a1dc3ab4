"""How much of what is hidden an attacker reads from visible patches, on real images."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.decoding import image_errors
from sparse_ist_tf.inputs.split import Split
from sparse_ist_tf.masks import GRIDS, MaskOptions
from sparse_ist_tf.masks.leak import LeastSquares, as_pixels, hidden_pixels
from sparse_ist_tf.reports.report import format_table

CLOSE = 2.5  # of 255
_KNOWN = 2000  # training images that an attacker has the mean of


@dataclasses.dataclass(frozen=True)
class Recovery:
    """How near someone comes to hidden pixels.

    Args:
        exact: share of the hidden values that are found exactly.
        close: share that is found within CLOSE.
        rmse: root mean square error, of 255.
    """

    exact: float
    close: float
    rmse: float

    @classmethod
    def of(cls, errors: np.ndarray) -> "Recovery":
        """Of the errors of all hidden values."""
        size = np.abs(errors.astype(np.float64))
        rmse = float(np.sqrt(np.square(size).mean()))
        return cls(float((size == 0).mean()), float((size <= CLOSE).mean()), rmse)


@dataclasses.dataclass(frozen=True)
class Leak:
    """What leaks of hidden pixels.

    Args:
        recorded: longer side of the images as they were recorded, in pixels.
        scaled: side of the encoder's images, in pixels.
        attack: by least squares from the visible patches.
        mean: by guessing the mean of training images, which needs no patch.
    """

    recorded: int
    scaled: int
    attack: Recovery
    mean: Recovery


def measure_leak(
    splits: Mapping[str, Split],
    masks: MaskOptions,
    image_size: int,
    patch_size: int,
    images: int = 32,
) -> Leak:
    """Attacks test images.

    The attacker knows how images are scaled, which patches are visible, and the mean of 2,000
    training images.

    Args:
        splits: "train" and "test".
        masks: what is visible, and of which grid; their ratio must hide something.
        image_size: side of the encoder's images in pixels.
        patch_size: side of a patch in pixels.
        images: test images that are attacked, evenly over the split.

    Raises:
        RequestError: if nothing is hidden, images have unlike sizes and so no mean, or patches
            don't fill an image.
        RunError: if an image can't be read, or has fewer pixels than patches along a side.
    """
    try:
        scaling = masks.scaling(image_size, patch_size)
    except ValueError as error:
        raise RequestError(str(error)) from None
    if not masks.ratio:
        raise RequestError("masks.ratio=0: hides nothing that could leak")
    known, _ = _originals(splits["train"], _KNOWN)
    attacked, rows = _originals(splits["test"], images)
    attack = LeastSquares.informed_by(scaling, known)
    positions = masks.positions(rows, scaling.num_patches)
    guess = as_pixels(attack.mean).astype(np.int64)
    errors, mean_errors = [], []
    for image, places in zip(attacked, positions, strict=True):
        with image_errors():
            seen = np.asarray(scaling(tf.constant(image), splits["test"].name))
        hidden = hidden_pixels(image.shape[:2], scaling.side, places)
        found = attack.recover(seen, places)
        errors.append((found.astype(np.int64) - image)[hidden])
        mean_errors.append((guess - image)[hidden])
    side = (max(attacked.shape[1:3]), image_size)
    return Leak(*side, *(Recovery.of(np.concatenate(e)) for e in (errors, mean_errors)))


def compare(
    names: Sequence[str],
    sizes: Iterable[int] = (64,),
    ratios: Sequence[float] = (0.5, 0.75),
    *,
    patch_size: int = 8,
    images: int = 32,
    data_dir: str | None = None,
) -> list[dict]:
    """Prints what leaks of data sets, by grid.

    Args:
        names: of data sets.
        sizes: of the encoder's images in pixels.
        ratios: hidden shares of the patches, above 0.
        patch_size: of the encoder in pixels.
        images: test images that are attacked.
        data_dir: as datasets.load.

    Returns:
        A dictionary for each row: dataset, ratio, grid, leak.

    Raises:
        RequestError: if a data set, a size or a ratio can't be used.
        RunError: if an image can't be read.
    """
    rows = []
    for name in names:
        splits = datasets.load(name, data_dir=data_dir)
        for size, ratio, grid in itertools.product(sizes, ratios, GRIDS):
            masks = MaskOptions("fixed", ratio, grid=grid)
            leak = measure_leak(splits, masks, size, patch_size, images)
            rows.append({"dataset": name, "ratio": ratio, "grid": grid, "leak": leak})
    print(f"Hidden pixels of {images} test images, found by least squares from visible patches of")
    print(f"{patch_size} px, and by guessing the mean image; close is within {CLOSE} of 255")
    print(format_table(_table(rows)), flush=True)
    return rows


def _table(rows) -> list[tuple[str, ...]]:
    titles = ("data", "px", "scaled to", "hidden", "grid", "exactly", "close", "RMSE")
    table: list[tuple[str, ...]] = [(*titles, "mean: exactly", "close", "RMSE")]
    for row in rows:
        found, leak = [], row["leak"]
        for recovery in (leak.attack, leak.mean):
            found += [f"{100 * recovery.exact:.1f} %", f"{100 * recovery.close:.1f} %"]
            found.append(f"{recovery.rmse:.1f}")
        sides, hidden = (str(leak.recorded), str(leak.scaled)), f"{100 * row['ratio']:g} %"
        table.append((row["dataset"], *sides, hidden, row["grid"], *found))
    return table


def _originals(split: Split, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images as they were recorded, evenly over a split, and their places in it."""
    rows = np.unique(np.linspace(0, split.size - 1, min(count, split.size)).astype(np.int64))
    with image_errors():
        elements = split.pick(lambda image, _: image, rows).as_numpy_iterator()
        images = [element["image"] for element in elements]
    shapes = {image.shape[:2] for image in images}
    if len(shapes) > 1:
        sizes = " and ".join("{1} x {0}".format(*shape) for shape in sorted(shapes)[:2])
        raise RequestError(f"{split.name}: images of {sizes} px have no mean image")
    return np.stack(images), rows
