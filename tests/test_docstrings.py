"""Every example in a docstring is run as it stands."""

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
    if path.stem != "__main__" and ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_say(name, tmp_path, monkeypatch):
    if name.endswith("_jax") and importlib.util.find_spec("jax") is None:
        pytest.skip("needs jax: pip install jax")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
