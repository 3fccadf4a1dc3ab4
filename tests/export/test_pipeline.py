"""From a run to proven files: what is kept, what is not, and what is said of it."""

import dataclasses
import json

import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export import camera, pipeline
from sparse_ist_tf.export.compress import Compression
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.files import metadata
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.pipeline import Exporter
from sparse_ist_tf.export.plan import BOUNDS, Options, plan
from sparse_ist_tf.export.verify import evaluate_tflite
from sparse_ist_tf.masks import Scaling

PHONE = TARGETS["phone"]
# 40 test images: one that changes its label is 2.5 points.
LOOSE = Options(bound=10.0, calibration=48, progress=False)


def _export(finished, output, target=PHONE, **changes):
    lines = []
    options = dataclasses.replace(LOOSE, **changes)
    exporter = Exporter(finished, target, options, output, report=lines.append)
    return exporter.export(), "\n".join(lines)


@pytest.fixture(scope="module")
def heads(finished, tmp_path_factory):
    """(folder, what was printed, the record) of an export of all heads."""
    folder = tmp_path_factory.mktemp("export") / "phone"
    good, printed = _export(finished, folder, artefacts=("subnet", "head"), subnets=(0, 1))
    assert good, printed
    return folder, printed, json.loads((folder / "verification.json").read_text())


@pytest.fixture(scope="module")
def exported(heads, finished):
    """(folder, what was printed) of that, and of the encoder and two heads' classifiers."""
    folder, first, _ = heads
    artefacts = ("encoder", "classifier", "classifier_sensor")
    good, printed = _export(finished, folder, artefacts=artefacts, subnets=(1,))
    assert good, printed
    return folder, f"{first}\n{printed}"


def test_every_file_is_there_and_named_by_what_it_holds(exported):
    folder, _ = exported
    stem = "digits_vit_pico_m50"
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}_subnet0of2_int8.tflite",
        f"{stem}_subnet1of2_int8.tflite",
        f"{stem}_head_int8.tflite",
        f"{stem}_encoder32_int8.tflite",
        f"{stem}_classifier_subnet1of2_int8.tflite",
        f"{stem}_classifier_head_int8.tflite",
        f"{stem}_classifier_subnet1of2_sensor_int8.tflite",
        f"{stem}_classifier_head_sensor_int8.tflite",
        "labels.txt",
        "model_card.md",
        "verification.json",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["phone"]


def test_the_record_is_what_the_files_do(exported, finished):
    folder, printed = exported
    record = json.loads((folder / "verification.json").read_text())
    assert record["digest"] == finished.digest
    labels = finished.images.splits["test"].labels
    for file in record["files"]:
        assert file["name"] in printed
        assert file["good"]
        assert file["size"] == (folder / file["name"]).stat().st_size
        assert file["images"] == len(labels) == 40
        assert 0 < file["latency"]["1 thread"][0] <= file["latency"]["1 thread"][1]
    (entry,) = [f for f in record["files"] if "_subnet1of2_int8" in f["name"] and
                f["kind"] == "head"]  # fmt: skip
    runtime = LiteRT((folder / entry["name"]).read_bytes())
    found = np.array([runtime.run({"feature": row}) for row in finished.test_features])
    assert entry["accuracy"] == np.mean(found.argmax(axis=1) == labels)


def test_subnets_files_are_an_ensemble(heads):
    _, printed, record = heads
    assert len(record["ensembles"]["accuracy"]) == 2
    assert "Ensembles of subnet files, 1: " in printed


def test_files_say_what_they_are(exported, finished):
    folder, _ = exported
    path = folder / "digits_vit_pico_m50_classifier_subnet1of2_int8.tflite"
    labels, about = metadata.read(path.read_bytes())
    assert labels == finished.labels
    assert (folder / "labels.txt").read_text().splitlines() == list(labels)
    assert about["digest"] == finished.digest
    assert about["config"]["head"]["hidden"] == [64, 48]
    assert about["mask"]["positions"] == list(finished.shared_positions())
    assert about["artefact"] == {"name": "classifier_subnet1of2", "kind": "classifier", "subnet": 1}
    card = (folder / "model_card.md").read_text()
    assert path.name in card
    assert "10 classes" in card


def test_files_and_card_say_where_the_mask_falls(exported, finished):
    """On a camera's own pixels: digits of 32 x 32, cut into 8 x 8 cells."""
    folder, _ = exported
    stem, shared = "digits_vit_pico_m50", list(finished.shared_positions())
    for name, cell, side in (("head", None, 64), ("head_sensor", [4, 4], 32)):
        content = (folder / f"{stem}_classifier_{name}_int8.tflite").read_bytes()
        mask = metadata.read(content)[1]["mask"]
        assert (mask["grid"], mask["cells"], mask.get("cell")) == ("sensor", [8, 8], cell)
        assert "from floor(k n / 8) up to" in mask["rule"]
        assert mask["positions"] == shared
        assert LiteRT(content).inputs[0].shape == (1, side, side, 3)
        assert content.count(mask["rule"].encode()) == 2  # in its description too
    card = (folder / "model_card.md").read_text()
    for text in (
        "along a side of n pixels, at least 8, cell k of 8 has those from floor(k n / 8)",
        "An image of 32 x 32 pixels, as this run's first, has cells of 4 x 4.",
        "`encoder`, `classifier`: every cell becomes 8 x 8 pixels by itself",
        "`classifier_sensor`: 32 x 32 pixels as a camera of that size has them, 4 x 4 for each",
        f"counted row by row from 0: {', '.join(map(str, shared))}.",
    ):
        assert text in card


