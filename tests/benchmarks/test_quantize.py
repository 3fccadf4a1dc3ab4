"""The comparison of quantizers: on the same files, and one line where there is no other."""

import importlib.util

import numpy as np
import pytest

from sparse_ist_tf.benchmarks import quantize
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files.runtimes import LiteRT


def test_what_is_missing_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="run `pip install ai-edge-quantizer`"):
        quantize.compare()


def test_a_divergence_is_that_of_probabilities():
    exact = np.log([[0.5, 0.5], [0.25, 0.75]])
    found = np.log([[0.25, 0.75], [0.25, 0.75]]) + 3.0
    expected = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert quantize._divergence(exact, found) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["int8", "int16x8"])
def test_the_other_quantizers_files_run(head_file, head_features, head_samples, kind):
    pytest.importorskip("ai_edge_quantizer", reason="needs the extra converters")
    content = quantize.by_ai_edge(head_file, kind, head_samples())
    found, exact = (
        np.array([LiteRT(file).run({"feature": feature}) for feature in head_features])
        for file in (content, head_file)
    )
    # Its ranges are moving averages of the samples' extremes, which cut what is rare.
    assert 0.7 < np.corrcoef(found.ravel(), exact.ravel())[0, 1] < 1


def test_both_are_measured_on_every_test_image(finished, monkeypatch, capsys):
    pytest.importorskip("ai_edge_quantizer", reason="needs the extra converters")
    monkeypatch.setattr(quantize, "_train", lambda preset, folder: finished)
    rows = quantize.compare(("vit_pico",), ("int8",))
    assert [row["name"] for row in rows] == ["float", "ours", "ai-edge-quantizer"]
    exact, ours, theirs = rows
    assert (exact["agreement"], exact["divergence"]) == (1.0, 0.0)
    assert max(ours["bytes"], theirs["bytes"]) < 0.4 * exact["bytes"]
    assert ours["agreement"] > 0.8
    assert capsys.readouterr().out.count("vit_pico") == 3
