"""Labels for pictures, as a user asks for them."""

import csv
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.classify import Classifier, classify, find_pictures, main
from sparse_ist_tf.encoder.spec import ViTSpec
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.export.files import metadata
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.forms import Network, layers_of
from sparse_ist_tf.inputs.pictures import read_picture
from sparse_ist_tf.ist.head import HeadSpec, init_parameters
from sparse_ist_tf.masks import Scaling, fixed_positions, select_patches, shared_positions
from sparse_ist_tf.masks.cells import cell_matrix
from tests.fixtures.finished_run import make_pictures

LABELS = ("owl", "crane, grey", "größer")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """kind: an exported file of a random network on 16 px, half of 16 patches visible."""
    from sparse_ist_tf.export.graphs.folding import fold

    folder = tmp_path_factory.mktemp("files")
    vit = fold(ViT(ViTSpec(16, 4, width=8, depth=1, num_heads=2)), (0.5,) * 3, (0.5,) * 3)
    layers = layers_of(init_parameters(HeadSpec(8, (6,), 3), seed=0))
    mask = {"kind": "fixed", "seed": 7, "ratio": 0.5, "pattern": "uniform", "visible": 8}
    out = {}
    for kind in ("classifier", "classifier_patches", "head"):
        about = {
            "artefact": {"name": kind, "kind": kind, "subnet": None},
            "encoder": {"image_size": 16, "patch_size": 4},
            "mask": mask,
        }
        network = Network(kind, layers, vit, tuple(range(8)))
        content = convert(network, "float32")
        out[kind] = folder / f"{kind}.tflite"
        out[kind].write_bytes(
            metadata.attach(content, metadata.Metadata(kind, "Random.", LABELS, about))
        )
    return out


@pytest.fixture(scope="module")
def sensor_files(tmp_path_factory, classifier_file):
    """(kind, quantize): a file of a run whose masks lie on the sensor's pixels, shared by all."""
    folder = tmp_path_factory.mktemp("sensor")
    mask = {"kind": "shared", "seed": 0, "ratio": 0.5, "pattern": "uniform", "grid": "sensor"}

    @functools.cache
    def file(kind, quantize):
        about = {"artefact": {"kind": kind}, "mask": mask}
        about["encoder"] = {"image_size": 16, "patch_size": 4}
        content = classifier_file(quantize, kind=kind)
        path = folder / f"{kind}_{quantize}.tflite"
        path.write_bytes(metadata.attach(content, metadata.Metadata(kind, "d", LABELS, about)))
        return path

    return file


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with three pictures of different sizes, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, size in (("b.png", 16), ("a.bmp", 40), ("more/c.jpg", 64)):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size + 8, 3)).astype(np.uint8)).save(path)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture either")
    return folder


