"""From a run to files that train its subnets: what is kept and said, and that it trains on."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.training import exporting
from sparse_ist_tf.export.training.runtime import Trainable
from sparse_ist_tf.inputs.batches import BatchStream
from sparse_ist_tf.ist.head import accuracy

PHONE = TARGETS["phone"]


def _export(finished, output, target=PHONE, **options):
    lines = []
    wanted = exporting.Options(**options)
    exporter = exporting.TrainingExporter(finished, target, wanted, output, lines.append)
    return exporter.export(), "\n".join(lines)


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """(folder, printed) of both subnets' files."""
    folder = tmp_path_factory.mktemp("trainable") / "phone"
    good, printed = _export(finished, folder)
    assert good, printed
    return folder, printed


def test_every_subnet_has_its_file_and_its_page(exported):
    folder, printed = exported
    stems = [f"digits_vit_pico_m50_subnet{n}of2_trainable" for n in (0, 1)]
    found = sorted(path.name for path in folder.iterdir())
    assert found == sorted(f"{stem}{end}" for stem in stems for end in (".md", ".tflite"))
    assert f"Kept in {folder}: 2 files that train" in printed
    off = [float(word) for word in re.findall(r" (\d\.\de-\d+) ", printed)]
    assert len(off) == 2
    assert max(off) <= exporting.MOST["litert"]
    assert max(map(len, printed.splitlines())) <= 110


def test_a_file_begins_as_its_subnet_and_learns(exported, finished):
    folder, _ = exported
    subnet = Trainable((folder / "digits_vit_pico_m50_subnet1of2_trainable.tflite").read_bytes())
    labels = finished.images.splits["test"].labels
    wanted = finished.test_logits(finished.head(1))
    np.testing.assert_allclose(subnet.infer(finished.test_features), wanted, atol=1e-3)
    features, truth = finished.images.features("train"), finished.images.splits["train"].labels
    rows = BatchStream(np.arange(len(truth)), subnet.batch_size, 0, 1).rows(0, 100)
    losses = [subnet.train(features[some], truth[some], 1e-3).loss for some in rows]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert accuracy(subnet.infer(finished.test_features), labels) >= accuracy(wanted, labels)


def test_the_pages_lines_run_as_they_stand(exported):
    folder, _ = exported
    page = (folder / "digits_vit_pico_m50_subnet0of2_trainable.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    (folder / "state.npz").unlink()
    assert "0. 0 of ten" in page


@pytest.mark.parametrize(
    ("key", "value"),
    [("head.dropout", 0.1), ("head.standardize", True), ("head.normalization", "batch")],
)
def test_what_no_file_has_is_refused_by_its_key(key, value):
    plain = {"head": {"normalization": "none", "dropout": 0.0, "standardize": False}}
    config = ConfigDict({**plain, "ist": {"algorithm": "ist"}}, type_safe=False)
    exporting.check(config)
    config.head[key.removeprefix("head.")] = value
    with pytest.raises(RequestError, match=rf"{key}={value!r}: must be "):
        exporting.check(config)
    config = ConfigDict({**plain, "ist": {"algorithm": "local_sgd"}})
    with pytest.raises(RequestError, match="must be 'ist' for --trainable"):
        exporting.check(config)


def test_a_subnet_that_is_not_there_is_refused(finished, tmp_path):
    with pytest.raises(RequestError, match="subnets=2: must be below 2"):
        _export(finished, tmp_path / "out", subnets=(2,))


def test_a_file_that_is_too_far_off_is_not_kept(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(exporting.MOST, "litert", 0.0)
    good, printed = _export(finished, tmp_path / "out", subnets=(0,))
    assert not good
    assert "too far" in printed
    assert not list((tmp_path / "out").iterdir())


def test_a_subnet_of_the_published_code_is_not_scaled(finished, monkeypatch):
    """The variant says so, whatever ist.scale_inputs is by default."""
    assert exporting.recipe_of(finished, 1, 4).scales == (2.0, 2.0)
    monkeypatch.setitem(finished.config.ist, "variant", "published")
    assert exporting.recipe_of(finished, 1, 4).scales == (1.0, 1.0)


@pytest.mark.parametrize("changes", [{"flash": 1000}, {"sram": 20_000}, {"flash": 1, "sram": 1}])
def test_a_file_for_which_there_is_no_memory_is_not_kept(finished, tmp_path, changes):
    pytest.importorskip("tflite_micro", reason="needs pip install --pre tflite-micro")
    target = dataclasses.replace(TARGETS["micro"], **changes)
    good, printed = _export(finished, tmp_path / "out", target, subnets=(0,), batch_size=2)
    assert not good
    for what, limit in changes.items():
        assert f"more than --{what}={limit}" in printed
    assert "0 files that train" in printed
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--target=coral", "--trainable"], "target='coral': must be phone or micro"),
        (["--target=phone", "--trainable", "--quantize=int8"], "quantize: isn't for --trainable"),
        (["--target=phone", "--batch_size=4"], "batch_size: is of --trainable alone"),
        (["--target=phone", "--trainable", "--batch_size=0"], "batch_size=0: must be at least 1"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_at_once(run_path, flags, told):
    command = [sys.executable, "-m", "sparse_ist_tf.export", f"--run={run_path}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {told}")
    assert done.stderr.count("\n") == 1
