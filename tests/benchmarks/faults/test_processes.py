"""Processes of drills: what they print is kept, and they go with who started them."""

import os
import signal
import subprocess
import sys
import time

from sparse_ist_tf.benchmarks.faults.processes import (
    Process,
    descendants,
    ends,
    is_alive,
    wait_until,
)


def _start(tmp_path, code):
    return Process([sys.executable, "-c", code], os.environ, tmp_path / "output.txt")


def test_what_is_told_is_the_last_line_besides_progress(tmp_path):
    code = r"import sys; print('error: a\nerror: b\n  1%|\r 50%|\nbehind'); sys.exit(3)"
    process = _start(tmp_path, code)
    assert ends([process], 30) == (3,)
    assert process.told() == "error: b"
    assert process.text().splitlines()[-2:] == [" 50%|", "behind"]


def test_a_line_at_the_end_of_a_progress_bar_is_told_too(tmp_path):
    process = _start(tmp_path, r"print('\r 50%| | 2/4 [00:01, loss 1]warning: again')")
    assert ends([process], 30) == (0,)
    assert process.told() == "warning: again"


def test_what_does_not_end_is_killed_with_its_children(tmp_path):
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    process = _start(tmp_path, code)
    assert wait_until(lambda: bool(descendants(process.pid)), 30)
    (child,) = descendants(process.pid)
    assert ends([process], 0.1) == (None,)
    assert wait_until(lambda: not is_alive(child), 5)


def test_one_that_is_paused_and_ignores_signals_is_killed(tmp_path):
    process = _start(tmp_path, "import time; time.sleep(60)")
    process.send(signal.SIGSTOP)
    assert ends([process], 0.1) == (None,)
    assert process.status == -signal.SIGKILL


def test_signals_that_were_ignored_count_again(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = _start(tmp_path, "import time; time.sleep(60)")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send(signal.SIGHUP)
    assert ends([process], 10) == (-signal.SIGHUP,)


def test_they_end_with_their_parent(tmp_path):
    code = (
        "import os, pathlib, sys, time\n"
        "from sparse_ist_tf.benchmarks.faults.processes import Process\n"
        f"p = Process(['sleep', '60'], os.environ, pathlib.Path({str(tmp_path / 'x')!r}))\n"
        "print(p.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.2)
        assert is_alive(child)
        parent.kill()
    assert wait_until(lambda: not is_alive(child), 5)


_INTERRUPTED = """
import os, pathlib, signal, sys
from sparse_ist_tf.benchmarks.faults.processes import Process, descendants
signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
try:
    Process(["sleep", "60"], os.environ, pathlib.Path(sys.argv[1]))
except KeyboardInterrupt:
    print("interrupted,", len(descendants(os.getpid())), "left")
"""


def test_a_signal_while_one_is_started_is_heard(tmp_path):
    """Python ignores what a handler raises while hooks of a fork run."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, tmp_path / "output.txt"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.stdout, done.stderr) == ("interrupted, 0 left\n", "")
