"""The tables of a comparison, from what was measured."""

import dataclasses
from collections.abc import Mapping, Sequence

from sparse_ist_tf.benchmarks.cluster.cells import Cell, Measured
from sparse_ist_tf.benchmarks.cluster.settings import REFERENCE
from sparse_ist_tf.benchmarks.cluster.trainings import Point, rounds_to
from sparse_ist_tf.workers.ledger import human_bytes

TITLES = (
    *("link", "setting", "rounds", "steps", "ledger", "most", "kernel", "most"),
    *("s/round", "compute", "exchange", "model", "rounds to", "seconds to", "sent to"),
)
LEGEND = (
    "rounds: measured. steps: local ones of a round. ledger, kernel: bytes that a worker sent in a",
    "round, the workers' mean and the most of one; the kernel's are those of its host's device,",
    "headers and all. compute: seconds of a round on the unshaped link; exchange: the rest of a",
    "round. model: most bytes of the ledger / bandwidth + 2 x delay. rounds, seconds, sent to:",
    "until the accuracy that data parallel ends with; rounds come from a training by one worker,",
    "and are multiplied by what was measured over the rounds that are given; sent: by the most.",
)
_WEAK_TITLES = ("link", "capacities", "rounds", "ledger", "most", "kernel", "most", "s/round")


@dataclasses.dataclass(frozen=True)
class Row:
    """A cell that was measured.

    Args:
        cell: it.
        measured: what a round costs there.
    """

    cell: Cell
    measured: Measured


def rows_of(rows: Sequence[Row], curves: Mapping[str, Sequence[Point]]) -> list[tuple[str, ...]]:
    """A table of one data set and number of workers.

    Args:
        rows: of it.
        curves: accuracy by round of each setting; none where it isn't asked for.

    Returns:
        TITLES, and a line for each row.
    """
    compute = {
        row.cell.case.setting: row.measured.seconds for row in rows if row.cell.shape.is_unshaped
    }
    target = curves[REFERENCE][-1].accuracy if REFERENCE in curves else None
    return [TITLES, *(_line(row, compute, curves, target) for row in rows)]


def _line(
    row: Row,
    compute: Mapping[str, float],
    curves: Mapping[str, Sequence[Point]],
    target: float | None,
) -> tuple[str, ...]:
    cell, found = row.cell, row.measured
    setting, shape = cell.case.setting, cell.shape
    of_all, exchange, model = compute.get(setting), "", ""
    if of_all is not None and not shape.is_unshaped:
        exchange = f"{found.seconds - of_all:.2f}"
    if not shape.is_unshaped:
        model = f"{shape.least_seconds(max(found.ledger)):.2f}"
    until: tuple[str, ...] = ("", "", "")
    if target is not None and setting in curves:
        rounds, most = rounds_to(curves[setting], target), max(found.ledger)
        until = ("never",) * 3
        if rounds is not None:
            until = (f"{rounds:,}", f"{rounds * found.seconds:,.0f}", human_bytes(rounds * most))
    return (
        *(str(shape), setting, f"{found.rounds}", f"{found.steps}", *_bytes(found)),
        *(f"{found.seconds:.2f}", "" if of_all is None else f"{of_all:.2f}", exchange, model),
        *until,
    )


def _bytes(found: Measured) -> tuple[str, ...]:
    """The workers' mean and the most of one, of the ledger and of the kernel."""
    sides = (found.ledger, found.kernel)
    return tuple(human_bytes(x) for side in sides for x in (sum(side) / len(side), max(side)))


def accuracy_rows(curves: Mapping[str, Sequence[Point]]) -> list[tuple[str, ...]]:
    """What each setting's training came to.

    Args:
        curves: accuracy by round of each setting, of the reference too.
    """
    target = curves[REFERENCE][-1].accuracy
    titles = ("setting", "rounds", "in the end", "at best", "rounds to the end of data parallel")
    rows: list[tuple[str, ...]] = [titles]
    for setting, points in curves.items():
        reached = rounds_to(points, target)
        rows.append(
            (
                setting,
                f"{points[-1].round:,}",
                f"{points[-1].accuracy:.2%}",
                f"{max(point.accuracy for point in points):.2%}",
                "never" if reached is None else f"{reached:,}",
            )
        )
    return rows


def weak_rows(rows: Sequence[tuple[str, Row]]) -> list[tuple[str, ...]]:
    """A table of what a weak worker costs.

    Args:
        rows: what each stands for, and what was measured.
    """
    lines: list[tuple[str, ...]] = [_WEAK_TITLES]
    for what, row in rows:
        found = row.measured
        start = (str(row.cell.shape), what, f"{found.rounds}")
        lines.append((*start, *_bytes(found), f"{found.seconds:.2f}"))
    return lines
