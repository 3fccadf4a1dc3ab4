"""Files in the TFLite Micro interpreter."""

import dataclasses
import json

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.files import metadata, micro
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import Interface, convert
from sparse_ist_tf.export.graphs.forms import Network
from sparse_ist_tf.export.pipeline import Exporter
from sparse_ist_tf.export.plan import Options
from tests.fixtures.finished_run import make_images, make_pictures

WHOLE = Interface(whole_integer=True)


def test_without_the_interpreter_the_command_that_brings_it_is_named(monkeypatch):
    monkeypatch.setattr(micro, "available", lambda: False)
    with pytest.raises(RequestError, match="pip install --pre tflite-micro"):
        micro.run(b"", [])


@pytest.fixture(scope="module")
def interpreter():
    """Skips where the interpreter isn't installed."""
    pytest.importorskip("tflite_micro", reason="needs the extra micro: pip install --pre "
                        "tflite-micro")  # fmt: skip


@pytest.fixture(scope="module")
def classifier(classifier_file):
    """A whole-integer classifier."""
    return classifier_file("int8", whole_integer=True)


@pytest.mark.usefixtures("interpreter")
class TestInterpreter:
    def test_a_head_equals_litert_within_a_step(self, head_layers, head_features, head_samples):
        content = convert(Network("head", head_layers), "int8", WHOLE, head_samples)
        examples = [{"feature": feature} for feature in head_features]
        found = micro.run(content, examples).outputs.astype(int)
        reference = LiteRT(content, reference=True)
        expected = np.array([reference.run_raw(example) for example in examples]).astype(int)
        assert np.abs(found - expected).max() <= 1

    def test_a_classifier_runs_whole(self, classifier):
        examples = [{"image": image} for image in make_images(16)]
        done = micro.run(classifier, examples)
        reference = LiteRT(classifier, reference=True)
        expected = np.array([reference.run_raw(example) for example in examples]).astype(int)
        assert np.abs(done.outputs.astype(int) - expected).mean() < 4
        assert done.arena > 0

    def test_a_sensors_own_pixels_need_less_memory(self, classifier, classifier_file):
        content = classifier_file("int8", whole_integer=True, kind="classifier_sensor")
        examples = [{"image": image} for image in make_pictures(4)]
        done = micro.run(content, examples)
        reference = LiteRT(content, reference=True)
        expected = np.array([reference.run_raw(example) for example in examples]).astype(int)
        assert np.abs(done.outputs.astype(int) - expected).mean() < 4
        assert len(content) < len(classifier)
        assert done.arena < micro.run(classifier, [{"image": make_images(1)[0]}]).arena

    def test_the_arena_that_is_needed_is_enough_and_less_is_not(self, classifier):
        example = {"image": make_images(1)[0]}
        needed = micro.needed_arena(classifier, example)
        assert needed % 16 == 0
        assert micro.run(classifier, [example], needed).outputs.shape == (1, 3)
        with pytest.raises(RunError, match="TFLite Micro can't run it"):
            micro.run(classifier, [example], needed // 2)

    def test_an_operator_that_it_lacks_is_one_clear_error(self, classifier_file):
        content = classifier_file("float16")
        with pytest.raises(RunError, match="TFLite Micro can't run it") as caught:
            micro.run(content, [{"image": make_images(1)[0]}])
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def exported(interpreter, finished, tmp_path_factory):
    """(folder, printed, good) of a run for a microcontroller whose memory is too small."""
    folder = tmp_path_factory.mktemp("micro") / "out"
    target = dataclasses.replace(TARGETS["micro"], sram=80_000, flash=3 << 20)
    options = Options(bound=20.0, calibration=32, subnets=(1,), micro_images=6, progress=False)
    lines = []
    good = Exporter(finished, target, options, folder, report=lines.append).export()
    return folder, " ".join("\n".join(lines).split()), good  # long lines are folded


def test_a_budget_that_is_missed_is_told_and_what_would_fit(exported):
    folder, printed, good = exported
    assert not good
    assert "bytes of sram, " in printed
    assert "more than --sram=80000" in printed
    assert "would fit: mask ratio 0.75 (16 visible patches, arena 7" in printed
    assert not list(folder.glob("*classifier*.tflite"))


def test_the_arena_falls_with_the_mask_ratio(exported):
    folder, printed, _ = exported
    rows = json.loads((folder / "verification.json").read_text())["arena_by_mask_ratio"]
    assert [ratio for ratio, _ in rows] == [0.0, 0.25, 0.5, 0.75, 0.875]
    arenas = [arena for _, arena in rows]
    assert arenas == sorted(arenas, reverse=True)
    assert arenas[0] > 1.5 * arenas[-1]
    assert "by mask ratio, bytes: 0: " in printed


def test_what_fits_is_kept_with_its_bundle(exported):
    folder, printed, _ = exported
    name = "digits_vit_pico_m50_subnet1of2_int8"
    assert {path.name for path in folder.iterdir() if path.name.startswith("digits")} == {
        f"{name}.tflite",
        f"{name}_bundle",
    }
    content = (folder / f"{name}.tflite").read_bytes()
    settings = (folder / f"{name}_bundle" / "model_settings.h").read_text()
    files = json.loads((folder / "verification.json").read_text())["files"]
    (entry,) = [file for file in files if file["name"] == f"{name}.tflite"]
    assert entry["good"]
    assert entry["flash"] == len(metadata.strip(content))
    assert f"kArenaSize = {entry['arena']};" in settings
    assert entry["micro_images"] == 6
    assert "TFLite Micro equals LiteRT's reference kernels" in printed
