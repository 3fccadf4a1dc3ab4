"""Whole arrays, put together on the chief row by row: small ones in memory, large ones on disk."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparse_ist_tf.files import writing

BLOCK_BYTES = 1 << 24  # that the chief holds of what crosses at once, and of an array in memory


class Wholes:
    """Where whole arrays are put together.

    Args:
        folder: where arrays of more than BLOCK_BYTES lie, in files without a name that go with
            the array; None to keep all in memory.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def array(self, shape: Sequence[int]) -> "Whole":
        """A new float32 array, to be written from its beginning on.

        Raises:
            RunError: if there is no room for it.
        """
        if self.folder is None or 4 * math.prod(shape) <= BLOCK_BYTES:
            return Whole(shape)
        return _OnDisk(shape, self.folder)


class Whole:
    """An array in memory that is written from its beginning on."""

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(shape)
        self._entries, self._written = np.empty(math.prod(shape), np.float32), 0

    def write(self, entries: np.ndarray) -> None:
        """Takes the next entries, float32 in row-major order."""
        stop = self._written + entries.size
        self._entries[self._written : stop] = entries.ravel()
        self._written = stop

    def array(self) -> np.ndarray:
        """The array, once all of it is written."""
        return self._entries.reshape(self.shape)


class _OnDisk(Whole):
    """As Whole, in a file that is gone with the array."""

    def __init__(self, shape, folder):
        self.shape, self.folder = tuple(shape), folder
        with writing(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def write(self, entries):
        with writing(self.folder):
            self._file.write(np.ascontiguousarray(entries))

    def array(self):
        with self._file, writing(self.folder):
            self._file.flush()
            return np.asarray(np.memmap(self._file, np.float32, "r", shape=self.shape))
