"""The package as it is imported: with sparse_ist_tf.export, which lies beside it, in its place."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def whole_package() -> Iterator[Path]:
    """A copy for tools that read files and don't know setuptools' package-dir.

    Returns:
        The folder that holds the package's sources, for as long as the context lasts.
    """
    ignore = shutil.ignore_patterns("*.safetensors", "__pycache__")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "sparse_ist_tf"
        shutil.copytree(ROOT / "sparse_ist_tf", package, ignore=ignore)
        shutil.copytree(ROOT / "export", package / "export", ignore=ignore)
        yield Path(folder)
