"""The notebook, cell by cell, as it stands."""

import json
from pathlib import Path

import numpy as np
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples/notebook.ipynb"


def test_its_cells_are_programs_without_output():
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            compile("".join(cell["source"]), "cell", "exec")


@pytest.mark.large
def test_its_cells_run_in_order_and_its_classifiers_learn(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    scope: dict = {}
    values = []
    for cell in cells:
        if cell["cell_type"] == "code":
            *lines, last = "".join(cell["source"]).rstrip().split("\n")
            try:
                compile(last, "cell", "eval")
            except SyntaxError:
                exec("\n".join([*lines, last]), scope)
                continue
            exec("\n".join(lines), scope)
            values.append(eval(last, scope))
    accuracies = [
        value["accuracy"] for value in values if isinstance(value, dict) and "loss" in value
    ]
    assert len(accuracies) == 3
    assert min(accuracies) > 0.6
    assert (8, 96) in [
        tuple(shape)
        for value in values
        if isinstance(value, tuple)
        for shape in value
        if not isinstance(shape, np.ndarray)
    ]
    assert any(
        isinstance(value, list) and value and value[0].endswith(".tflite") for value in values
    )
