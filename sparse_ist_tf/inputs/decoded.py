"""The images of a split, decoded once and then read in any order."""

from pathlib import Path

import numpy as np

from sparse_ist_tf.errors import warn
from sparse_ist_tf.files import replacing
from sparse_ist_tf.inputs.decoding import image_errors
from sparse_ist_tf.inputs.split import Split
from sparse_ist_tf.masks.cells import Scaling
from sparse_ist_tf.shown.bars import Bar


def decoded_images(split: Split, scale: int | Scaling, cache_dir: str | Path) -> np.ndarray:
    """The images of a split as one array, decoded once and then mapped from a file.

    Args:
        split: the images.
        scale: a side in pixels to which whole images are scaled, or how they become patches.
        cache_dir: where the file lies.

    Returns:
        uint8[size, side, side, 3], read-only.
    """
    side, grid = (scale, "") if isinstance(scale, int) else (scale.image_size, f"x{scale.side}")
    if not isinstance(scale, int) and scale.grid == "scaled":
        scale, grid = side, ""
    path = Path(cache_dir) / f"{split.fingerprint[:32]}-{side}{grid}.npy"
    shape = (split.size, side, side, 3)
    images = _mapped(path, shape)
    if images is None:
        with replacing(path) as temporary:
            images = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            with Bar(split.size, f"decoding {split.name}", "images") as bar, image_errors():
                for batch in split.dataset(scale, batch_size=512).as_numpy_iterator():
                    images[batch["index"]] = batch["image"]
                    bar.update(len(batch["index"]))
            images.flush()
        images = np.load(path, mmap_mode="r")
    return images


def _mapped(path, shape):
    """What lies there, if it is whole."""
    try:
        images = np.load(path, mmap_mode="r")
        if images.shape == shape and images.dtype == np.uint8:
            return images
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        pass
    warn(f"{path} is damaged and not used")
    return None
