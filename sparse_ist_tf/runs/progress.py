"""How far a run has come: what a checkpoint tells beside the state."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from sparse_ist_tf.inputs.split import Split
from sparse_ist_tf.workers.ledger import Ledger


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Args:
        round: rounds done.
        step: steps done.
        ledgers: what each worker has sent.
        synchronous_bytes: what the synchronous algorithms would have sent per worker.
        features: cache keys of the features, by split.
        is_last: whether nothing is left to train; what 0.2.0 wrote doesn't say so.
    """

    round: int
    step: int
    ledgers: Sequence[Ledger]
    synchronous_bytes: Mapping[str, int]
    features: Mapping[str, str]
    is_last: bool = False

    def is_of(self, key: Callable[[Split], str], splits: Mapping[str, Split]) -> bool:
        """Whether it was made with the features of some splits.

        Args:
            key: the cache key of a split's features.
            splits: by name, with fingerprints of today; those of earlier versions count too.
        """
        keys = {part: key(split) for part, split in splits.items()}
        earlier = {part: key(split.as_before()) for part, split in splits.items()}
        return self.features in (keys, earlier)

    def as_dict(self) -> dict:
        """Plain values, as a checkpoint's file has them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["bytes_by_worker"] = [ledger.as_dict() for ledger in values.pop("ledgers")]
        return values

    @classmethod
    def of_dict(cls, values: Mapping) -> "Progress":
        """The inverse of as_dict()."""
        values = dict(values)
        ledgers = [Ledger(totals) for totals in values.pop("bytes_by_worker")]
        return cls(ledgers=ledgers, **values)
