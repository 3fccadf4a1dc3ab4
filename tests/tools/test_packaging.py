"""What pyproject.toml says of the package is what the package is."""

import ast
import re
import sys
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {"sparse_ist_tf": ROOT / "sparse_ist_tf", "sparse_ist_tf.export": ROOT / "export"}
FILES = [path for folder in FOLDERS.values() for path in sorted(folder.rglob("*.py"))]
# Packages that are installed under another name than they are imported.
NAMES = {
    "absl": "absl-py",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
}
# Files that are imported where the extra is alone.
EXTRA_FILES = {
    **dict.fromkeys(("augmentation_jax.py", "jax_run.py"), "jax"),
    **{"superlink.py": "devices", "supernode.py": "client"},
}


def normal(name):
    return name.replace("_", "-").lower()


def declared(requirements):
    return {normal(re.match(r"[\w-]+", requirement).group()) for requirement in requirements}


def imports(tree):
    """(package, whether it is imported with the file) of every import of another package."""
    top = {id(node) for node in tree.body}
    top |= {
        id(node)
        for statement in tree.body
        if isinstance(statement, ast.Try)
        for node in [*statement.body, *(x for h in statement.handlers for x in h.body)]
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            package = name.split(".")[0]
            if package not in {*sys.stdlib_module_names, "sparse_ist_tf"}:
                yield normal(NAMES.get(package, package)), id(node) in top


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_are_declared(path):
    needed = declared(PROJECT["project"]["dependencies"])
    extras = {
        name: declared(requirements)
        for name, requirements in PROJECT["project"]["optional-dependencies"].items()
    }
    optional = set().union(*extras.values())
    for package, at_once in imports(ast.parse(path.read_text(encoding="utf-8"))):
        assert package in needed | optional
        if at_once:
            assert package in needed | extras.get(EXTRA_FILES.get(path.name), set())


def test_every_folder_is_installed():
    packages = {
        ".".join([name, *path.relative_to(folder).parts])
        for name, folder in FOLDERS.items()
        for path in (folder, *folder.rglob("*"))
        if path.is_dir() and path.name != "__pycache__"
    }
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])


def test_its_types_are_for_others_too():
    assert (ROOT / "sparse_ist_tf" / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["sparse_ist_tf"]
