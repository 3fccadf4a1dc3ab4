"""The front door: its overview, and that a command is the module of its name."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_ist_tf import __version__
from sparse_ist_tf.__main__ import COMMANDS, main, overview

ROOT = Path(__file__).parents[1]


def _door(*arguments):
    command = [sys.executable, "-m", "sparse_ist_tf", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_without_a_command_it_shows_what_there_is(capsys):
    for argv in ([], ["--help"], ["-h"], ["help"]):
        assert main(argv) == 0
        assert capsys.readouterr().out == overview() + "\n"
    lines = overview().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)


def test_an_unknown_command_is_refused_in_one_line(capsys):
    assert main(["trian", "--config=x"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"error: 'trian': .*must be one of train, .*'train'\?\)\n", said.err)


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sparse-ist {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_module_runs_as_a_program(name):
    spec = importlib.util.find_spec(f"sparse_ist_tf.{COMMANDS[name].module}")
    path = Path(spec.origin)
    if path.name == "__init__.py":
        path = path.with_name("__main__.py")
    tree = ast.parse(path.read_text())
    assert any(isinstance(node, ast.If) and "__main__" in ast.dump(node.test) for node in tree.body)
    assert ast.get_docstring(tree)


def test_a_command_gets_its_arguments_and_its_status_comes_back():
    asked = ("evaluate", "--run=there/is/none")
    module = [sys.executable, "-m", "sparse_ist_tf.evaluate", *asked[1:]]
    straight = subprocess.run(module, capture_output=True, text=True, timeout=120)
    door = _door(*asked)
    assert door.returncode == straight.returncode == 2
    assert door.stderr == straight.stderr
    assert door.stderr.startswith("error: ")


def test_help_of_a_command_ends_well_and_has_its_keys():
    for asked in (("train", "--help"), ("help", "train")):
        shown = _door(*asked)
        assert shown.returncode == 0
        assert shown.stdout.startswith("Trains a head on the features of masked images")
        assert "masks.ratio=0.5 (in [0, 1)): hidden share of the patches" in shown.stdout


def test_the_overview_imports_nothing_heavy():
    code = "import sys, sparse_ist_tf.__main__ as m; m.main([]); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n")


def test_the_script_is_installed_by_its_name():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'sparse-ist = "sparse_ist_tf.__main__:main"' in text