def test_a_sensors_file_answers_as_the_one_for_enlarged_images(exported):
    folder, _ = exported
    record = json.loads((folder / "verification.json").read_text())
    files = {file["name"]: file for file in record["files"]}
    for who in ("subnet1of2", "head"):
        stem = f"digits_vit_pico_m50_classifier_{who}"
        whole, sensor = (files[f"{stem}{kind}_int8.tflite"] for kind in ("", "_sensor"))
        assert sensor["mean_difference"] < 1.3 * whole["mean_difference"]
        assert sensor["size"] < whole["size"]


def test_any_file_is_measured_again_from_itself_alone(exported):
    folder, _ = exported
    record = json.loads((folder / "verification.json").read_text())
    for file in record["files"]:
        if "subnet0" in file["name"]:
            continue
        found = evaluate_tflite(folder / file["name"])
        assert found["images"] == 40
        if file["kind"] == "encoder":
            assert 0 < found["mean_difference"] < 1
        else:
            assert found["accuracy"] == file["accuracy"] == found["expected"]


def test_a_config_that_does_not_fit_a_file_is_refused(exported, finished):
    from ml_collections import ConfigDict

    folder, _ = exported
    path = folder / "digits_vit_pico_m50_classifier_head_int8.tflite"
    for key, value, message in (
        ("masks.ratio", 0.25, "holds another mask"),
        ("masks.kind", "fixed", "holds another mask"),
        ("masks.grid", "scaled", "holds another mask"),
        ("dataset.name", "digits", "has other labels"),
        ("encoder.weights", "random:vit_pico", "another encoder"),
    ):
        config = ConfigDict(finished.config.to_dict())
        group, name = key.split(".")
        config[group][name] = value
        with pytest.raises(RequestError, match=message):
            evaluate_tflite(path, config)


def test_a_second_export_adds_to_the_first(exported, finished):
    folder, _ = exported
    good, printed = _export(finished, folder, artefacts=("head",), quantize=("float32",))
    assert good
    record = json.loads((folder / "verification.json").read_text())
    names = [file["name"] for file in record["files"]]
    assert names[-1] == "digits_vit_pico_m50_head_float32.tflite"
    assert len(names) == 9
    card = (folder / "model_card.md").read_text()
    assert all(name in card and (folder / name).exists() for name in names)
    assert printed.count(".tflite") == 1  # the table is of what was made now


def test_a_file_that_misses_its_bound_is_not_left_and_the_old_one_goes(exported, finished):
    """Pretending that the model in float were right on every image and a hundredth better."""
    folder, _ = exported
    name = "digits_vit_pico_m50_subnet0of2_int8.tflite"
    assert (folder / name).exists()
    strict = dataclasses.replace(PHONE, flash=1000)
    good, printed = _export(finished, folder, strict, artefacts=("subnet",), subnets=(0,))
    assert not good
    assert "1,000 are allowed" in printed
    assert f"Not kept: {name}" in printed
    assert not (folder / name).exists()
    record = json.loads((folder / "verification.json").read_text())
    assert [file["name"] for file in record["files"] if not file["good"]] == [name]


