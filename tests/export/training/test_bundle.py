"""C++ sources that train a subnet: they say what the file says, and learn as it does."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from sparse_ist_tf.export.training import bundle, micro
from tests.fixtures.subnet_training import batches_of, examples, recipe_for, state_of

COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.fixture(scope="module")
def training():
    """A small subnet trained by Adam, with moments that have seen steps."""
    pytest.importorskip("tflite_micro", reason="needs pip install --pre tflite-micro")
    recipe = recipe_for("adam")
    content, state = micro.make_step(recipe), state_of(recipe)
    arena = micro.needed_arena(recipe, content, state)
    return bundle.Training("small", recipe, content, state, arena)


@pytest.fixture(scope="module")
def folder(training, tmp_path_factory):
    """Its bundle."""
    folder = tmp_path_factory.mktemp("bundle") / "small_bundle"
    features, labels = examples()
    rates = np.full(len(labels) // 8, 1e-2, np.float32)
    bundle.write(folder, training, batches_of(features, labels, rates))
    return folder


def test_entries_cover_the_state_and_hold_what_it_held(folder, training):
    text = (folder / "training_settings.h").read_text()
    rows = re.findall(r'\{"(\w+)", (\d+), (\d+), (\d+), (\d+)\}', text)
    names = [name for columns in training.recipe.columns.values() for name in columns]
    assert [row[0] for row in rows] == names
    ends = [int(row[3]) + int(row[4]) for row in rows]
    assert [0, *ends[:-1]] == [int(row[3]) for row in rows]
    found = micro.places(training.content)
    assert {row[0]: int(row[1]) for row in rows}.items() <= found.inputs.items()
    assert {row[0]: int(row[2]) for row in rows}.items() <= found.outputs.items()
    state = (folder / "initial_state.h").read_text()
    [numbers] = re.findall(r"kInitialState\[kStateSize\] = \{(.*?)\}", state, re.DOTALL)
    values = np.array(
        [float(n.rstrip("f")) for n in numbers.replace("\n", "").split(",") if n.strip()]
    )
    wanted = np.concatenate([training.state[name].ravel() for name in names])
    assert np.array_equal(np.float32(values), wanted)
    assert "kInitialStep = 7;" in state


def test_losses_that_are_expected_fall(folder):
    text = (folder / "test_batch.h").read_text()
    [numbers] = re.findall(r"kExpectedLosses\[kTestSteps\] = \{(.*?)\}", text, re.DOTALL)
    losses = [float(n.rstrip("f")) for n in re.findall(r"[-\d.e]+f", numbers)]
    assert len(losses) == bundle.STEPS
    assert losses[-1] < losses[0]


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_headers_compile_by_themselves(folder, tmp_path):
    source = tmp_path / "check.cc"
    names = ("training_settings", "initial_state", "test_batch", "model_data")
    lines = "".join(f'#include "{name}.h"\n' for name in names)
    source.write_text(f"{lines}static_assert(kStateSize > 0 && kIsAdam);\nint main() {{}}\n")
    command = [COMPILER, "-std=c++17", "-Wall", "-Werror", f"-I{folder}", str(source)]
    subprocess.run([*command, "-o", str(tmp_path / "check")], check=True)


@pytest.mark.large
@pytest.mark.skipif(
    COMPILER is None or "TFLM_DIR" not in os.environ,
    reason="needs TFLite Micro's sources in $TFLM_DIR, and a C++ compiler",
)
def test_it_builds_and_learns_as_the_interpreter_does(folder, tmp_path):
    """$TFLM_LIB, if set, is the library built of these sources."""
    copy = tmp_path / "bundle"
    shutil.copytree(folder, copy)
    command = ["make", "-j2", "run", f"TFLM_DIR={os.environ['TFLM_DIR']}"]
    if "TFLM_LIB" in os.environ:
        command.append(f"TFLM_LIB={os.environ['TFLM_LIB']}")
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    losses = re.findall(r"^step \d+ loss ([\d.]+)$", done.stdout, re.M)
    assert len(losses) == bundle.STEPS
    assert float(losses[-1]) < float(losses[0])
