"""A figure of a comparison: accuracy against what a worker had sent by then."""

from collections.abc import Mapping, Sequence

from sparse_ist_tf.benchmarks.cluster.tables import Row
from sparse_ist_tf.benchmarks.cluster.trainings import Point
from sparse_ist_tf.reports.lines import Line, draw


def accuracy_by_bytes(
    title: str, rows: Sequence[Row], curves: Mapping[str, Sequence[Point]]
) -> str | None:
    """A line for each setting, along a logarithmic axis.

    Args:
        title: of the figure.
        rows: measured with one number of workers; bytes of a round don't depend on the link.
        curves: accuracy by round of each setting.

    Returns:
        SVG; None where no setting has both.
    """
    sent = {row.cell.case.setting: max(row.measured.ledger) / 1e6 for row in rows}
    lines = []
    for setting, points in curves.items():
        if setting in sent:
            x = [point.round * sent[setting] for point in points]
            lines.append(Line(setting.replace("_", " "), x, [point.accuracy for point in points]))
    label = "MB that the worker which sends most had sent"
    return draw([(title, lines)], label, log=True, marks=True) if lines else None