def test_int8_that_loses_too_much_becomes_int16x8_and_says_so(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(BOUNDS, "int8", (-100.0, -100.0))
    monkeypatch.setitem(BOUNDS, "int16x8", (10.0, 10.0))
    good, printed = _export(
        finished, tmp_path / "a", artefacts=("head",), quantize=("int8",), bound=-1.0
    )
    assert good
    assert "int16x8 instead" in printed
    assert "in place of int8" in printed
    assert (tmp_path / "a" / "digits_vit_pico_m50_head_int16x8.tflite").exists()
    assert not list((tmp_path / "a").glob("*_int8.tflite"))


def test_nothing_is_left_when_nothing_is_good(finished, tmp_path):
    output = tmp_path / "out"
    strict = dataclasses.replace(PHONE, flash=10)
    good, _ = _export(finished, output, strict, artefacts=("head",))
    assert not good
    assert [path.name for path in output.iterdir()] == ["verification.json"]


def test_nothing_is_left_when_export_breaks(finished, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr(pipeline, "verify", broken)
    with pytest.raises(RuntimeError):
        _export(finished, tmp_path / "out", artefacts=("head",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("phone", {"quantize": ("int4",)}, "quantize='int4': must be one of float32"),
        ("coral", {"quantize": ("float32",)}, "quantize='float32': target coral takes int8"),
        ("phone", {"artefacts": ("body",)}, "artefacts='body': must be one of subnet, head"),
        ("phone", {"subnets": (0, 2)}, "subnets=2: the run has 2 subnets"),
        ("phone", {"calibration": 0}, "calibration=0: must be at least 1 image"),
        ("micro", {"micro_images": 0}, "micro_images=0: must be at least 1 image"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(finished, target, changes, message):
    with pytest.raises(RequestError, match=message):
        plan(finished, TARGETS[target], dataclasses.replace(LOOSE, **changes))


def test_a_classifier_holds_shared_masks_alone(finished, monkeypatch):
    for kind in ("random", "fixed"):
        monkeypatch.setitem(finished.config.masks, "kind", kind)
        with pytest.raises(RequestError, match=f"the run has {kind} masks"):
            plan(finished, PHONE, dataclasses.replace(LOOSE, artefacts=("classifier",)))
        kinds = {job.kind for job in plan(finished, PHONE, LOOSE)}
        assert kinds == {"head", "encoder", "classifier_patches"}


def test_what_a_target_calls_for(finished):
    names = [job.name for job in plan(finished, TARGETS["micro"], LOOSE)]
    assert names == [
        "subnet0of2", "subnet1of2", "classifier_subnet0of2", "classifier_subnet1of2",
        "classifier_subnet0of2_sensor", "classifier_subnet1of2_sensor",
    ]  # fmt: skip
    names = [job.name for job in plan(finished, TARGETS["coral"], LOOSE)]
    assert "head" in names
    assert "encoder32" in names
    assert "classifier_head" in names
    assert "classifier_head_sensor" in names


@pytest.mark.parametrize(
    ("shape", "grid", "reason"),
    [
        ((8, 8), "scaled", "masks.grid=scaled cuts patches from the scaled image"),
        ((16, 20), "sensor", "images of 16 x 20 pixels can't be cut into 8 x 8 equal cells"),
        ((64, 64), "sensor", "images of 64 x 64 pixels fill patches of 8 x 8; classifier takes"),
        ((16, 96), "sensor", "images of 16 x 96 pixels fill patches of 8 x 8; classifier takes"),
        ((16, 16), "sensor", "the run's images are not all of one size"),
    ],
)
def test_a_sensors_pixels_are_taken_where_every_cell_has_as_many(
    finished, monkeypatch, shape, grid, reason
):
    monkeypatch.setitem(vars(finished), "sensor_shape", shape)
    monkeypatch.delitem(vars(finished), "_is_of_one_size", raising=False)
    monkeypatch.setattr(finished.images, "scaling", Scaling(64, 8, grid))
    with pytest.raises(RequestError, match=f"artefacts=classifier_sensor: {reason}"):
        plan(finished, PHONE, dataclasses.replace(LOOSE, artefacts=("classifier_sensor",)))
    assert {job.kind for job in plan(finished, PHONE, LOOSE)} == {"head", "encoder", "classifier"}


def test_a_card_of_scaled_images_says_that_they_leak(finished, monkeypatch):
    monkeypatch.setattr(finished.images, "scaling", Scaling(64, 8, "scaled"))
    text = "\n".join(camera.card_lines(finished, ("encoder", "classifier")))
    assert "after it was scaled as a whole to 64 x 64 pixels" in text
    assert "visible patches hold blends of hidden pixels" in text
    assert "floor" not in text


def test_missing_packages_are_named_before_any_work(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install --pre tflite-micro"):
        Exporter(finished, TARGETS["micro"], LOOSE, tmp_path / "out")
    options = dataclasses.replace(LOOSE, compression=Compression(qat=True))
    with pytest.raises(RequestError, match="tensorflow-model-optimization"):
        Exporter(finished, PHONE, options, tmp_path / "out")


def test_qat_trains_a_classifiers_head_on_what_the_int8_encoder_gives(
    finished, tmp_path, monkeypatch
):
    seen = {}

    def compress(parameters, features, labels, compression):
        seen[len(seen)] = features
        assert len(features) == len(labels) == 160
        return parameters

    monkeypatch.setattr(pipeline.compress, "require", lambda compression: None)
    monkeypatch.setattr(pipeline.compress, "compress", compress)
    options = dataclasses.replace(LOOSE, compression=Compression(qat=True))
    exporter = Exporter(finished, PHONE, options, tmp_path / "out")
    network = exporter.networks.network
    jobs = {job.name: job for job in exporter.jobs}
    for _ in range(2):  # each is trained once
        network(jobs["head"], "int8")
        network(jobs["classifier_head"], "float32")
        network(jobs["classifier_head"], "int8")
    floats = finished.images.features("train")
    assert len(seen) == 2
    assert np.array_equal(seen[0], floats)
    error = np.abs(seen[1] - floats).mean() / floats.std()
    assert 0 < error < 0.1
