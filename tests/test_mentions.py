"""Files, modules and names that documents, docstrings and comments name are there."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
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
KINDS = re.compile(r"[^/]+\.(md|toml)|docs/.*\.md|.*\.py|\.ci/run|\.github/.*\.yml")


def tracked(root: Path) -> set[str]:
    """The files that git tracks there; of a folder without git all but environments and output."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        listed = b""
    return set(os.fsdecode(listed).split("\0")[:-1]) or set(_untracked(root))


def _untracked(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        above = Path(folder).relative_to(root)
        if above == Path():
            folders[:] = [f for f in folders if f not in ("build", "runs", "shared", "site")]
        folders[:] = [f for f in folders if not Path(folder, f, "pyvenv.cfg").exists()]
        yield from ((above / name).as_posix() for name in names)


def read_from(root: Path) -> list[Path]:
    """The files of a tree that are looked at."""
    names = sorted(filter(KINDS.fullmatch, tracked(root) - APART))
    return [root / name for name in names if (root / name).is_file()]


FILES = read_from(ROOT)


def test_an_environment_among_the_files_is_not_read(tmp_path):
    for name in ("a.py", "b/c.py", "b/d.md", "docs/e/f.md", "v/lib/g.py", "v/pyvenv.cfg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    ours = ["a.py", "b/c.py", "docs/e/f.md"]
    assert [path.relative_to(tmp_path).as_posix() for path in read_from(tmp_path)] == ours
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "a.py"], check=True)
    assert read_from(tmp_path) == [tmp_path / "a.py"]


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
