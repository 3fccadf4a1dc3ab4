"""The example of an own target makes files, by its own rules."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices import targets
from sparse_ist_tf.export.devices.checks import unmapped
from sparse_ist_tf.export.graphs.convert import Interface, convert
from sparse_ist_tf.export.graphs.folding import Affine
from sparse_ist_tf.export.graphs.forms import Network
from sparse_ist_tf.plugins import load_plugin

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_target.py"


@pytest.fixture
def badge(monkeypatch):
    """The example's target, for one test."""
    monkeypatch.setattr(targets, "TARGETS", dict(targets.TARGETS))
    load_plugin(str(EXAMPLE))
    return targets.find_target("badge")


def test_the_command_finds_it(run_path, tmp_path):
    command = [sys.executable, "-m", "sparse_ist_tf.export", f"--run={run_path}"]
    command += [f"--plugin={EXAMPLE}", "--target=badge", "--artefacts=subnet", "--bound=10"]
    command += [f"--output={tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*subnet*_int8.tflite"))) == 2


def test_its_condition_is_asked(badge):
    line = "FULLY_CONNECTED x1 is 600 wide, 512 are allowed"
    for width, reasons in ((512, []), (600, [line])):
        head = Network("head", (Affine(np.ones((width, 3)), np.zeros(3)),))
        samples = lambda width=width: [{"feature": np.ones((1, width), "float32")}]  # noqa: E731
        content = convert(head, "int8", Interface(whole_integer=True), samples)
        assert unmapped(content, badge) == reasons


def test_a_name_that_is_taken_is_one_clear_error(badge):
    targets.register_target(badge)
    with pytest.raises(RequestError, match="target='badge': is registered already"):
        targets.register_target(dataclasses.replace(badge, sram=1))
    with pytest.raises(RequestError, match=r"other\.quantize=\('int4',\): must be some of float32"):
        targets.register_target(dataclasses.replace(badge, name="other", quantize=("int4",)))


@pytest.mark.parametrize("name", ["no_such_module", "no_such_file.py", "broken.py"])
def test_a_plugin_that_cannot_be_imported_is_one_line(tmp_path, name):
    path = tmp_path / name if name.endswith(".py") else name
    if name == "broken.py":
        path.write_text("1 / 0\n")
    with pytest.raises(RequestError, match=f"{name}': ") as caught:
        load_plugin(str(path))
    assert "\n" not in str(caught.value)
