"""What was measured of a file: its record in verification.json, and its row of the table."""

import dataclasses
import re
import textwrap
from collections.abc import Mapping, Sequence

from sparse_ist_tf.export.devices import edge_tpu

WIDTH = 100  # of what is printed, in columns


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How often a file is right."""

    images: int = 0  # that were run
    accuracy: float = 0.0  # in [0, 1]
    float_accuracy: float = 0.0  # of the Keras model on the same images

    @property
    def drop(self) -> float:
        """Accuracy lost to conversion, in points; 15 of 1,000 images are 1.5 to the last bit."""
        right, before = (round(x * self.images) for x in (self.accuracy, self.float_accuracy))
        return 100 * (before - right) / self.images if self.images else 0.0


@dataclasses.dataclass(frozen=True)
class Comparison(Accuracy):
    """A file in LiteRT beside the Keras model."""

    agreement: float = 0.0  # share of images with the same answer
    mean_difference: float = 0.0  # of logits
    largest_difference: float = 0.0


@dataclasses.dataclass(frozen=True)
class Micro(Accuracy):
    """A file in TFLite Micro."""

    flash: int = 0  # bytes that a microcontroller stores
    arena: int = 0  # bytes of memory that it needs
    difference: int = 0  # largest step from LiteRT's reference kernels
    agreement: float = 0.0  # share of images with the same answer as theirs

    def sentence(self) -> str:
        """For the printed table."""
        equal = f"within {self.difference} steps" if self.difference else "bit for bit"
        return (
            f"flash {self.flash:,}, arena {self.arena:,} bytes; TFLite Micro equals LiteRT's "
            f"reference kernels {equal} on {self.images} images, {100 * self.agreement:.1f} % same "
            f"answers, accuracy there {100 * self.accuracy:.2f} % "
            f"(float {100 * self.float_accuracy:.2f} %)"
        )


# The names of Micro's fields in verification.json, whose records are flat.
_MICRO = {
    field.name: field.name if field.name in ("flash", "arena") else f"micro_{field.name}"
    for field in dataclasses.fields(Micro)
}


@dataclasses.dataclass
class Result:
    """What was measured of one file.

    Args:
        name: of the file.
        kind: of the artefact, as interface.KINDS.
        quantize: as interface.QUANTIZATIONS.
        size: bytes of the file.
        operators: how many of each.
        peak: most bytes of tensors that are alive at once, weights apart: the least arena.
        problems: conditions missed; empty for a good file.
        notes: what else is worth saying.
        comparison: with the Keras model.
        latency: {"1 thread": (median, 95th percentile) in ms, "all threads": ...}.
        mapping: what share an Edge TPU runs, for its targets.
        micro: in TFLite Micro, for its targets.
    """

    name: str
    kind: str
    quantize: str
    size: int
    operators: dict[str, int] = dataclasses.field(default_factory=dict)
    peak: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    comparison: Comparison = Comparison()
    latency: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    mapping: edge_tpu.Mapping | None = None
    micro: Micro | None = None

    @property
    def good(self) -> bool:
        """Whether no condition is missed."""
        return not self.problems

    def as_dict(self) -> dict:
        """For JSON, flat."""
        values = dataclasses.asdict(self) | {"good": self.good}
        values |= values.pop("comparison")
        micro = values.pop("micro") or dict.fromkeys(_MICRO)
        return values | {_MICRO[name]: value for name, value in micro.items()}

    @classmethod
    def from_dict(cls, stored: Mapping) -> "Result":
        """What as_dict() was of, in this version or in 0.1.0, which called quantize numbers.

        Raises:
            KeyError: if it was of something else.
        """
        stored = {**stored, "quantize": stored.get("quantize") or stored["numbers"]}
        own = {field.name for field in dataclasses.fields(cls)} - {"comparison", "micro"}
        result = cls(**{name: stored[name] for name in own})
        fields = dataclasses.fields(Comparison)
        result.comparison = Comparison(**{field.name: stored[field.name] for field in fields})
        if stored["mapping"]:
            log = tuple(stored["mapping"]["log"])
            result.mapping = edge_tpu.Mapping(**{**stored["mapping"], "log": log})
        if stored["arena"] is not None:
            result.micro = Micro(**{name: stored[key] for name, key in _MICRO.items()})
        return result


# What the table's columns are, in order; a file's name stands above its row.
_COLUMNS = (
    "bytes", "accuracy", "float", "same", "mean d", "max d", "ms", "95 %", "ms all", "95 %",
    "memory",
)  # fmt: skip
_LEGEND = (
    "accuracy: of all test images in LiteRT; float: that of the Keras model; same: answers that "
    "agree with its; d: difference of what they give; ms: of an image on one thread and on all, "
    "median and 95th percentile, on this machine; memory: the least that tensors need, in TFLite "
    "Micro its arena, in bytes"
)


def table(results: Sequence[Result]) -> str:
    """The table that export prints, at most WIDTH columns wide but for a file's name."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for r in results:
        times = [r.latency.get(on, (0.0, 0.0)) for on in ("1 thread", "all threads")]
        rows.append(
            (
                f"{r.size:,}",
                f"{100 * r.comparison.accuracy:.2f} %",
                f"{100 * r.comparison.float_accuracy:.2f} %",
                f"{100 * r.comparison.agreement:.1f} %",
                f"{r.comparison.mean_difference:.3f}",
                f"{r.comparison.largest_difference:.2f}",
                *(_milliseconds(ms) for pair in times for ms in pair),
                f"{r.micro.arena if r.micro else r.peak:,}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *lines = (
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    out = [f"  {head}"]
    for r, line in zip(results, lines, strict=True):
        out += [f"{r.name}: {'ok' if r.good else 'FAILED'}", f"  {line}"]
    out.append(wrapped(_LEGEND))
    for r in results:
        found = [f"Edge TPU runs {r.mapping.sentence()}"] if r.mapping else []
        found += [r.micro.sentence()] if r.micro else []
        found += [*r.notes, *(f"FAILED: {problem}" for problem in r.problems)]
        out += [wrapped(f"{r.name}: {text}") for text in found]
    return "\n".join(out)


_whole_words = textwrap.TextWrapper(WIDTH - 2, break_long_words=False, break_on_hyphens=False)


def wrapped(text: str) -> str:
    """A text in lines of at most WIDTH, between its clauses where it can be; a word stays whole."""
    lines, line = [], ""
    for clause in re.split(r"(?<=[;,]) ", text):
        for piece in _whole_words.wrap(clause):
            longer = f"{line} {piece}" if line.strip() else line + piece
            if len(longer) > WIDTH and line:
                lines.append(line)
                longer = f"  {piece}"
            line = longer
    return "\n".join([*lines, line])


def _milliseconds(value: float) -> str:
    """Four digits or so."""
    return f"{value:.3f}" if value < 100 else f"{value:.0f}"
