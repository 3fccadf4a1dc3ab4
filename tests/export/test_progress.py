"""What export shows: on a terminal one line, elsewhere a line now and then."""

import fcntl
import os
import pty
import struct
import sys
import termios

import pytest

from sparse_ist_tf.export import progress
from sparse_ist_tf.export.progress import FileBar

NAMES = {"digits_head_int8.tflite": 1.0, "digits_classifier_head_sensor_int8.tflite": 8.0}


def _through(bar):
    for name in NAMES:
        bar.begin(name)
        bar.advance(0.5)
    bar.close()


def test_elsewhere_a_line_for_a_file_but_not_many(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = FileBar({"a": 1.0, "b": 1.0, "c": 2.0})
    bar.begin("a")
    now[0] = 1.0
    bar.begin("b")
    now[0] = 10.0
    bar.begin("c")
    assert capsys.readouterr().err.splitlines() == ["1/3 a", "3/3 c, about 10 s left"]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_on_a_terminal_one_line_of_any_width(monkeypatch, columns):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        _through(FileBar(NAMES))
        terminal.flush()
        printed = os.read(master, 1 << 16).decode()
    os.close(master)
    shown = [part for part in printed.split("\r") if part.strip()]
    assert any("2/2 digits_classifier" in part for part in shown)
    assert max(map(len, shown)) <= columns
    assert "\n" not in printed


def test_nothing_where_nothing_is_wanted(capsys):
    _through(FileBar(NAMES, shown=False))
    assert capsys.readouterr().err == ""


def test_what_is_said_besides_stays(capsys):
    bar = FileBar(NAMES)
    bar.aside(print, "int16x8 instead")
    assert capsys.readouterr().out == "int16x8 instead\n"
