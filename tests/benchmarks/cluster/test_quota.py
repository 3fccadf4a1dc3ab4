"""A process that is held to a share of a core."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparse_ist_tf.benchmarks.cluster.hosts.quota import held_to
from sparse_ist_tf.errors import RunError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' clocks of processes")
_SPIN = """
import threading
for _ in range(2):
    threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()
"""


@contextlib.contextmanager
def _spinning():
    process = subprocess.Popen([sys.executable, "-c", _SPIN])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _share(process, seconds):
    clock = (~process.pid << 3) | 2
    start, used = time.monotonic(), time.clock_gettime(clock)
    time.sleep(seconds)
    return (time.clock_gettime(clock) - used) / (time.monotonic() - start)


def _groups():
    return list(Path("/sys/fs/cgroup").glob("**/sparse_ist_tf_*"))


@pytest.mark.parametrize("may_group", [True, False])
def test_a_process_has_no_more_than_its_share(may_group):
    with _spinning() as process:
        with held_to(0.1, process.pid, may_group) as way:
            assert may_group or way == "turns"
            _share(process, 0.3)
            assert 0.03 < _share(process, 2) < 0.13
        assert _share(process, 1) > 0.2
    assert not _groups()


def test_a_process_may_end_in_there():
    with _spinning() as process, held_to(0.1, process.pid):
        process.kill()
        process.wait()
    assert not _groups()


def test_who_is_gone_cant_be_held():
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(RunError, match="can't be held"), held_to(0.1, process.pid):
        pass
    assert not _groups()
