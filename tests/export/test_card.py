"""The model card's lines of Python label a picture as they stand."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.classify import Classifier
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.files.runtimes import LiteRT, ports
from sparse_ist_tf.export.pipeline import Exporter
from sparse_ist_tf.export.plan import Options
from sparse_ist_tf.inputs.pictures import read_picture
from sparse_ist_tf.ist.head import logits
from sparse_ist_tf.masks import select_patches
from sparse_ist_tf.runs.finished_run import FinishedRun
from tests.fixtures.finished_run import write_run

WHOLE = {"algorithm": "centralized", "num_subnets": 4}  # which it makes no use of
KINDS = ("classifier", "classifier_sensor", "classifier_patches")
# What a device's engineer has.
ALONE = (
    "import sys; from importlib.abc import MetaPathFinder\n"
    "class Only(MetaPathFinder):\n"
    "    def find_spec(self, name, *_):\n"
    "        if name.split('.')[0] in ('tensorflow', 'keras', 'sparse_ist_tf', 'scipy', 'absl'):\n"
    "            raise ImportError(name)\n"
    "sys.meta_path.insert(0, Only())\n"
)


@pytest.fixture(scope="module")
def finished(run_path, tmp_path_factory):
    """A run whose head was trained whole, so that there is one file of each kind."""
    cache = {"cache_dir": str(run_path.parent / "cache")}
    return FinishedRun(write_run(tmp_path_factory.mktemp("whole"), ist=WHOLE, features=cache))


@pytest.fixture(
    scope="module",
    params=[
        "phone",
        *(pytest.param(name, marks=pytest.mark.large) for name in ("phone, logits", "coral")),
    ],
)
def exported(request, finished, tmp_path_factory):
    """(folder, card) with a file of each kind and a picture of another size, stored turned."""
    target = TARGETS[request.param.split(",")[0]]
    if "," in request.param:
        interface = dataclasses.replace(target.interface, softmax=False)
        target = dataclasses.replace(target, interface=interface)
    folder = tmp_path_factory.mktemp("export") / target.name
    artefacts = ("head", "encoder", *KINDS)
    options = Options(artefacts, bound=100, calibration=16, progress=False)
    assert Exporter(finished, target, options, folder, report=lambda line: None).export()
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(3).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((90, 70), Image.Resampling.BICUBIC)
    picture.save(folder / "picture.jpg", exif=exif)
    return folder, (folder / "model_card.md").read_text()


def _programs(card):
    return re.findall(r"^(`[^\n]*`):\n\n```python\n(.*?)```", card, re.DOTALL | re.MULTILINE)


def _expected(folder, finished, what):
    """The label and its probability, of this library."""
    name = "digits_vit_pico_m50_classifier_head"
    names = {"classifier": name, "classifier_sensor": f"{name}_sensor"}
    names["classifier_patches"] = f"{name}_patches"
    if what in names:
        classifier = Classifier(folder / f"{names[what]}_int8.tflite")
        image = classifier.scale(read_picture(folder / "picture.jpg"))
        found = classifier.probabilities(image)
        return classifier.labels[found.argmax()], found.max()
    runtime = LiteRT((folder / "digits_vit_pico_m50_encoder32_int8.tflite").read_bytes())
    image = finished.scaling(read_picture(folder / "picture.jpg"))
    positions = np.array([finished.shared_positions()])
    patches = select_patches(image[None], positions, 8)[0]
    feature = runtime.run({"patches": patches, "positions": positions[0]})
    found = logits(finished.head(), feature[None])[0].astype(float)
    found = np.exp(found - found.max())
    return finished.labels[found.argmax()], found.max() / found.sum()


def test_its_lines_label_a_picture_with_litert_numpy_and_pillow_alone(exported, finished):
    folder, card = exported
    programs = _programs(card)
    assert [title for title, _ in programs] == [
        *(f"`{kind}`" for kind in KINDS),
        "`encoder` and `head`",
    ]
    for title, program in programs:
        lines = [line for line in program.splitlines() if line]
        assert len(lines) <= 18
        done = subprocess.run(
            [sys.executable, "-c", ALONE + program],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        label, probability = done.stdout.strip().rsplit(" ", 1)
        expected = _expected(folder, finished, title.strip("`"))
        assert label == expected[0], title
        assert float(probability) == pytest.approx(expected[1], abs=0.05)


def test_it_says_what_every_file_takes_and_gives(exported, finished):
    folder, card = exported
    for path in folder.glob("*.tflite"):
        inputs, output = ports(path.read_bytes())
        for port in (*inputs, output):
            (row,) = re.findall(rf"\| `{path.name}` \| (?:takes|gives) `{port.name}` \|(.*)", card)
            cells = [cell.strip() for cell in row.split("|")]
            assert cells[:2] == [" x ".join(map(str, port.shape)), port.dtype]
            if port.scale:
                assert float(cells[2]) == pytest.approx(port.scale, rel=1e-6)
                assert int(cells[3]) == port.zero
    for text in (
        "red, green, blue",
        "A patch is 8 x 8 pixels, 192 numbers in that same order",
        "row by row from 0 to 63, 8 to a row",
        f"counted row by row from 0: {', '.join(map(str, finished.shared_positions()))}.",
        f"Labels, from 0: {', '.join(finished.labels)}.",
    ):
        assert text in card
