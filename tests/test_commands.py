"""How commands end: their status, and one line."""

import subprocess
import sys

import pytest

from sparse_ist_tf.commands import quiet, say
from sparse_ist_tf.errors import RequestError, RunError, warn

SCRIPT = """
import sys
from absl import flags
from sparse_ist_tf.commands import run
from sparse_ist_tf.errors import RequestError, RunError

def main(_):
    {body}

run(main, lambda: flags.DEFINE_integer("count", 1, "A number."))
"""


def _run(body, *arguments):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ("pass", 0, ""),
        ("return 3", 3, ""),
        ("raise RequestError('key=1: must\\n be 2')", 2, "error: key=1: must be 2\n"),
        ("raise RunError('it broke')", 1, "error: it broke\n"),
        ("raise OSError(28, 'No space left', 'f')", 1, "error: [Errno 28] No space left: 'f'\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_the_ways_to_end(body, status, line):
    done = _run(body)
    assert (done.returncode, done.stderr) == (status, line)


def test_a_backend_that_is_not_the_command_s_is_named(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    done = _run("pass")
    assert done.returncode == 2
    assert done.stderr == "error: KERAS_BACKEND=jax: must be tensorflow for this command\n"


def test_a_bug_keeps_its_traceback():
    done = _run("1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("argument", ["--count=two", "--cuont=2", "stray"])
def test_wrong_flags_are_one_line(argument):
    done = _run("pass", argument)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert argument.split("=")[0].strip("-") in done.stderr


def test_what_is_said_is_one_line(capsys):
    assert say(RunError("a\n  b")) == 1
    assert say(RequestError("c")) == 2
    warn("d\ne")
    assert capsys.readouterr().err == "error: a b\nerror: c\nwarning: d e\n"


def test_quiet_keeps_libraries_off_stderr(capfd):
    with quiet():
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'chatter')"], check=True)
    sys.stderr.write("heard\n")
    assert capfd.readouterr().err == "heard\n"


def test_help_lists_every_key():
    done = subprocess.run(
        [sys.executable, "-m", "sparse_ist_tf.study", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    words = " ".join(done.stdout.split())
    assert "jobs=0 (at least 0): worker processes at a time; as many as cores where 0" in words


def test_a_mistyped_key_is_named_with_the_nearest():
    done = subprocess.run(
        [sys.executable, "-m", "sparse_ist_tf.pretrain", "--config.decoder.dept=3"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: --config.decoder.dept=3: there is no such key; decoder has width, depth, num_heads "
        "(did you mean 'decoder.depth'?)\n"
    )
