"""A device's own pictures: found by class, masked at the sensor, and encoded once."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.devices.wire.records import Joined
from sparse_ist_tf.errors import RequestError, RunError, printable, warn
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.inputs.layouts.tree import Skipped, read_tree
from sparse_ist_tf.inputs.pictures import EXTENSIONS, read_picture
from sparse_ist_tf.masks.cells import Scaling
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.masks.patches import select_patches


class Encoded(NamedTuple):
    """What a device trains on.

    Args:
        features: float32[n, feature_dim].
        labels: int32[n].
        speed: images encoded in a second.
    """

    features: np.ndarray
    labels: np.ndarray
    speed: float


class Pictures:
    """A folder of pictures with a folder per class.

    Args:
        folder: its path; hidden files and what is no picture are passed over.

    Raises:
        RequestError: if it isn't there, or holds no picture in a folder of a class.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from sparse_ist_tf.devices.device.pictures import Pictures
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (root / name).mkdir()
        ...     Image.new("RGB", (8, 8)).save(root / name / "0.png")
        >>> Pictures(root).counts(("cat", "dog"))
        (1, 1)
    """

    def __init__(self, folder: str | Path):
        root = Path(folder).expanduser()
        self.folder = str(folder)
        if not root.is_dir():
            raise RequestError(f"--images={printable(self.folder)}: there is no such folder")
        skipped = Skipped()
        tree = read_tree(root, skipped)
        self.names = sorted([*tree.names(), *tree.empty, *tree.unread])
        self.files = {
            folder.name: sorted(file.path for file in folder.pictures()) for folder in tree.folders
        }
        if not any(self.files.values()):
            but = f"; passed over: {skipped}" if skipped else ""
            raise RequestError(
                f"--images={printable(self.folder)}: must hold a folder of pictures per class, "
                f"has no picture ({', '.join(EXTENSIONS)}) in a folder{but}"
            )

    def check(self, class_names: tuple[str, ...]) -> None:
        """Makes sure that its folders are the classes of the training.

        Raises:
            RequestError: if they are others, naming them.
        """
        missing = sorted(set(class_names) - set(self.names))
        if len(self.names) != len(class_names):
            here = f"has {len(self.names)} folders of classes, the training {len(class_names)}"
        elif missing:
            here = "has other classes than the training"
        else:
            return
        odd = sorted(set(self.names) - set(class_names))
        told = [f"unknown here: {_listed(odd)}"] if odd else []
        told += [f"missing: {_listed(missing)} (a folder may be empty)"] if missing else []
        where = f"--images={printable(self.folder)}"
        raise RequestError(f"{where}: {here}; {', '.join(told)}")

    def counts(self, class_names: tuple[str, ...]) -> tuple[int, ...]:
        """How many pictures there are of each class."""
        return tuple(len(self.files.get(name, ())) for name in class_names)

    def encode(self, joined: Joined, on_progress: Callable[[int, int], None]) -> Encoded:
        """Masks all pictures at the sensor, and encodes what is visible.

        Args:
            joined: what the server said; its class names are this folder's.
            on_progress: is told how many of how many are encoded.

        Raises:
            RequestError: if what the server said can't be used, or no picture can be read.
        """
        paths = [
            (p, i) for i, name in enumerate(joined.class_names) for p in self.files.get(name, ())
        ]
        encode = _encoder(joined)
        features, labels, began = [], [], time.monotonic()
        for index, (path, label) in enumerate(paths):
            try:
                features.append(encode(path, index))
                labels.append(label)
            except RunError as error:
                warn(f"{error}; left out")
            on_progress(index + 1, len(paths))
        if not features:
            raise RequestError(f"--images={printable(self.folder)}: no picture can be read")
        found = np.stack(features).astype(np.float32)
        if not np.isfinite(found).all():
            raise RequestError("the server's encoder gives features that aren't finite")
        seconds = max(time.monotonic() - began, 1e-9)
        return Encoded(found, np.array(labels, np.int32), len(labels) / seconds)


def _encoder(joined: Joined) -> Callable[[str, int], np.ndarray]:
    """From a picture's path and number to its feature."""
    try:
        masks = MaskOptions(**joined.masks)
        scaling = masks.scaling(joined.image_size, joined.patch_size)
        masks.positions([0], scaling.num_patches)
    except (TypeError, ValueError) as error:
        raise RequestError(f"the server asks for masks that can't be: {error}") from None
    runtime = LiteRT(joined.encoder, "the server's encoder", threads=None)

    def encode(path: str, index: int) -> np.ndarray:
        [patches], [positions] = _visible(path, index, masks, scaling)
        return runtime.run({"patches": patches, "positions": positions}).reshape(-1)

    return encode


def _visible(path: str, index: int, masks: MaskOptions, scaling: Scaling) -> tuple:
    image = scaling(read_picture(path), path)
    positions = masks.positions([index], scaling.num_patches)
    return select_patches(image[None], positions, scaling.patch_size), positions


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(printable(name)) for name in names[:3])
    return f"{shown}, ..." if len(names) > 3 else shown
