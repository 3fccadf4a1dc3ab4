"""The figure of a comparison."""

import re

from sparse_ist_tf.benchmarks.cluster.cells import Cell, Measured
from sparse_ist_tf.benchmarks.cluster.figure import accuracy_by_bytes
from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.benchmarks.cluster.tables import Row
from sparse_ist_tf.benchmarks.cluster.trainings import Case, Point


def _row(setting, most):
    cell = Cell(Case("digits", setting), 2, LinkShape.parse("unshaped"), "cubic")
    return Row(cell, Measured(3, 5, 1.0, (most / 2, most), (most, most)))


def test_settings_that_were_measured_are_lines_along_a_logarithmic_axis():
    curves = {
        "thinnest": [Point(1, 0.5), Point(2, 0.6)],
        "local_sgd": [Point(1, 0.5), Point(2, 0.7)],
        "data_parallel": [Point(20, 0.5), Point(40, 0.8)],
    }
    rows = [_row("thinnest", 1e6), _row("local_sgd", 1e8)]
    svg = accuracy_by_bytes("digits, 2 workers", rows, curves)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"thinnest", "local sgd", "digits, 2 workers", "1", "10", "100"} <= set(texts)
    assert "data parallel" not in texts
    assert accuracy_by_bytes("digits, 2 workers", [], curves) is None
