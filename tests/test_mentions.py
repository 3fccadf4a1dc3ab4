"""Files, modules and names that documents, docstrings and comments name are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATH = re.compile(
    r"(?<![\w./-])(?:sparse_ist_tf|export|configs|tests|docs|tools|examples|\.github)/[\w./*-]*\."
    r"(?:json|md|py|safetensors|svg|yml)\b"
)
MODULE = re.compile(r"(?<![\w./-])sparse_ist_tf(?:\.\w+)+")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
GENERATED = "api/"  # in docs/, when they are built
# CHANGELOG names what is gone, and test_mentions and test_house what never was.
APART = {"CHANGELOG.md", "tests/test_mentions.py", "tests/tools/test_house.py"}
FILES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "**/*.py", ".ci/run", ".github/**/*.yml", "*.toml")
    for path in sorted(ROOT.glob(pattern))
    if path.relative_to(ROOT).parts[0] not in (".venv", "build", "runs", "shared", "site")
    and path.relative_to(ROOT).as_posix() not in APART
]


def source_of(parts):
    """The file or folder of a module of the package, None where there is none."""
    rest = parts[1:]
    base = ROOT / "export" if rest[:1] == ["export"] else ROOT / "sparse_ist_tf"
    path = base.joinpath(*rest[1:] if rest[:1] == ["export"] else rest)
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return path if path.is_dir() else None


def names_in(source):
    """Names that a module has at its top."""
    if source.is_dir():
        return {path.name for path in source.iterdir()}
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def is_there(name):
    """Whether a dotted name is a module, or something at the top of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        source = source_of(parts[:length])
        if source:
            return length == len(parts) or parts[length] in names_in(source)
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_named_is_there(path):
    text = path.read_text(encoding="utf-8")
    lost = [name for name in PATH.findall(text) if not list(ROOT.glob(name))]
    lost += [name for name in MODULE.findall(text) if not is_there(name)]
    for name in re.findall(r"python3? -m (sparse_ist_tf[\w.]*)", text):
        source = source_of(name.split("."))
        command = source and (
            (source.parent / "__main__.py").is_file()
            or 'if __name__ == "__main__"' in source.read_text(encoding="utf-8")
        )
        if not command:
            lost.append(f"python -m {name}")
    if path.suffix == ".md":
        links = [name for name in LINK.findall(text) if not name.startswith(GENERATED)]
        lost += [name for name in links if not (path.parent / name).exists()]
    assert not lost
