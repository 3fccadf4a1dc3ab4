"""What a run knows of its data: class names, where it lies, and what its images are."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_ist_tf.errors import printable
from sparse_ist_tf.workers.preparing import place_of

if TYPE_CHECKING:
    from sparse_ist_tf.inputs.split import Split

_NAMED = 3  # classes, and an image, that a message names
_DIGITS = 16  # of a file's digest


@dataclasses.dataclass(frozen=True)
class PartRecord:
    """One part of a data set.

    Args:
        size: how many images.
        fingerprint: as Split has it.
        files: digests of contents by path below the folder; empty where images aren't files.
    """

    size: int
    fingerprint: str
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """What a run was trained on.

    Args:
        place: the absolute path of a folder or a file; empty for data sets with a name.
        class_names: in the order of the labels.
        parts: "train" and "test".
    """

    place: str
    class_names: tuple[str, ...]
    parts: Mapping[str, PartRecord]

    @classmethod
    def of(cls, name: str, splits: Mapping[str, "Split"]) -> "DataRecord":
        """The record of what is loaded.

        Args:
            name: as dataset.name.
            splits: "train" and "test".
        """
        parts = {
            part: PartRecord(
                split.size,
                split.fingerprint,
                {path: digest[:_DIGITS] for path, digest in split.files},
            )
            for part, split in splits.items()
        }
        place = place_of(name)
        place = os.path.abspath(Path(place).expanduser()) if place else ""
        return cls(place, splits["train"].class_names, parts)

    @classmethod
    def of_dict(cls, values: Mapping) -> "DataRecord":
        """The inverse of as_dict()."""
        parts = {part: PartRecord(**found) for part, found in values["parts"].items()}
        return cls(values["place"], tuple(values["class_names"]), parts)

    def as_dict(self) -> dict:
        """Plain values."""
        return dataclasses.asdict(self)

    def without_files(self) -> "DataRecord":
        """The same in few bytes."""
        parts = {p: dataclasses.replace(some, files={}) for p, some in self.parts.items()}
        return dataclasses.replace(self, parts=parts)

    def change(self, now: "DataRecord") -> str:
        """What is no longer as it was, in words; empty where nothing is.

        Args:
            now: the record of what is there. Where it lies doesn't matter.
        """
        before, after = self.class_names, now.class_names
        new = [name for name in after if name not in before]
        gone = [name for name in before if name not in after]
        if new or gone:
            told = [f"{_named(new)} new"] if new else []
            told += [f"{_named(gone)} gone"] if gone else []
            return f"{'class' if len(new or gone) == 1 else 'classes'} {', '.join(told)}"
        if before != after:
            return f"classes are in another order, {_listed(after)}, which was {_listed(before)}"
        if all(part.files for record in (self, now) for part in record.parts.values()):
            return self._change_of_files(now)
        for part, found in self.parts.items():
            other = now.parts[part]
            if found.size != other.size:
                return f"{part} has {_images(other.size)}, had {found.size:,}"
            if found.fingerprint != other.fingerprint:
                return f"images or labels of {part} are others"
        return ""

    def _change_of_files(self, now: "DataRecord") -> str:
        before, after = self._files(), now._files()
        found = {
            "changed": [path for path in after if before.get(path, after[path]) != after[path]],
            "new": [path for path in after if path not in before],
            "gone": [path for path in before if path not in after],
        }
        told = [
            f"{_images(len(paths))} {what} (such as {printable(paths[0])})"
            for what, paths in found.items()
            if paths
        ]
        if not told:
            for part, some in now.parts.items():
                known = self.parts[part]
                if moved := some.files.keys() - known.files.keys():
                    return f"{_images(len(moved))} moved to {part}"
                if some.fingerprint != known.fingerprint:
                    return f"labels of {part} are others"
        return ", ".join(told)

    def _files(self) -> dict[str, str]:
        return {path: d for part in self.parts.values() for path, d in part.files.items()}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more


def _images(count: int) -> str:
    return f"{count:,} image{'s'[: count != 1]}"


def _named(names: Sequence[str]) -> str:
    return f"{_listed(names)} {'is' if len(names) == 1 else 'are'}"
