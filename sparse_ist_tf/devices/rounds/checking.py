"""Whether what a device sends back may be merged: a bad answer is refused, whatever made it bad."""

import collections
from collections.abc import Mapping

import numpy as np

from sparse_ist_tf.devices.wire.blocks import Columns, lifted_back, parts_of, shapes_back
from sparse_ist_tf.devices.wire.records import Answer, Plan
from sparse_ist_tf.errors import printable

# Of a difference's root mean square, over the median of the others': of all of it, and of an array.
MOST, MOST_OF_ARRAY = 10.0, 100.0
# Of moments, which follow a device's own losses, over what the others have or what was sent.
MOST_OF_MOMENT = 1e4
_REMEMBERED = 20  # differences of earlier rounds that the only one of a round is held against


class RefusedError(Exception):
    """Why an answer isn't merged.

    Args:
        kind: what is counted, such as "not finite".
        text: one line.
    """

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


def check_answer(answer: Answer, plan: Plan) -> Columns:
    """Reads an answer to a plan.

    Args:
        answer: from the device that has the plan.
        plan: of this round.

    Returns:
        Of each parameter the difference of its weight, and its moments.

    Raises:
        RefusedError: if it is of another round, subnet or block, of other shapes, or not finite.
    """
    if answer.round != plan.round:
        raise RefusedError("another round", f"is of round {answer.round}, not {plan.round}")
    if answer.subnet != plan.subnet:
        raise RefusedError("another subnet", f"is of subnet {answer.subnet}, not {plan.subnet}")
    if answer.refusal:
        text = " ".join(answer.refusal.split())[:200]
        raise RefusedError("trained nothing", f"trained nothing: {printable(text)}")
    if answer.of != plan.block.digest:
        raise RefusedError("another block", "is of another block than it was given")
    _check_shapes(answer, plan)
    if not np.isfinite(answer.loss):
        raise RefusedError("not finite", f"has the loss {answer.loss}")
    seen = len(plan.rates)
    if answer.loss < 0 or answer.right < 0 or answer.seconds < 0 or not np.isfinite(answer.seconds):
        raise RefusedError(
            "impossible facts", "tells a loss, right answers or seconds that can't be"
        )
    with np.errstate(all="ignore"):
        columns = lifted_back(plan.layout, answer.block)
    for name, arrays in columns.items():
        for column, array in enumerate(arrays):
            if not np.isfinite(array).all():
                what = f"moment {column} of {name}" if column else name
                raise RefusedError("not finite", f"is not finite in {what} behind {seen} steps")
    _check_second_moments(plan, columns)
    return columns


def _check_shapes(answer: Answer, plan: Plan) -> None:
    wanted, found = shapes_back(plan.layout), answer.block.arrays
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found or name not in wanted:
            raise RefusedError(
                "another shape", f"{'lacks' if name in wanted else 'has also'} {name!r}"
            )
        shape = found[name].dtype.name, found[name].shape
        if shape != wanted[name]:
            dtype, sides = wanted[name]
            raise RefusedError(
                "another shape",
                f"has {shape[0]}{list(shape[1])} for {name!r}, must be {dtype}{list(sides)}",
            )


def _check_second_moments(plan: Plan, columns: Columns) -> None:
    """A mean of squares isn't negative: Adam would take its root."""
    seconds = [i for i, kind in enumerate(plan.layout.kinds, 1) if kind == "second"]
    for name, arrays in columns.items():
        for column in seconds:
            if arrays[column].min(initial=0.0) < 0:
                raise RefusedError("impossible moments", f"has a second moment of {name} below 0")


class Norms:
    """How large differences are, each held against the others of its round.

    Where it is the only one it is held against those that were merged in earlier rounds; the first
    of all has nothing that it could be held against.
    """

    def __init__(self) -> None:
        self.earlier: collections.deque[dict[str, float]] = collections.deque(maxlen=_REMEMBERED)

    def refusals(self, learnt: Mapping[int, Columns], plans: Mapping[int, Plan]) -> dict[int, str]:
        """Which answers of a round are out of proportion, and why, in one line.

        Args:
            learnt: checked answers by subnet.
            plans: by subnet.
        """
        sizes = {n: _sizes(columns) for n, columns in learnt.items()}
        refused: dict[int, str] = {}
        while True:  # the worst first, so that it doesn't speak for the others
            worst = max(
                ((self._excess(n, sizes, plans[n]), n) for n in sizes), default=((0.0, ""), -1)
            )
            (excess, reason), subnet = worst
            if excess <= 1:
                return refused
            refused[subnet] = reason
            del sizes[subnet]

    def merged(self, learnt: Mapping[int, Columns]) -> None:
        """Remembers what was merged."""
        self.earlier.extend(_sizes(columns) for columns in learnt.values())

    def _excess(self, subnet, sizes, plan) -> tuple[float, str]:
        """By how much the bound is passed, at worst, and in what."""
        others = [size for n, size in sizes.items() if n != subnet] or list(self.earlier)
        if not others:
            return 0.0, ""
        found = (0.0, "")
        for name, size in sizes[subnet].items():
            most, what = _bound(name)
            usual = float(np.median([other[name] for other in others]))
            if name.partition("|")[2] not in ("", "0"):
                usual = max(usual, _sent(plan, name))
            if usual <= 0 or size <= 0:
                continue
            text = f"{what} is {size / usual:.3g} times as large as the others'"
            found = max(found, (size / (most * usual), f"{text}, at most {most:g} are merged"))
        return found


def _bound(name: str) -> tuple[float, str]:
    """The bound of a size, and what it is of."""
    if not name:
        return MOST, "its difference"
    parameter, _, column = name.partition("|")
    if column == "0":
        return MOST_OF_ARRAY, f"its difference of {parameter}"
    return MOST_OF_MOMENT, f"its moment {column} of {parameter}"


def _sizes(columns: Columns) -> dict[str, float]:
    """Root mean squares: of the whole difference, of each array's, and of each moment."""
    found, squares, count = {}, 0.0, 0
    for name, arrays in columns.items():
        for column, array in enumerate(arrays):
            total = float(np.sum(np.square(array, dtype=np.float64)))
            found[f"{name}|{column}"] = float(np.sqrt(total / array.size))
            if not column:
                squares, count = squares + total, count + array.size
    return {"": float(np.sqrt(squares / count)), **found}


def _sent(plan: Plan, name: str) -> float:
    """The root mean square of a moment as it was sent out."""
    parameter, _, column = name.partition("|")
    for part in parts_of(plan.layout):
        if (part.name, str(part.column)) == (parameter, column):
            arrays = plan.block.take(part.name, part.column)
            rows = part.out.lift(arrays, part.inputs)
            return float(np.sqrt(np.mean(np.square(rows, dtype=np.float64))))
    return 0.0
