"""When each round of a worker ended, and what it had sent by then."""

import json
import time
from pathlib import Path

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.files import writing
from sparse_ist_tf.workers.ledger import Ledger


class RoundsLog:
    """A file of a worker's own, a line of JSON for each round.

    Args:
        folder: is made; every worker may write to the same one.
        worker: its index, of which the file is named.

    Raises:
        RunError: if the file can't be written.
    """

    def __init__(self, folder: str | Path, worker: int):
        self.path = Path(folder) / f"worker_{worker}.jsonl"
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  # with the process

    def add(self, round_: int, step: int, ledger: Ledger) -> None:
        """Adds a line behind a round: round, step, seconds, sent, interfaces.

        seconds are those of the system's monotonic clock, the same for all processes of a machine;
        sent is what the ledger has, by purpose; interfaces what the kernel has counted.

        Args:
            round_: rounds done.
            step: steps done.
            ledger: of this worker.

        Raises:
            RunError: if it can't be written.
        """
        record = {
            "round": round_,
            "step": step,
            "seconds": time.monotonic(),
            "sent": ledger.as_dict(),
            "interfaces": interface_bytes(),
        }
        with writing(self.path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()


def read_rounds(path: str | Path) -> list[dict]:
    """The whole lines of a worker's file; none where there is no file yet.

    Raises:
        RunError: if it is damaged.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        raise RunError(f"{path} is damaged") from None


def interface_bytes(process: int | str = "self") -> dict[str, int]:
    """What all interfaces but the loopback have received and sent, where a process is.

    Args:
        process: its id.

    Returns:
        {"received", "sent"} in bytes, from the start of the interfaces; empty where the system
        doesn't say.

    Source: the manual page proc_pid_net(5).
    """
    try:
        lines = Path(f"/proc/{process}/net/dev").read_text().splitlines()[2:]
    except OSError:  # not on macOS
        return {}
    rows = [line.partition(":")[::2] for line in lines]
    counts = [row.split() for name, row in rows if name.strip() != "lo"]
    return {name: sum(int(row[k]) for row in counts) for name, k in (("received", 0), ("sent", 8))}
