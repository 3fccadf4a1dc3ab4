"""Every example in a docstring is run as it stands, and every public name has one."""

import ast
import doctest
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"sparse_ist_tf": ROOT / "sparse_ist_tf", "sparse_ist_tf.export": ROOT / "export"}
MODULES = sorted(
    ".".join([package, *path.relative_to(folder).with_suffix("").parts])
    for package, folder in FOLDERS.items()
    for path in folder.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


def _path(name):
    if name.startswith("sparse_ist_tf.export."):
        return ROOT / "export" / Path(*name.split(".")[2:]).with_suffix(".py")
    return ROOT / Path(*name.split(".")).with_suffix(".py")


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_say(name, tmp_path, monkeypatch):
    if name.endswith("_jax") and importlib.util.find_spec("jax") is None:
        pytest.skip("needs jax: pip install jax")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_an_example(name):
    tree = ast.parse(_path(name).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if node.name in ("main", "define_flags"):
                continue
            text = ast.get_docstring(node) or ""
            assert "Example:" in text, f"{name}.{node.name}"
