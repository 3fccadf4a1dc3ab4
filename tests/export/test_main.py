"""The command: its statuses, and one line for what is wrong."""

import subprocess
import sys

import pytest


def _run(*arguments):
    command = [sys.executable, "-m", "sparse_ist_tf.export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


BAD = [
    (["--run={tmp}", "--target=phone"], "is no run directory"),
    (["--run={run}", "--target=fridge"], "error: target='fridge': must be one of phone, coral"),
    (["--target=phone"], "error: --run is missing"),
    (["--run={run}", "--target=micro", "--flash=0"], "flash=0: must be at least 1 byte"),
    (["--run={run}", "--target=phone", "--subnets=a"], "subnets=a: must be numbers"),
    (["--run={run}", "--target=phone", "--prune=9:4"], "prune='9:4': must be 2:4"),
    (["--run={run}", "--target=phone", "--speed=3"], "speed"),
    (["--target_table={tmp}/no.json", "--run={run}", "--target=x"], "no.json': can't be read"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [BAD[0], *(pytest.param(*bad, marks=pytest.mark.large) for bad in BAD[1:])],
)
def test_a_bad_request_is_one_line_and_status_2(run_path, tmp_path, arguments, message):
    done = _run(*(argument.format(run=run_path, tmp=tmp_path) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_status_0_if_all_is_good_and_1_if_not(run_path, tmp_path):
    arguments = (f"--run={run_path}", "--target=phone", "--artefacts=head", "--quantize=float32")
    done = _run(*arguments, f"--output={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert "100.0 %" in done.stdout
    assert f"Kept in {tmp_path}/out: 1 files" in done.stdout
    assert "error" not in done.stderr
    done = _run(*arguments, f"--output={tmp_path}/out", "--flash=1000")
    assert done.returncode == 1
    assert "Not kept" in done.stdout
    assert not list((tmp_path / "out").glob("*.tflite"))
