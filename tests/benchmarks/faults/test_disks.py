"""A disk that is full from one moment on, mounted or as a limit."""

import errno
import os
import sys
from pathlib import Path

import pytest

from sparse_ist_tf.benchmarks.faults.disks import _small_disk, _SmallDisk
from sparse_ist_tf.benchmarks.faults.processes import Process, ends

_WRITE = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
while not (folder.parent / "go").exists():
    time.sleep(0.02)
try:
    (folder / "new").write_bytes(bytes(80_000))
except OSError as error:
    sys.exit(error.errno)
"""


def _writes(folder, disk):
    command = [sys.executable, "-c", _WRITE, str(folder)]
    process = Process(command, os.environ, folder.parent / "output.txt")
    disk.fill(process)
    (folder.parent / "go").touch()
    return ends([process], 30)


def test_a_small_file_system_is_full_and_has_room_again(tmp_path):
    folder = tmp_path / "run"
    with _small_disk(folder) as disk:
        if str(folder) not in Path("/proc/mounts").read_text():
            pytest.skip("this system doesn't let us mount")
        assert _writes(folder, disk) == (errno.ENOSPC,)
        disk.empty()
        (folder / "new").write_bytes(bytes(80_000))
    assert str(folder) not in Path("/proc/mounts").read_text()


def test_a_limit_stands_for_it(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "round_1.safetensors").write_bytes(bytes(80_000))
    assert _writes(folder, _SmallDisk(folder, is_mounted=False)) == (errno.EFBIG,)
