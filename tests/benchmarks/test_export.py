"""The comparison of int8 files: what it prints, with and without timm's."""

import importlib.util

import numpy as np
import pytest

from sparse_ist_tf.benchmarks import export as speed
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files import micro
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.folding import Affine
from sparse_ist_tf.export.graphs.forms import Network


@pytest.fixture
def one_file(monkeypatch):
    """Ours at two mask ratios: a matrix, and a larger one."""

    def ours(preset, ratios):
        out = {}
        for ratio, width in zip(ratios, (400, 40), strict=True):
            head = Network("head", (Affine(np.ones((width, width)), np.zeros(width)),))
            example = {"feature": np.zeros(width, np.float32)}
            out["float32", ratio] = convert(head, "float32"), example, None
        return out

    monkeypatch.setattr(speed, "_ours", ours)


def test_rows_are_compared_with_whole_images_and_with_timm(one_file, monkeypatch, capsys):
    pixels = Network("head", (Affine(np.ones((400, 400)), np.zeros(400)),))
    monkeypatch.setattr(speed, "_theirs", lambda preset: {"float32": convert(pixels, "float32")})
    whole, masked, timm = speed.compare("vit_pico", (0.0, 0.75))
    assert masked["ms"] < whole["ms"] < 5 * timm["ms"]
    printed = capsys.readouterr().out
    assert f"{whole['ms'] / masked['ms']:.2f}" in printed
    assert f"{timm['ms'] / masked['ms']:.2f}" in printed
    assert "Not compared" not in printed


def test_what_is_missing_is_said(one_file, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "timm" else found(name)
    )
    assert len(speed.compare("vit_pico", (0.0, 0.75))) == 2
    assert "timm missing" in capsys.readouterr().out.replace(",", "")


def test_a_preset_that_does_not_exist_is_refused():
    with pytest.raises(RequestError, match="vit_giga"):
        speed.compare("vit_giga")


@pytest.mark.large
def test_hidden_patches_make_our_files_smaller_and_their_arena_too():
    rows = speed._ours("vit_pico", (0.0, 0.75))
    assert list(rows) == [(n, r) for n in ("float32", "int8") for r in (0.0, 0.75)]
    assert len(rows["int8", 0.0][0]) < 0.4 * len(rows["float32", 0.0][0])
    if micro.available():
        assert rows["int8", 0.75][2] < 0.7 * rows["int8", 0.0][2]


@pytest.mark.large
def test_timm_comes_over_by_litert_torch():
    pytest.importorskip("litert_torch")
    pytest.importorskip("timm")
    rows = speed.compare("vit_pico", (0.0, 0.75))
    assert [row["quantize"] for row in rows if row["name"].startswith("timm")] == [
        "float32",
        "int8",
    ]
