"""What has been measured, a line of JSON for each cell, so that a second call goes on."""

import dataclasses
import json
from pathlib import Path

from sparse_ist_tf.benchmarks.cluster.cells import Cell, Measured
from sparse_ist_tf.files import writing


class Store:
    """A file of measured cells.

    Args:
        path: of it, which is made.
    """

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, Measured] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:  # half a line, of who was killed
                continue
            sides = {name: tuple(record["measured"][name]) for name in ("ledger", "kernel")}
            self._known[record["digest"]] = Measured(**{**record["measured"], **sides})

    def find(self, cell: Cell) -> Measured | None:
        """What was measured of a cell; None where nothing was."""
        return self._known.get(cell.digest)

    def add(self, cell: Cell, measured: Measured) -> None:
        """Keeps what was measured.

        Raises:
            RunError: if it can't be written.
        """
        what = {
            "digest": cell.digest,
            "dataset": cell.case.dataset,
            "setting": cell.case.setting,
            "keys": cell.case.keys,
            "num_workers": cell.num_workers,
            "link": str(cell.shape),
            "congestion": cell.congestion,
            "weak_share": cell.weak_share,
            "measured": dataclasses.asdict(measured),
        }
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")
        self._known[cell.digest] = measured
