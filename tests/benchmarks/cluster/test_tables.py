"""What a round costs, and what is made of it: from lines of workers to the table."""

import pytest

from sparse_ist_tf.benchmarks.cluster.cells import Cell, Measured, mean_of
from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.benchmarks.cluster.store import Store
from sparse_ist_tf.benchmarks.cluster.tables import TITLES, Row, accuracy_rows, rows_of
from sparse_ist_tf.benchmarks.cluster.trainings import Case, Point, rounds_to
from sparse_ist_tf.errors import RunError


def _log(steps, factor=1):
    return [
        {
            "round": n + 1,
            "step": sum(steps[: n + 1]),
            "seconds": 50.0 + 3 * n * n,
            "sent": {"weights": 100 * n * factor, "control": 10 * n * factor},
            "interfaces": {"sent": 200 * n * factor, "received": 0},
        }
        for n in range(len(steps))
    ]


def test_a_round_is_the_mean_behind_the_first():
    found = mean_of([_log([5] * 4), _log([5] * 4, 2)], 1)
    assert found == Measured(3, 5, 27 / 3, (110, 220), (200, 400), 6.0)


def test_a_short_last_round_is_none():
    assert mean_of([_log([5, 5, 5, 2])] * 2, 1).rounds == 2
    with pytest.raises(RunError, match="1 rounds to measure behind 1"):
        mean_of([_log([5, 5, 2])] * 2, 1)


def _cell(setting, link):
    return Cell(Case("digits", setting), 2, LinkShape.parse(link), "cubic")


def test_what_is_stored_is_found_again(tmp_path):
    path, found = tmp_path / "cells.jsonl", Measured(3, 5, 9.5, (1, 2.5), (3, 4), 9.0)
    cells = [_cell("fast", "unshaped"), _cell("fast", "1mbit"), _cell("local_sgd", "unshaped")]
    Store(path).add(cells[0], found)
    with open(path, "a") as file:
        file.write('{"digest": "half a')
    assert [Store(path).find(cell) for cell in cells] == [found, None, None]


def test_the_table_multiplies_out():
    curves = {
        "fast": [Point(2, 0.5), Point(4, 0.9), Point(6, 0.7)],
        "data_parallel": [Point(20, 0.85), Point(40, 0.8)],
        "local_sgd": [Point(2, 0.5), Point(4, 0.6)],
    }
    found = {"unshaped": 0.5, "1mbit/100ms": 4.0}
    rows = [
        Row(_cell(setting, link), Measured(3, 5, seconds, (3e5, 4e5), (3.5e5, 4.5e5), 0.4))
        for link, seconds in found.items()
        for setting in curves
    ]
    table = [dict(zip(TITLES, line, strict=True)) for line in rows_of(rows, curves)[1:]]
    thin = {line["setting"]: line for line in table if line["link"] == "1mbit/100ms"}
    assert thin["fast"]["compute"] == "0.50"
    assert thin["fast"]["exchange"] == "3.50"
    assert thin["fast"]["model"] == "3.40"  # 3.2 s and two delays
    assert [thin["fast"][f"{what} to"] for what in ("rounds", "seconds", "sent")] == [
        *("4", "16", "1.6 MB")
    ]
    assert thin["data_parallel"]["seconds to"] == "80"
    assert thin["local_sgd"]["seconds to"] == "never"
    assert table[0]["exchange"] == table[0]["model"] == ""
    assert accuracy_rows(curves)[1:] == [
        ("fast", "6", "70.00%", "90.00%", "4"),
        ("data_parallel", "40", "80.00%", "85.00%", "20"),
        ("local_sgd", "4", "60.00%", "60.00%", "never"),
    ]


def test_without_accuracy_nothing_is_multiplied():
    row = Row(_cell("fast", "10mbit"), Measured(3, 5, 1.0, (3e5,), (4e5,), 1.0))
    line = dict(zip(TITLES, rows_of([row], {})[1], strict=True))
    assert line["rounds to"] == line["seconds to"] == line["compute"] == line["exchange"] == ""


def test_rounds_to_an_accuracy():
    points = [Point(5, 0.1), Point(10, 0.3), Point(15, 0.2)]
    assert [rounds_to(points, accuracy) for accuracy in (0.1, 0.2, 0.3, 0.4)] == [5, 10, 10, None]
