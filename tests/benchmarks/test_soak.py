"""A soak: what grows is told, and the weights are those of a run that nothing happened to."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sparse_ist_tf.benchmarks.growth import Sample
from sparse_ist_tf.benchmarks.soak import _NEVER, NUM_WORKERS, _Bar, _table
from sparse_ist_tf.shown.bars import Bar


def _samples(kilobytes, threads):
    """A life of each process, in which worker 1 alone grows."""
    workers = (*range(NUM_WORKERS), -1)
    return [
        Sample(w, 100 + w, r, int(2e6 + kilobytes * r * (w == 1)), int(40 + threads * r * (w == 1)))
        for w in workers
        for r in range(0, 1000, 20)
    ]


@pytest.mark.parametrize(
    ("kilobytes", "threads", "grows"), [(0, 0, 0), (1, 0, 0), (40, 0, 1), (0, 0.1, 1)]
)
def test_what_grows_is_told(kilobytes, threads, grows):
    rows, is_flat = _table(_samples(kilobytes, threads))
    assert is_flat == (not grows)
    assert [row[0] for row in rows if row[-1] == "grows"] == ["worker 1"] * grows
    assert float(rows[2][4]) == pytest.approx(kilobytes)


def test_who_was_not_seen_is_not_flat():
    rows, is_flat = _table([s for s in _samples(0, 0) if s.worker != 2])
    assert not is_flat
    assert rows[3][0] == "worker 2"
    assert rows[3][-1] == "not seen"


def test_the_round_is_that_of_the_workers_of_today(tmp_path, capsys):
    def line(done):
        with Bar(_NEVER, "rounds", "rounds") as bar:
            bar.to(done)
        return capsys.readouterr().err

    output = tmp_path / "output.txt"
    bar = _Bar(SimpleNamespace(output=output))
    output.write_text("")
    assert bar.round([1, 2]) == 0
    output.write_text(line(1057))
    assert bar.round([1, 2]) == 1057
    assert bar.round([3, 4]) == 0
    with open(output, "a") as file:
        file.write(f"warning: ...\n{line(40)}")
    assert bar.round([3, 4]) == 40


@pytest.mark.large
def test_a_short_soak_ends_with_the_undisturbed_weights():
    command = [sys.executable, "-m", "sparse_ist_tf.benchmark", "soak"]
    done = subprocess.run(
        [*command, "--minutes=2.5", "--every_minutes=1"], capture_output=True, text=True
    )
    assert "Weights as those of one worker undisturbed" in done.stdout, done.stdout + done.stderr
    assert re.search(r"killed every 1 minutes: worker \d", done.stdout)


def test_no_time_is_a_bad_request():
    command = [sys.executable, "-m", "sparse_ist_tf.benchmark", "soak", "--minutes=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "minutes" in done.stderr
