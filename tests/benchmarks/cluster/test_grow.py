"""How a round grows: what is measured, and the tables."""

import re
import subprocess
import sys

import pytest

from sparse_ist_tf.benchmarks.cluster import comparison, grow
from sparse_ist_tf.benchmarks.cluster.cells import Measured
from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.benchmarks.cluster.trainings import Case
from sparse_ist_tf.errors import RunError
from tests.benchmarks.cluster.possible import needs_hosts

_COMMAND = (sys.executable, "-m", "sparse_ist_tf.benchmark", "cluster", "--grow")


def _run(folder, *arguments):
    command = (*_COMMAND, f"--workdir={folder}", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def test_one_is_varied_at_a_time():
    sizes = grow.sizes()
    assert len(sizes) == len(set(sizes)) == 7
    for size in sizes:
        pairs = zip((size.num_workers, size.num_subnets, size.width), grow.BASE, strict=True)
        assert sum(one != other for one, other in pairs) <= 1
        assert size.num_subnets >= size.num_workers
    assert grow.sizes([4], [8], [1000]) == [grow.Size(*grow.BASE)]


def test_a_size_holds_before_what_a_setting_stands_for():
    keys = Case(grow.DATASET, "thinnest", grow.Size(2, 6, 40).keys).keys
    assert {"ist.num_subnets=6", "head.hidden=(40,40)", "ist.link=thinnest"} <= set(keys)
    assert "ist.local_steps=2" in keys


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Of sizes what is printed, where each cell is as the model says; a wide one fails."""
    monkeypatch.setattr(comparison, "check_machine", lambda congestion: None)
    monkeypatch.setattr(comparison, "encode", lambda workplace, case: None)

    def measure(cell, workplace):
        width = int(re.search(r"head\.hidden=\((\d+),", " ".join(cell.case.keys))[1])
        if width > 1000:
            raise RunError("no host is so strong")
        cost = grow.Size(cell.num_workers, 8, width).cost(cell.case.setting)
        seconds = 0.25 + (0 if cell.shape.is_unshaped else cost.seconds(cell.shape, 0.25))
        sent = tuple(cost.sent.tolist())
        return Measured(3, 2, 2 * seconds, sent, sent, seconds)

    monkeypatch.setattr(comparison, "measure", measure)
    request = comparison.Request(("digits",), ("fast", "thinnest"), ("10mbit/20ms",))
    return lambda sizes: comparison.compare_growth(request, sizes, tmp_path)


def test_what_is_measured_stands_beside_the_model(bench, capsys):
    assert bench(grow.sizes([2, 4], [8], [500])) == 0
    printed = capsys.readouterr().out
    measured, predicted = printed.split("PREDICTION, not measured")
    rows = [line.split() for line in measured.splitlines() if re.match(r" +\d", line)]
    assert len(rows) == 6
    titles = re.search(r"^ +P .*", measured, re.M)[0].split()
    for row in rows:
        line = [*zip(titles, re.sub(r" (k|M)B", "", " ".join(row)).split(), strict=True)]
        assert [text for title, text in line if title == "ratio"] == ["1.00", "1.00"]
        assert ("compute", "0.25") in line
    assert [row[:4] for row in rows][:2] == [
        *(["2", "8", "1,000", "fast"], ["2", "8", "1,000", "thinnest"])
    ]
    assert re.search(r"^ +1024 +1024 +128,000 +thinnest ", predicted, re.M)
    assert len(re.findall(r"^ +\d+ +\d+ ", predicted, re.M)) == 8


def test_what_fails_is_left_out(bench, capsys):
    assert bench(grow.sizes([4], [8], [2000])) == 1
    printed = capsys.readouterr().out
    assert printed.count("failed: ") == 4
    rows = printed.split("PREDICTION")[0].splitlines()
    assert sum(bool(re.match(r" +4 +8 ", line)) for line in rows) == 2


def test_the_prediction_is_the_models():
    shape = LinkShape.parse("10mbit/20ms")
    titles, *rows = grow.predicted_rows(["thin"], shape)
    assert [row[0] for row in rows] == ["16", "64", "256", "1024"]
    for row in rows:
        line = dict(zip(titles, row, strict=True))
        size = grow.Size(int(row[0]), int(row[1]), 125 * int(row[0]))
        assert float(line["exchange"]) == pytest.approx(size.cost("thin").seconds(shape), abs=0.005)


@needs_hosts
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num_workers=16"], "--num_workers=16: must be whole numbers in [2, 8] with --grow"),
        (["--num_subnets=2"], "--num_subnets=2: must be whole numbers in [4, 16]"),
        (["--widths=wide"], "--widths=wide: must be whole numbers in [16, 16000]"),
        (["--links=unshaped"], "--links=unshaped: must be one that is shaped, with --grow"),
        (["--links=1mbit,2mbit"], "--links=1mbit,2mbit: must be one that is shaped"),
        (["--links=thin"], "--links=thin: must be unshaped, or"),
        (["--settings=diloco"], "must be some of fast, thin, thinnest with --grow"),
        (["--weak"], "--weak: must not stand beside --grow"),
        (["--override=seed=1"], "--override: must not stand beside --grow"),
        (["--dataset=digits"], "--dataset: must not stand beside --grow"),
        (["--noaccuracy"], "--accuracy: must not stand beside --grow"),
        (["--nogrow", "--widths=500"], "--widths: only with --grow"),
        (["--nogrow", "--num_subnets=8"], "--num_subnets: only with --grow"),
    ],
)
def test_a_bad_request_is_one_line(tmp_path, arguments, words):
    done = _run(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


@needs_hosts
@pytest.mark.large
def test_workers_are_measured(tmp_path):
    only = ("--num_workers=4", "--num_subnets=8", "--widths=1000", "--settings=thinnest")
    done = _run(tmp_path, *only, "--links=100ms", "--rounds=6")
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = re.findall(r"^ +4 +8 +1,000 .*", done.stdout.split("PREDICTION")[0], re.M)
    ratios = re.findall(r"\d\.\d\d\b", line)
    assert float(ratios[0]) == pytest.approx(1, abs=0.05)
    assert float(ratios[-1]) == pytest.approx(1, abs=0.5)
