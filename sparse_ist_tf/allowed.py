"""What a setting may be: small objects that check a value and say in words what they allow."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Value: TypeAlias = bool | int | float | str | tuple | list | Mapping


class Allowed(Protocol):
    """What a key may be; str() of it goes on with "must be"."""

    def __contains__(self, value: Any) -> bool: ...


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of some words; one such as "folder:PATH" stands for whatever is filled in there.

    Args:
        words: what people are told of.
        untold: others, which a program makes.
    """

    words: tuple[str, ...]
    untold: tuple[str, ...] = ()

    def __contains__(self, value: str) -> bool:
        kind, _, part = value.partition(":")
        words = self.words + self.untold
        return value in words or any(part and word.startswith(f"{kind}:") for word in words)

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number between two others.

    Args:
        low: the least.
        high: the greatest.
        above: low itself is not allowed.
        below: high itself is not allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        inside = math.isfinite(value) and self.low <= value <= self.high
        at_end = (self.above and value == self.low) or (self.below and value == self.high)
        return inside and not at_end

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.above else 'at least'} {self.low}"
        return f"in {'[('[self.above]}{self.low}, {self.high}{'])'[self.below]}"


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Several numbers.

    Args:
        text: what they must be, for people.
        each: what each of them may be.
        whole: 3.0 is, 3.5 isn't.
        distinct: none is there twice.
        counts: how many there may be; any number where empty.
        least: how many there must be.
    """

    text: str
    each: Number = Number()
    whole: bool = False
    distinct: bool = False
    counts: tuple[int, ...] = ()
    least: int = 0

    def __contains__(self, values: Sequence[float]) -> bool:
        return (
            all(_is_number(value) and value in self.each for value in values)
            and not (self.whole and any(value != int(value) for value in values))
            and not (self.distinct and len(set(values)) < len(values))
            and (not self.counts or len(values) in self.counts)
            and len(values) >= self.least
        )

    def __str__(self) -> str:
        return self.text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
