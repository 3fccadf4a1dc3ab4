"""tools/house.py finds what breaks a rule, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import house  # noqa: E402


def build(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_lines_of_code_leave_out_blanks_comments_and_docstrings(tmp_path):
    doc, code = '"""What it is.\n\nMore.\n"""\n\n# why\n', 'X = """a\nb"""  # two lines\n\n\n'
    text = doc + code + 'def f() -> int:\n    """Doc."""\n    return 1\n'
    build(tmp_path, {"sparse_ist_tf/masks/a.py": text})
    found = house.measure(tmp_path)
    assert found.code == {"masks": 4}
    assert found.lines == {"masks": 13}


def test_rooms_are_folders_the_ground_and_the_commands(tmp_path):
    names = ["errors", "train", "masks/a", "workers/link", "masks/__main__"]
    files = {f"sparse_ist_tf/{name}.py": "X = 1\n" for name in names}
    build(tmp_path, files | {"export/files/b.py": "X = 1\n", "export/plan.py": "X = 1\n"})
    assert house.measure(tmp_path).code == {
        "ground": 1,
        "commands": 1,
        "masks": 2,
        "workers": 1,
        "export": 1,
        "export/files": 1,
    }


@pytest.mark.parametrize(
    ("path", "line", "backward"),
    [
        ("sparse_ist_tf/masks/a.py", "from sparse_ist_tf.ist import partition", True),
        ("sparse_ist_tf/masks/a.py", "from sparse_ist_tf import ist", True),
        ("sparse_ist_tf/masks/a.py", "import sparse_ist_tf.ist.rounds", True),
        ("sparse_ist_tf/masks/a.py", "def f() -> None:\n    import sparse_ist_tf.ist", True),
        ("sparse_ist_tf/masks/a.py", "from sparse_ist_tf import train", True),
        ("sparse_ist_tf/errors.py", "from sparse_ist_tf.masks import drawing", True),
        ("sparse_ist_tf/ist/a.py", "from sparse_ist_tf.export.plan import Options", True),
        ("sparse_ist_tf/ist/a.py", "from sparse_ist_tf import config, masks", False),
        ("sparse_ist_tf/ist/a.py", "from sparse_ist_tf.ist import rounds", False),
        ("sparse_ist_tf/masks/a.py", "import numpy", False),
        ("sparse_ist_tf/masks/__main__.py", "from sparse_ist_tf.ist import partition", False),
        ("export/a.py", "from sparse_ist_tf.ist import partition", False),
        (
            "sparse_ist_tf/masks/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sparse_ist_tf.ist",
            False,
        ),
    ],
)
def test_imports_that_point_backwards(path, line, backward, tmp_path):
    others = {"sparse_ist_tf/ist/__init__.py": "", "export/plan.py": "Options = 1\n"}
    build(tmp_path, others | {path: line + "\n"})
    assert bool(house.measure(tmp_path).found[house.BACKWARD]) == backward


@pytest.mark.parametrize(
    ("measure", "text", "count"),
    [
        (house.LONG_FILES, "X = 1\n" * 400, 0),
        (house.LONG_FILES, "X = 1\n" * 401, 1),
        (house.PARAMETERS_MANY, "def f(a, b, c, d, /, e, *f, g, **h): ...\n", 1),
        (house.PARAMETERS_MANY, "class A:\n def f(self, a, b, c, d, e, f, *, g): ...\n", 0),
        (house.UNTYPED, "def f(a: int, *b: int) -> int: ...\n", 0),
        (house.UNTYPED, "def f(a: int, **b) -> int: ...\n", 1),
        (house.UNTYPED, "def f(a: int): ...\n", 1),
        (house.UNTYPED, "def _f(a): ...\nclass _A:\n def f(self): ...\n", 0),
        (house.UNTYPED, "class A:\n def __init__(self, a: int): ...\n", 0),
        (house.UNTYPED, "class A:\n def __call__(self, a) -> int: ...\n def f(self): ...\n", 2),
        (house.UNTYPED, "def f() -> int:\n def g(a): ...\n return 1\n", 0),
        (house.STATES, "def f(n):\n '''a/moment_0'''\n return n.startswith('slots/')\n", 1),
        (house.STATES, "def f(n, i):\n return f'{n}/moment_{i}'\n", 1),
        (house.STATES, "class HeadState: ...\ndef f(n):\n return n + '/moment_0'\n", 0),
        (house.STREAMS, "default_rng((seed, 303))\nnp.random.SeedSequence([seed, 1])\n", 2),
        (house.STREAMS, "np.random.default_rng(seed)\nStream.BATCHES.rng(seed)\n", 0),
        (house.EXAMPLES, "def f():\n '''Doc.\n\n >>> f()\n 1\n 2\n\n More.\n '''\n", 3),
        (house.SIZES, "X = 1\n" * 2501, 1),
    ],
)
def test_measures(measure, text, count, tmp_path):
    build(tmp_path, {"sparse_ist_tf/ist/a.py": text})
    assert len(house.measure(tmp_path).found[measure]) == count


def test_a_room_holds_a_dozen_files_and_has_a_place(tmp_path):
    files = {f"sparse_ist_tf/ist/a{i}.py": "X = 1\n" for i in range(12)}
    build(tmp_path, files | {"sparse_ist_tf/ist/__init__.py": '"""Only words."""\n'})
    assert not house.measure(tmp_path).found[house.SIZES]
    build(tmp_path, {"sparse_ist_tf/ist/b.py": "X = 1\n", "sparse_ist_tf/attic/c.py": "X = 1\n"})
    assert [line.split(":")[0] for line in house.measure(tmp_path).found[house.SIZES]] == [
        "attic",
        "ist",
    ]


def test_check_names_what_breaks_a_rule(tmp_path, capsys):
    build(tmp_path, {"sparse_ist_tf/masks/a.py": "def f() -> None: ...\n"})
    assert house.main(["--check", f"--root={tmp_path}"]) == 0
    build(tmp_path, {"sparse_ist_tf/masks/b.py": "import sparse_ist_tf.ist\ndef f(): ...\n"})
    build(tmp_path, {"sparse_ist_tf/ist/__init__.py": ""})
    capsys.readouterr()
    assert house.main([f"--root={tmp_path}"]) == 0
    assert house.main(["--check", f"--root={tmp_path}"]) == 1
    printed = capsys.readouterr().out
    assert "sparse_ist_tf/masks/b.py:1: masks imports sparse_ist_tf.ist" in printed
    assert "sparse_ist_tf/masks/b.py:2: f: return" in printed


def test_another_revision_stands_beside_the_tree(tmp_path, capsys):
    build(tmp_path, {"sparse_ist_tf/masks/a.py": "X = 1\nY = 2\n", "export/b.py": "X = 1\n"})
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.invalid"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    build(tmp_path, {"sparse_ist_tf/masks/a.py": "X = 1\n"})
    assert house.main(["--at=HEAD", f"--root={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "| masks | 2 (2) | 1 (1) |" in printed
    assert "| **all rooms** | **3 (3)** | **2 (2)** |" in printed


def test_every_room_of_the_package_has_its_place():
    assert {place.split("/")[0] for place in house.measure(ROOT).code} == set(house.ROOMS)
