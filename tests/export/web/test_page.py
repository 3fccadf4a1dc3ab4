"""The folder of a page: what is in it, when it is written, and when it isn't."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices.targets import TARGETS
from sparse_ist_tf.export.files import metadata
from sparse_ist_tf.export.plan import Options, plan
from sparse_ist_tf.export.web import page, runtime
from sparse_ist_tf.masks import MaskOptions
from tests.fixtures.page import export_page

STEM = "digits_vit_pico_m50_classifier_head"
OWN = Path(page.__file__).parent / "static"


@pytest.fixture
def bare(monkeypatch):
    """In place of LiteRT.js an empty script."""
    monkeypatch.setattr(runtime, "load", lambda path: {"index.js": b"", "README.txt": b""})


def _content(run, labels=("cat", "dog"), **changes):
    about = {
        "artefact": {"name": "classifier_head", "kind": "classifier", "subnet": None},
        "mask": {"kind": "shared", "ratio": 0.5, "grid": "sensor", "positions": [0, 3]},
        "encoder": {"image_size": 16, "patch_size": 8},
        "config": {"dataset": {"name": "folder:/photos/pets"}},
        "numbers": "int8",
        "measured": {"accuracy": 0.875},
    }
    return metadata.attach(run, metadata.Metadata("it", "", labels, {**about, **changes}))


def test_a_page_knows_what_the_file_says_of_itself(classifier_file):
    content = _content(classifier_file("int8"))
    found = page.settings({"a.tflite": content})
    assert found["title"] == "pets"
    (about,) = found["classifiers"]
    assert about["summary"].startswith("2 labels; 50 % of a picture hidden; int8, ")
    assert about["summary"].endswith("; 87.5 % of the test images right")
    del about["summary"]
    assert about == {
        "file": "a.tflite", "kind": "classifier", "labels": ["cat", "dog"], "outputs": "logits",
        "image_size": 16, "patch_size": 8, "grid": "sensor", "resize": "antialias",
        "input": [16, 16],
        "masks": [[0, 3]],
    }  # fmt: skip


def test_a_file_that_ends_in_probabilities_says_so(classifier_file):
    content = _content(classifier_file("int8"), output="probabilities")
    assert page.settings({"a.tflite": content})["classifiers"][0]["outputs"] == "probabilities"


def test_nothing_hidden_is_said_in_words(classifier_file):
    mask = {"kind": "shared", "ratio": 0.0, "grid": "scaled", "positions": [0, 1, 2, 3]}
    found = page.settings({"a.tflite": _content(classifier_file("int8"), mask=mask)})
    assert "; nothing hidden; " in found["classifiers"][0]["summary"]


def test_masks_that_differ_from_picture_to_picture_take_turns(classifier_file):
    mask = {"kind": "fixed", "ratio": 0.5, "pattern": "uniform", "seed": 3, "grid": "sensor"}
    artefact = {"name": "it", "kind": "classifier_patches", "subnet": None}
    file = classifier_file("int8", kind="classifier_patches")
    found = page.settings({"a.tflite": _content(file, mask=mask, artefact=artefact)})
    (about,) = found["classifiers"]
    expected = MaskOptions("fixed", 0.5, seed=3).positions(range(page.MASKS), 4)
    assert about["masks"] == expected.tolist()
    assert len({tuple(row) for row in about["masks"]}) > 1
    assert about["input"] == [16, 16]


def test_labels_are_data_whatever_they_hold(classifier_file, tmp_path):
    labels = ("</script><img src=x onerror=alert(1)>", 'a "b", c')
    page.write(tmp_path, {"a.tflite": _content(classifier_file("int8"), labels)}, {})
    (about,) = json.loads((tmp_path / "page.json").read_text())["classifiers"]
    assert tuple(about["labels"]) == labels
    assert "onerror" not in (tmp_path / "index.html").read_text()


def test_an_export_is_a_whole_page(finished, tmp_path, bare):
    good, printed = export_page(finished, tmp_path / "page", quantize=("float16", "float32"))
    assert good, printed
    assert printed.endswith(f"A browser opens it: python -m http.server -d {tmp_path}/page")
    own = {path.name for path in OWN.iterdir()} - {page.LICENCE}
    files = {f"{STEM}_float16.tflite", f"{STEM}_float32.tflite"}
    beside = {"labels.txt", "model_card.md", "verification.json", "page.json", "runtime"}
    assert {path.name for path in (tmp_path / "page").iterdir()} == own | files | beside
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    licence = (tmp_path / "page" / "runtime" / "LICENSE").read_text()
    assert "Apache License" in licence
    found = json.loads((tmp_path / "page" / "page.json").read_text())["classifiers"]
    assert {about["file"] for about in found} == files
    assert found[0]["labels"] == [f"{digit} of ten" for digit in range(10)]


def test_another_export_adds_to_the_page_and_a_bad_one_leaves_none(finished, tmp_path, bare):
    folder = tmp_path / "page"
    export_page(finished, folder, quantize=("float32",))
    export_page(finished, folder, quantize=("float16",))
    found = json.loads((folder / "page.json").read_text())["classifiers"]
    names = [f"{STEM}_float16.tflite", f"{STEM}_float32.tflite"]
    assert [about["file"] for about in found] == names
    (folder / names[1]).unlink()
    (folder / "own.txt").write_text("the user's")
    small = dataclasses.replace(TARGETS["web"], flash=1000)
    good, _ = export_page(finished, folder, small, quantize=("float16",))
    assert not good
    assert {path.name for path in folder.iterdir()} == {"verification.json", "own.txt"}


def test_a_folder_with_another_s_page_is_refused_and_stays(finished, tmp_path, bare):
    for name in ("index.html", "runtime", "page.json"):
        folder = tmp_path / f"with {name}"
        (folder / name).mkdir(parents=True)
        (folder / name / "mine").write_text("mine")
        with pytest.raises(RequestError, match=f"has a {name} of another kind"):
            export_page(finished, folder)
        assert (folder / name / "mine").read_text() == "mine"
        page.remove(folder)
        assert (folder / name / "mine").exists()


def test_what_does_not_fit_a_page_is_refused_in_one_line(finished):
    for name in ("head", "encoder", "subnet"):
        with pytest.raises(RequestError, match=f"artefacts={name}: target web takes classifiers"):
            plan(finished, TARGETS["web"], Options(artefacts=(name,)))


def test_a_page_has_the_merged_head_and_subnets_that_are_asked_for(finished):
    web = TARGETS["web"]
    assert [job.name for job in plan(finished, web, Options())] == ["classifier_head"]
    jobs = plan(finished, web, Options(subnets=(1,)))
    assert [job.name for job in jobs] == ["classifier_head", "classifier_subnet1of2"]


def test_scripts_ask_nobody_but_their_own_server():
    html = (OWN / "index.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    sources = {rules[name] for name in rules if name.endswith("-src")}
    assert sources == {"'none'", "'self'", "'self' 'wasm-unsafe-eval'"}
    for path in OWN.iterdir():
        addresses = re.findall(r"https?://[^\s\"'`<)]+", path.read_text())
        allowed = ("http://localhost:8000", "http://www.w3.org/2000/svg", "http://www.apache.org")
        assert all(address.startswith(allowed) for address in addresses), (path.name, addresses)
        if path.suffix == ".js":
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|\beval\b", path.read_text())
            assert len(path.read_text().splitlines()) <= 400


def test_the_licence_is_the_one_that_the_packages_name():
    text = (OWN / page.LICENCE).read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
