"""Evaluations as TensorBoard's scalars."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_ist_tf.errors import RunError

if TYPE_CHECKING:
    import tensorflow as tf

SCALARS = ("loss", "train_accuracy", "test_accuracy", "centralized_accuracy", "training_bytes")


class ScalarLog:
    """A folder that TensorBoard reads; metrics.jsonl is where the numbers are kept.

    Args:
        folder: made when the first record comes.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._writer: tf.summary.SummaryWriter | None = None

    def restart(self, records: Iterable[Mapping]) -> None:
        """Begins anew with the records that a resumed run keeps, so that no step is there twice.

        Raises:
            RunError: if the folder can't be written.
        """
        self._writer = None
        shutil.rmtree(self.folder, ignore_errors=True)
        for record in records:
            self.add(record)

    def add(self, record: Mapping) -> None:
        """Adds an evaluation.

        Args:
            record: "step" and any of SCALARS; None is left out.

        Raises:
            RunError: if the folder can't be written.
        """
        import tensorflow as tf

        try:
            self._writer = self._writer or tf.summary.create_file_writer(str(self.folder))
            with self._writer.as_default(step=record["step"]):
                for name in SCALARS:
                    if record.get(name) is not None:
                        tf.summary.scalar(name, record[name])
            self._writer.flush()
        except tf.errors.OpError as error:
            reason = " ".join(str(error.message).split())
            raise RunError(f"{self.folder} can't be written: {reason}") from None
