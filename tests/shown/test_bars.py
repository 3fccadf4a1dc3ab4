"""What a terminal shows in the end, and what a file gets."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

from sparse_ist_tf.shown import bars

WORK = """
import time, sys
from sparse_ist_tf.shown.bars import Bar
said = ["loss 1.234", "accuracy 0.678", "test 0.512", "sent 123 MB"]
with Bar(40, {what!r}, "images") as bar:
    for i in range(40):
        time.sleep({pause})
        bar.update(1, said, first=("test", "loss"))
print("done", file=sys.stderr)
"""


def resize(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))


def in_terminal(columns, code, later=None, worker=False):
    """What a program writes to a terminal, which has other columns after half a second."""
    ours, theirs = pty.openpty()
    resize(ours, columns)
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", bars.TERMINAL)}
    kind = {"stdin": theirs, "stderr": theirs, "env": environment}
    if worker:  # its output goes through its launcher
        environment[bars.TERMINAL] = os.ttyname(theirs)
        kind["stderr"] = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], **kind)
    os.close(theirs)
    source = process.stderr.fileno() if worker else ours
    began, content = time.monotonic(), b""
    while True:
        ready = select.select([source], [], [], 0.1)[0]
        if later and time.monotonic() - began > 1.0:
            resize(ours, later)
            later = None
        if not ready:
            if process.poll() is not None:
                break
            continue
        try:
            chunk = os.read(source, 65536)
        except OSError:
            break
        if not chunk:
            break
        content += chunk
    process.wait()
    os.close(ours)
    return content.decode()


def lines_of(text, columns):
    """The lines that stay, of a terminal that breaks what is too long."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            assert len(part) < columns, "would be broken"
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


@pytest.mark.parametrize("worker", [False, True])
@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (40, []),
        (60, ["test"]),
        (80, ["loss", "accuracy", "test"]),
        (200, ["loss", "accuracy", "test", "sent"]),
    ],
)
def test_a_bar_stays_on_one_line_and_shows_what_fits(columns, shown, worker):
    text = in_terminal(columns, WORK.format(what="rounds", pause=0.02), worker=worker)
    bar, done = lines_of(text, columns)
    assert done == "done"
    assert "40/40" in bar
    assert re.findall("test|loss|accuracy|sent", bar) == shown


def test_a_bar_follows_a_terminal_that_grows_and_shrinks():
    grown = in_terminal(60, WORK.format(what="rounds", pause=0.06), later=150, worker=True)
    assert len(lines_of(grown, 150)[0]) == 147
    shrunk = in_terminal(150, WORK.format(what="rounds", pause=0.06), later=60, worker=True)
    assert all(len(part.split("\n")[0]) < 60 for part in shrunk.split("\r")[-2:])


def test_wide_characters_count_twice():
    text = in_terminal(60, WORK.format(what="encoding 写真/犬", pause=0.02))
    wide = sum(1 for c in lines_of(text, 61)[0] if c in "写真犬")
    assert len(lines_of(text, 61)[0]) + wide < 60


def test_a_file_gets_plain_lines(monkeypatch, capsys):
    monkeypatch.delenv(bars.TERMINAL, raising=False)
    monkeypatch.setattr(bars, "terminal", lambda: "")
    monkeypatch.setattr(bars, "_EVERY_S", 0.05)
    with bars.Bar(1000, "encoding digits/test", "images") as bar:
        for _ in range(10):
            time.sleep(0.02)
            bar.update(100, ["loss 1.234"])
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 5
    what = r"encoding digits/test: "
    middle = what + r"\d0%, \d00 of 1,000, [\d,.]+ images/s, \d\d:\d\d left, loss 1\.234"
    assert re.fullmatch(middle, lines[0])
    assert re.fullmatch(what + r"100%, 1,000 of 1,000, [\d,.]+ images/s, loss 1\.234", lines[-1])


def test_short_work_is_one_plain_line_and_hidden_work_none(monkeypatch, capsys):
    monkeypatch.setattr(bars, "terminal", lambda: "")
    for kind, count in (({}, 1), ({"is_shown": False}, 0), ({"stays": False}, 0)):
        with bars.Bar(3, "rounds", "rounds", **kind) as bar:
            bar.update(3)
        assert len(capsys.readouterr().err.splitlines()) == count


def test_what_is_stopped_says_how_far_it_was(monkeypatch, capsys):
    monkeypatch.setattr(bars, "terminal", lambda: "")
    bar = bars.Bar(9, "rounds", "rounds", initial=2)
    bar.update(3)
    bar.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.startswith("rounds: 55%, 5 of 9, ")


def test_what_was_there_before_counts_but_does_not_hurry(monkeypatch, capsys):
    monkeypatch.setattr(bars, "terminal", lambda: "")
    with bars.Bar(9, "trainings", "trainings", initial=9):
        pass
    assert capsys.readouterr().err == ""


def test_no_terminal_has_80_columns(monkeypatch):
    monkeypatch.setattr(bars, "terminal", lambda: "/dev/null")
    assert bars.columns() == 80
    monkeypatch.setattr(bars, "terminal", lambda: "/nowhere")
    assert bars.columns() == 80