def test_answers_are_those_of_the_file(files):
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    found = Classifier(files["classifier"]).probabilities(image)
    logits = LiteRT(files["classifier"].read_bytes()).run({"image": image})
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_a_file_for_patches_draws_the_masks_of_its_run(files):
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    classifier = Classifier(files["classifier_patches"])
    runtime = LiteRT(files["classifier_patches"].read_bytes())
    for index in (0, 5):
        positions = fixed_positions(7, [index], 16, 0.5)
        example = {
            "patches": select_patches(image[None], positions, 4)[0],
            "positions": positions[0],
        }
        logits = runtime.run(example)
        found = classifier.probabilities(image, index)
        np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def _cells(length):
    """Which of 4 cells each pixel along a side is of."""
    return np.searchsorted(np.arange(1, 4) * length // 4, np.arange(length), side="right")


@pytest.mark.parametrize("quantize", ["float32", "int8"])
@pytest.mark.parametrize("kind", ["classifier", "classifier_sensor", "classifier_patches"])
def test_a_cameras_hidden_pixels_change_no_bit(sensor_files, kind, quantize):
    """Enlarged, reduced, or cut into cells of different sizes."""
    classifier = Classifier(sensor_files(kind, quantize))
    visible = np.isin(np.arange(16), shared_positions(0, 16, 0.5)).reshape(4, 4)
    rng = np.random.default_rng(0)
    for height, width in ((8, 8), (16, 16), (7, 13), (64, 42)):
        shown = visible[_cells(height)][:, _cells(width)][..., None]
        image, other = rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
        found, hidden, seen = (
            classifier.probabilities(classifier.scale(picture))
            for picture in (image, np.where(shown, image, other), np.where(shown, other, image))
        )
        assert np.array_equal(hidden, found)
        assert not np.array_equal(seen, found)


def test_a_file_for_a_sensor_takes_its_pixels_as_they_are(sensor_files):
    classifier = Classifier(sensor_files("classifier_sensor", "float32"))
    assert classifier.image_shape == (8, 8)
    image = make_pictures(1)[0]
    assert np.array_equal(classifier.scale(image), image)
    larger = make_pictures(1, side=26)[0]
    matrix = cell_matrix(26, 4, 2)
    reduced = np.einsum("yh,hwc,xw->yxc", matrix, larger.astype("float32"), matrix)
    assert np.abs(classifier.scale(larger) - reduced).max() < 0.51
    whole = Classifier(sensor_files("classifier", "float32"))
    assert np.array_equal(whole.scale(image), Scaling(16, 4)(image))
    found = classifier.probabilities(image)
    np.testing.assert_allclose(found, whole.probabilities(whole.scale(image)), atol=0.01)


def test_files_of_before_scale_the_whole_picture(files):
    image = make_pictures(1)[0]
    found = Classifier(files["classifier"]).scale(image)
    assert np.array_equal(found, Scaling(16, 4, "scaled")(image))


def test_a_picture_smaller_than_the_grid_is_one_line(sensor_files, tmp_path, capsys):
    small = tmp_path / "small.png"
    Image.fromarray(make_pictures(1)[0][:, :3]).save(small)
    for kind in ("classifier", "classifier_sensor"):
        assert main([str(sensor_files(kind, "float32")), str(small)]) == 1
        error = capsys.readouterr().err
        assert "small.png: 3 pixels along a side can't be cut into 4 patches" in error
        assert error.count("\n") == 2, "it, and how many"


def test_an_image_of_another_size_or_type_is_refused(files):
    classifier = Classifier(files["classifier"])
    for image in (np.zeros((8, 16, 3), "uint8"), np.zeros((16, 16, 3), "float32")):
        with pytest.raises(RequestError, match=r"must be uint8\[16, 16, 3\]"):
            classifier.probabilities(image)


def test_a_folder_stands_for_its_pictures(pictures):
    names = [Path(path).relative_to(pictures).as_posix() for path in find_pictures([str(pictures)])]
    assert names == ["a.bmp", "b.png", "more/c.jpg"]
    one = str(pictures / "b.png")
    assert find_pictures([one, str(pictures / "more")]) == [one, str(pictures / "more/c.jpg")]


def test_pictures_are_labelled_in_order(files, pictures):
    paths = find_pictures([str(pictures)])
    answers = list(classify(Classifier(files["classifier"]), paths, top=5))
    assert [path for path, _ in answers] == paths
    for _, labels in answers:
        assert {label for label, _ in labels} == set(LABELS)
        values = [probability for _, probability in labels]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)


