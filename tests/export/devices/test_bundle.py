"""The C++ bundle says exactly what the file says."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from sparse_ist_tf.export.devices.bundle import write_bundle
from sparse_ist_tf.export.files import metadata
from sparse_ist_tf.export.files.operators import operators
from sparse_ist_tf.export.files.runtimes import LiteRT, ports
from tests.fixtures.finished_run import make_images, make_pictures

LABELS = ("a", 'b "quoted"', "größer")
MASK = {"visible": 8, "positions": [0, 2, 3, 5, 8, 11, 12, 15]}
SENSOR = {"grid": "sensor", "cells": [4, 4], "rule": "Cell k is cut out by itself. " * 6}
ARENA = 64 * 1024
COMPILER = shutil.which("c++")


@pytest.fixture(scope="module")
def content(classifier_file):
    """A whole-integer classifier with metadata."""
    file = classifier_file("int8", whole_integer=True)
    about = metadata.Metadata("small", "d", LABELS, {"digest": "abc", "mask": MASK | SENSOR})
    return metadata.attach(file, about)


@pytest.fixture(scope="module")
def bundle(content, tmp_path_factory):
    """(folder, example, expected output) of its bundle."""
    folder = tmp_path_factory.mktemp("bundle") / "small_bundle"
    example = {"image": make_images(1)[0]}
    expected = LiteRT(metadata.strip(content), reference=True).run_raw(example)
    write_bundle(folder, content, "small", example, expected, ARENA)
    return folder, example, expected


def _array(text, name):
    body = re.search(rf"{name}\[[^\]]*\] = {{(.*?)}};", text, re.DOTALL)[1]
    return [int(number, 0) for number in re.findall(r"-?0x[0-9a-f]+|-?\d+", body)]


def _constant(text, name):
    return re.search(rf"constexpr \w+ {name} = (.*?);", text)[1]


def test_the_array_is_the_model_without_its_metadata(bundle, content):
    text = (bundle[0] / "model_data.cc").read_text()
    assert "alignas(16)" in text
    data = bytes(_array(text, "g_model_data"))
    assert data == metadata.strip(content)
    assert f"g_model_data_size = {len(data)};" in text


def test_the_settings_are_the_models(bundle, content):
    text = (bundle[0] / "model_settings.h").read_text()
    (image,), logits = ports(metadata.strip(content))
    assert "kInput0Shape[] = {1, 16, 16, 3}" in text
    assert "using Input0Type = int8_t;" in text
    assert (_constant(text, "kInput0Size"), _constant(text, "kOutputSize")) == ("768", "3")
    assert float(_constant(text, "kOutputScale").rstrip("f")) == pytest.approx(logits.scale)
    assert int(_constant(text, "kOutputZero")) == logits.zero
    assert float(_constant(text, "kInput0Scale").rstrip("f")) == image.scale == 1.0
    assert _constant(text, "kLabelCount") == "3"
    assert _array(text, "kVisiblePatches") == MASK["positions"]
    assert _constant(text, "kArenaSize") == str(ARENA)


def test_it_says_where_the_mask_falls(bundle, classifier_file, tmp_path):
    settings = (bundle[0] / "model_settings.h").read_text()
    assert "// Cell k is cut out by itself." in settings
    assert (_constant(settings, "kCellRows"), _constant(settings, "kCellColumns")) == ("4", "4")
    readme = (bundle[0] / "README.md").read_text()
    assert "Every cell of a camera's image is scaled to its patch by itself." in " ".join(
        readme.split()
    )
    file = classifier_file("int8", whole_integer=True, kind="classifier_sensor")
    mask = MASK | SENSOR | {"cell": [2, 2]}
    about = metadata.Metadata("small", "d", LABELS, {"digest": "abc", "mask": mask})
    example = {"image": make_pictures(1)[0]}
    expected = LiteRT(file, reference=True).run_raw(example)
    folder = tmp_path / "sensor"
    write_bundle(folder, metadata.attach(file, about), "small", example, expected, ARENA)
    assert "A cell has 2 x 2 pixels: an image of that size goes in as it is." in " ".join(
        (folder / "README.md").read_text().split()
    )
    assert "kInput0Shape[] = {1, 8, 8, 3}" in (folder / "model_settings.h").read_text()


def test_the_resolver_registers_the_operators_used_and_no_others(bundle, content):
    text = (bundle[0] / "op_resolver.h").read_text()
    registered = re.findall(r"resolver\.Add(\w+)\(\)", text)
    used = {op.name for op in operators(content)}
    assert len(registered) == len(set(registered)) == len(used)
    assert _constant(text, "kOperatorCount") == str(len(used))
    assert {name.lower() for name in registered} == {name.replace("_", "").lower() for name in used}


def test_the_test_image_and_its_answer_are_inside(bundle):
    folder, example, expected = bundle
    text = (folder / "test_input.h").read_text()
    pixels = np.array(_array(text, "kTestInput0")) + 128
    assert np.array_equal(pixels, example["image"].ravel())
    assert _array(text, "kExpectedOutput") == expected.tolist()
    assert _constant(text, "kAcceptedDifference") == "0"


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_what_needs_no_library_compiles_and_is_right(bundle, content, tmp_path):
    folder, _, _ = bundle
    source = tmp_path / "check.cc"
    source.write_text(
        """
#include <cstdint>
#include <cstdio>
#include <cstring>
#include "model_data.h"
#include "test_input.h"
static_assert(kInputCount == 1 && kInput0Size == 768 && kLabelCount == 3);
int main() {
  if (reinterpret_cast<uintptr_t>(g_model_data) % 16) return 1;
  if (std::memcmp(g_model_data + 4, "TFL3", 4)) return 2;
  std::printf("%zu\\n%s\\n%s\\n", g_model_data_size, kLabels[1], kLabels[2]);
}
"""
    )
    program = tmp_path / "check"
    command = [COMPILER, "-std=c++17", "-Wall", "-Werror", f"-I{folder}", str(source)]
    subprocess.run([*command, str(folder / "model_data.cc"), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, check=True)
    size, *labels = done.stdout.decode().splitlines()
    assert int(size) == len(metadata.strip(content))
    assert labels == list(LABELS[1:])


@pytest.mark.large
@pytest.mark.skipif(
    COMPILER is None or "TFLM_DIR" not in os.environ,
    reason="needs TFLite Micro's sources in $TFLM_DIR, and a C++ compiler",
)
def test_the_bundle_builds_and_gives_the_expected_logits(bundle, tmp_path):
    """$TFLM_LIB, if set, is the library built of these sources."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle[0], folder)
    command = ["make", "-j2", "run", f"TFLM_DIR={os.environ['TFLM_DIR']}"]
    if "TFLM_LIB" in os.environ:
        command.append(f"TFLM_LIB={os.environ['TFLM_LIB']}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "arena used: " in done.stdout, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if re.match(r"\d+ -?\d", line)]
    assert len(lines) == 3
    off = int(re.search(r"off by (\d+)", done.stdout)[1])
    assert off <= 12  # LiteRT's reference kernels round otherwise
