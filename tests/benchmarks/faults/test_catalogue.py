"""The list of drills as a command: what it prints, its exit status, and that nothing is left."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_ist_tf.benchmarks.faults import catalogue
from sparse_ist_tf.benchmarks.faults.drill import Drill, Expected, NotPossible, Outcome
from sparse_ist_tf.benchmarks.faults.processes import descendants, is_alive, wait_until
from sparse_ist_tf.errors import RequestError, RunError


class _Workshop(contextlib.nullcontext):
    def __enter__(self):
        return self

    def trial(self, drill):
        return contextlib.nullcontext()


def _drill(name, do, statuses=(0,)):
    return Drill(name, f"a fault of {name}", Expected(statuses), do)


def _raise(error):
    raise error


HELD = _drill("held", lambda trial: Outcome((0,), is_same=True))
FALSE = _drill("false", lambda trial: Outcome((0,), is_same=True), statuses=(1,))
STUCK = _drill("stuck", lambda trial: _raise(RunError("within 5 s, not: a checkpoint")))
FORBIDDEN = _drill("forbidden", lambda trial: _raise(NotPossible("needs root")))


@pytest.mark.parametrize(
    ("drills", "status", "last"),
    [
        ([HELD, FORBIDDEN], 0, "1 drills, 0 fall short"),
        ([HELD, FALSE], 1, "2 drills, 1 fall short: false"),
        ([STUCK, HELD], 1, "2 drills, 1 fall short: stuck"),
        ([FORBIDDEN], 1, "0 drills, 0 fall short"),
    ],
)
def test_one_that_falls_short_ends_with_1(monkeypatch, capsys, drills, status, last):
    monkeypatch.setattr(catalogue, "Workshop", _Workshop)
    assert catalogue.compare(drills) == status
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == last
    for drill in drills:
        assert sum(line.startswith(f"  {drill.fault} ") for line in printed.splitlines()) == 1


def test_names_are_unique_and_choose():
    names = [drill.name for drill in catalogue.all_drills()]
    assert len(set(names)) == len(names)
    assert [drill.name for drill in catalogue.chosen(["never", "seed"])] == ["never", "seed"]
    assert [drill.name for drill in catalogue.chosen([])] == names
    with pytest.raises(RequestError, match=r"--drill=nver: .*did you mean 'never'"):
        catalogue.chosen(["nver"])


def _command(*arguments):
    return [sys.executable, "-m", "sparse_ist_tf.benchmark", "faults", *arguments]


@pytest.mark.large
def test_a_kill_and_a_mismatch_of_real_workers(tmp_path):
    done = subprocess.run(
        _command("--drill=kill-worker,masks.ratio"),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "2 drills, 0 fall short"
    kill, mismatch = lines[-3:-1]
    assert "lost worker 1 (127.0.0.1:" in kill
    assert "1, SIGKILL           yes" in kill
    assert "masks.ratio: worker 1 has 0.25, worker 0 has 0.5" in mismatch
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_leaves_no_process_and_no_file(tmp_path, number):
    with subprocess.Popen(
        _command("--drill=late"),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert wait_until(lambda: len(descendants(process.pid)) >= 2, 60)
        below = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert wait_until(lambda: not any(map(is_alive, below)), 5)
    assert not list(tmp_path.iterdir())


@pytest.mark.large
def test_every_drill_holds(tmp_path):
    done = subprocess.run(
        _command(), env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
