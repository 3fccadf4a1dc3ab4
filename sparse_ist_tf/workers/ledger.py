"""The count of bytes that crossed a link, by purpose."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

# control: what workers agree on before and beside their work, some bytes each.
Purpose = Literal["features", "weights", "moments", "gradients", "checkpoint", "control"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
_TRAINING: tuple[Purpose, ...] = ("weights", "moments", "gradients")


class Ledger:
    """Bytes that one worker sent, by purpose.

    Args:
        totals: to go on from.

    Raises:
        ValueError: if a purpose isn't one of PURPOSES.

    Example:
        >>> from sparse_ist_tf.workers.ledger import Ledger
        >>> ledger = Ledger()
        >>> ledger.add("weights", 4000)
        >>> ledger.total
        4000
    """

    def __init__(self, totals: Mapping[str, int] | None = None):
        self._totals = dict.fromkeys(PURPOSES, 0)
        for purpose, count in (totals or {}).items():
            self.add(purpose, count)

    def add(self, purpose: str, count: int) -> None:
        """Counts bytes that were sent.

        Args:
            purpose: one of PURPOSES.
            count: bytes.
        """
        if purpose not in self._totals:
            raise ValueError(f"purpose={purpose!r}: must be one of {', '.join(PURPOSES)}")
        self._totals[purpose] += int(count)

    def __add__(self, other: "Ledger") -> "Ledger":
        """The bytes of both."""
        return Ledger.of_counts(self.counts() + other.counts())

    def counts(self) -> np.ndarray:
        """int64[len(PURPOSES)], the bytes in the order of PURPOSES."""
        return np.array([self._totals[purpose] for purpose in PURPOSES], np.int64)

    @classmethod
    def of_counts(cls, counts: np.ndarray) -> "Ledger":
        """The inverse of counts()."""
        return cls(dict(zip(PURPOSES, counts.tolist(), strict=True)))

    @classmethod
    def mean(cls, ledgers: "Sequence[Ledger]") -> "Ledger":
        """The mean over workers, by purpose, in whole bytes."""
        return cls.of_counts(np.mean([ledger.counts() for ledger in ledgers], axis=0).round())

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self._totals.values())

    @property
    def training(self) -> int:
        """Bytes that training itself sent: weights, moments and gradients."""
        return sum(self._totals[purpose] for purpose in _TRAINING)

    def as_dict(self) -> dict[str, int]:
        """Bytes by purpose, without those that never occurred."""
        return {purpose: count for purpose, count in self._totals.items() if count}


def human_bytes(count: float) -> str:
    """Bytes for people: three digits and a decimal unit.

    Args:
        count: bytes.

    Returns:
        Such as "12.3 MB".
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.3g} {unit}"
