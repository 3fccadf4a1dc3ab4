"""The images of a split, decoded once and then read in any order."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from sparse_ist_tf.files import replacing
from sparse_ist_tf.inputs.decoding import image_errors
from sparse_ist_tf.inputs.split import Split


def decoded_images(split: Split, image_size: int, cache_dir: str | Path) -> np.ndarray:
    """The images of a split as one array, decoded once and then mapped from a file.

    Returns:
        uint8[size, image_size, image_size, 3], read-only.
    """
    path = Path(cache_dir) / f"{split.fingerprint[:32]}-{image_size}.npy"
    if not path.exists():
        shape = (split.size, image_size, image_size, 3)
        with replacing(path) as temporary:
            images = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            bar = tqdm(total=split.size, desc=f"decoding {split.name}", unit="img")
            with bar, image_errors():
                for batch in split.dataset(image_size, batch_size=512).as_numpy_iterator():
                    images[batch["index"]] = batch["image"]
                    bar.update(len(batch["index"]))
            images.flush()
    return np.load(path, mmap_mode="r")
