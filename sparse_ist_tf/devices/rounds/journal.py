"""What a training has seen of its devices: kept beside its checkpoints, told in its report."""

import dataclasses
import json
from pathlib import Path

from sparse_ist_tf.devices.rounds.checking import RefusedError
from sparse_ist_tf.errors import RunError, warn
from sparse_ist_tf.files import write_file


@dataclasses.dataclass
class Seen:
    """What was seen of a device.

    Args:
        images: that it has.
        merged: rounds in which its answer was merged.
        missing: rounds in which it was asked and gave none in time.
        refused: answers that were refused.
        seconds: that its steps took, in all.
    """

    images: int = 0
    merged: int = 0
    missing: int = 0
    refused: int = 0
    seconds: float = 0.0


@dataclasses.dataclass
class Journal:
    """What was seen of all devices, over restarts.

    Args:
        path: of its file.
        slots: which subnet a device had last.
        devices: by name.
        refusals: how often something was refused, by what was wrong.
        sent: bytes of blocks that went to devices.
        received: bytes of what came from them.
    """

    path: Path
    slots: dict[str, int] = dataclasses.field(default_factory=dict)
    devices: dict[str, Seen] = dataclasses.field(default_factory=dict)
    refusals: dict[str, int] = dataclasses.field(default_factory=dict)
    sent: int = 0
    received: int = 0

    @classmethod
    def of(cls, path: Path) -> "Journal":
        """What a file holds, or a new one.

        Raises:
            RunError: if it is damaged.
        """
        if not path.exists():
            return cls(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["devices"] = {name: Seen(**seen) for name, seen in values["devices"].items()}
            return cls(path, **values)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RunError(f"{path} is damaged") from None

    def save(self) -> None:
        """Writes it.

        Raises:
            RunError: if it can't be written.
        """
        write_file(self.path, json.dumps(self.as_dict(), indent=2) + "\n")

    def as_dict(self) -> dict:
        """Plain values."""
        values = dataclasses.asdict(self)
        del values["path"]
        return values

    def of_device(self, name: str) -> Seen:
        """What was seen of a device."""
        return self.devices.setdefault(name, Seen())

    def refuse(self, name: str, error: RefusedError, where: str) -> None:
        """Counts a refusal, and says so in one line.

        Args:
            name: of the device.
            error: why.
            where: such as "round 3".
        """
        self.of_device(name).refused += 1
        self.refusals[error.kind] = self.refusals.get(error.kind, 0) + 1
        warn(f"{where}: what device {name} sent is refused: it {error}")