def test_the_formats(files, pictures, tmp_path, capsys):
    command = [str(files["classifier"]), str(pictures), "--top=2"]
    assert main(command) == 0
    text = capsys.readouterr().out.splitlines()
    assert len(text) == 3
    assert all(" %), " in line for line in text)
    table = tmp_path / "answers.csv"
    assert main([*command, "--format=csv", f"--output={table}"]) == 0
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [row["rank"] for row in rows] == ["1", "2"] * 3
    assert {row["label"] for row in rows} <= set(LABELS)
    assert "answers.csv: 3 pictures" in capsys.readouterr().out
    assert main([*command, "--format=jsonl"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for record, row in zip(records, rows[::2], strict=True):
        assert record["image"] == row["image"]
        assert record["answers"][0]["label"] == row["label"]
        assert record["answers"][0]["probability"] == float(row["probability"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.tflite", "{b}"], "missing.tflite: No such file or directory"),
        (["{b}", "{b}"], "is not a .tflite file"),
        (["{head}", "{b}"], "head.tflite: is a head; only classifiers take pictures"),
        (["{classifier}", "nowhere.png"], "nowhere.png: No such file or directory"),
        (["{classifier}", "{empty}"], "has no pictures"),
        (["{classifier}", "{b}", "--top=0"], "top=0: must be at least 1"),
        (["{classifier}", "{b}", "--threads=0"], "threads=0: must be at least 1"),
        (["{classifier}", "{b}", "--delegate=libno.so"], "delegate='libno.so': can't be loaded"),
        (["{classifier}", "{b}", "--format=xml"], "invalid choice: 'xml'"),
        (["{classifier}"], "required: IMAGE"),
    ],
)
def test_bad_requests_are_one_line_and_status_2(
    files, pictures, tmp_path, capsys, arguments, message
):
    names = {name: str(path) for name, path in files.items()}
    names |= {"b": str(pictures / "b.png"), "empty": str(tmp_path)}
    assert main([argument.format(**names) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture
def mixed(pictures, tmp_path):
    """A folder of pictures among which are a cut one, a link to nothing and one too small."""
    folder = tmp_path / "mixed"
    shutil.copytree(pictures, folder)
    (folder / "a_cut.jpg").write_bytes((folder / "more/c.jpg").read_bytes()[:400])
    (folder / "aa_link.png").symlink_to("nowhere.png")
    (folder / "b_empty.webp").write_bytes(b"")
    return folder


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_labelled(files, mixed, capsys):
    good = find_pictures([str(mixed)])
    bad = [good.pop(good.index(str(mixed / name))) for name in BAD]
    assert main([str(files["classifier"]), str(mixed)]) == 1
    printed = capsys.readouterr()
    assert [line.split(": ")[0] for line in printed.out.splitlines()] == good
    *named, counted = printed.err.splitlines()
    assert counted == "warning: 3 of 6 pictures couldn't be labelled"
    assert [line.split(": ")[1] for line in named] == bad
    assert all("can't be read as an image" in line for line in named)


BAD = ("a_cut.jpg", "aa_link.png", "b_empty.webp")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_can_be_read_goes_to_the_output(files, mixed, capsys, tmp_path, form):
    output = tmp_path / "answers"
    command = [str(files["classifier"]), f"--format={form}", f"--output={output}"]
    assert main([*command, str(mixed)]) == 1
    lines = output.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 + (form == "csv")
    assert not any(name in line for name in BAD for line in lines)
    assert "answers: 3 pictures" in capsys.readouterr().out
    output.unlink()
    assert main([*command, str(mixed / BAD[0])]) == 1
    assert not output.exists(), "nothing was labelled"


def test_a_program_is_told_of_it_or_gets_the_error(files, mixed):
    classifier, paths = Classifier(files["classifier"]), find_pictures([str(mixed)])
    with pytest.raises(RunError, match=r"a_cut\.jpg: can't be read as an image"):
        list(classify(classifier, paths))
    told = []
    answers = list(classify(classifier, paths, on_unread=told.append))
    assert (len(answers), len(told)) == (3, 3)


def test_masks_are_those_of_a_pictures_place_also_behind_one_that_cannot_be_read(files, mixed):
    """So that an answer doesn't depend on whether another picture is whole."""
    classifier = Classifier(files["classifier_patches"])
    paths = find_pictures([str(mixed)])
    answers = dict(classify(classifier, paths, top=3, on_unread=lambda error: None))
    last = classifier.scale(read_picture(paths[-1]))
    expected = classifier.probabilities(last, len(paths) - 1)
    found = dict(answers[paths[-1]])
    assert [found[label] for label in LABELS] == pytest.approx(expected.tolist())


def test_neither_tensorflow_nor_keras_is_imported(files, pictures):
    script = (
        "import sys; from sparse_ist_tf.classify import main; status = main(sys.argv[1:]);"
        "heavy = {'tensorflow', 'keras', 'absl', 'ml_collections', 'scipy', 'matplotlib', 'tqdm'};"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    for kind in ("classifier", "classifier_patches"):
        command = [sys.executable, "-c", script, str(files[kind]), str(pictures)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.splitlines()[-1] == "0 []"
        assert done.stderr == ""


def test_any_terminal_takes_the_answers(files, pictures, tmp_path):
    """One without umlauts, and names that are no text."""
    name = os.fsencode(tmp_path) + b"/no\xfftext.png"
    shutil.copy(pictures / "b.png", name)
    command = [sys.executable, "-m", "sparse_ist_tf.classify", str(files["classifier"]), "--top=3"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for form in ("text", "csv", "jsonl"):
        done = subprocess.run(
            [*command, f"--format={form}", name], env=environment, capture_output=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"gr\\xf6\\xdfer" in done.stdout or form == "jsonl"
    answer = json.loads(done.stdout)
    assert os.fsencode(answer["image"]) == name
    assert {each["label"] for each in answer["answers"]} == set(LABELS)


def test_a_file_of_another_version_is_one_line(files, pictures, tmp_path, capsys):
    bare = metadata.strip(files["classifier"].read_bytes())
    old = tmp_path / "old.tflite"
    old.write_bytes(metadata.attach(bare, metadata.Metadata("n", "d", LABELS, {"digest": "x"})))
    assert main([str(old), str(pictures)]) == 2
    assert "old.tflite: lacks what this version" in capsys.readouterr().err


def test_a_truncated_file_is_one_line(files, pictures, tmp_path, capsys):
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(files["classifier"].read_bytes()[:2000])
    assert main([str(cut), str(pictures)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
