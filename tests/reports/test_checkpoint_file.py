"""A checkpoint's file: read back whole, or known to be damaged."""

import contextlib
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.reports import checkpoint_file
from sparse_ist_tf.reports.checkpoint_file import read_checkpoint, write_checkpoint


@pytest.mark.parametrize("mapped_bytes", [1, 1 << 24])
def test_arrays_come_back_as_safetensors_reads_them(tmp_path, monkeypatch, mapped_bytes):
    monkeypatch.setattr(checkpoint_file, "_MAPPED_BYTES", mapped_bytes)
    rng, path = np.random.default_rng(0), tmp_path / "checkpoint.safetensors"
    state = {
        "b": rng.normal(size=(7, 5)).astype(np.float32).T,
        "a": np.arange(6, dtype=np.int64),
        "odd": np.array([True, False, True]),
        "half": np.float16([1.5]),
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.array(3, np.uint8),
        "c": rng.normal(size=9),
    }
    write_checkpoint(path, state, {"step": 3})
    found, progress = read_checkpoint(path)
    assert progress == {"step": 3}
    for some in (found, load_file(path)):
        assert some.keys() == state.keys()
        for name, array in state.items():
            assert (some[name].dtype, some[name].shape) == (array.dtype, array.shape)
            assert np.array_equal(some[name], array)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_state_is_written_and_read_without_a_copy(tmp_path):
    """160 MB; reading leaves it in the file."""
    code = """
import re, sys
from pathlib import Path
import numpy as np
from sparse_ist_tf.reports.checkpoint_file import read_checkpoint, write_checkpoint

def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

path = Path(sys.argv[1])
if sys.argv[2] == "write":
    state = {name: np.ones((1000, 20_000), np.float32) for name in "ab"}
    before = peak()
    write_checkpoint(path, state, {"step": 1})
    assert peak() - before < 20, (before, peak())
else:
    before = private()
    highest = peak()
    state, _ = read_checkpoint(path)
    assert private() - before < 20, (before, private())
    assert peak() - highest < 40, (highest, peak())
    assert all(array.sum() == 2e7 for array in state.values())
"""
    path = tmp_path / "checkpoint.safetensors"
    for what in ("write", "read"):
        subprocess.run([sys.executable, "-c", code, path, what], check=True)


def test_no_flipped_bit_of_a_checkpoint_gets_through(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    expected = ["b/kernel", "a"], {"step": 674}
    write_checkpoint(path, {"b/kernel": np.eye(2), "a": np.arange(3)}, {"step": 674})
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with contextlib.suppress(RunError):
            state, progress = read_checkpoint(path)
            assert ([*state], progress) == expected, place


@pytest.mark.parametrize("damaged", [False, True])
def test_checkpoints_of_earlier_versions_are_read(tmp_path, damaged):
    """Whose digest is of the arrays alone."""
    total, array = hashlib.sha256(), np.eye(2)
    total.update(repr(("kernel", array.dtype.str, array.shape)).encode() + array.tobytes())
    metadata = {"progress": '{"round": 3}', "sha256": total.hexdigest()}
    state = {"kernel": array + damaged}
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(save(state, metadata=metadata))
    if damaged:
        with pytest.raises(RunError, match="is damaged"):
            read_checkpoint(path)
        return
    found, progress = read_checkpoint(path)
    assert progress == {"round": 3}
    np.testing.assert_array_equal(found["kernel"], array)
