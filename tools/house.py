"""Measures the house: how large its rooms are, which way they import, and what else has a rule.

    python tools/house.py                  a table of the working tree
    python tools/house.py --at 0f655be     the same with another revision beside it
    python tools/house.py --list           where each figure comes from, with file and line
    python tools/house.py --check          status 1 where a rule is broken, with what breaks it

A line of code is one that holds more than white space, a comment or a docstring.
"""

import argparse
import ast
import collections
import dataclasses
import doctest
import io
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "sparse_ist_tf"
FOLDERS = {"sparse_ist_tf": "", "export": "export"}  # of the repository: what they are imported as
# From left to right: a file imports from its own room and from those on its left.
ROOMS = (
    "ground",
    "shown",
    "workers",
    "masks",
    "inputs",
    "codec",
    "encoder",
    "checkpoints",
    "ist",
    "reports",
    "runs",
    "export",
    "devices",
    "pretraining",
    "benchmarks",
    "studies",
    "face",
    "commands",
)
# Of what lies straight in the package these are the ground, the others commands.
GROUND = (
    "",  # the package's own __init__
    "allowed",
    "commands",
    "config",
    "errors",
    "files",
    "keys",
    "plugins",
    "pretrain_config",
    "registry",
    "streams",
    "tracing",
)
FILE_LINES, ROOM_LINES, ROOM_FILES, PARAMETERS = 400, 2500, 12, 7
STATE_NAMES = ("statistics/", "/moment_", "slots/", "centralized/")
STATE_CLASS = "HeadState"  # the files that define it may know how its arrays are called

SIZES = "rooms too large"
BACKWARD = "imports that point backwards"
LONG_FILES = f"files above {FILE_LINES} lines"
PARAMETERS_MANY = f"functions with more than {PARAMETERS} parameters"
UNTYPED = "public functions not fully typed"
STATES = "places that parse a state's names"
STREAMS = "random streams drawn with bare numbers"
EXAMPLES = "lines of docstring examples"
MEASURES = (SIZES, BACKWARD, LONG_FILES, PARAMETERS_MANY, UNTYPED, STATES, STREAMS, EXAMPLES)
RULES = (SIZES, BACKWARD, LONG_FILES, PARAMETERS_MANY, UNTYPED, STATES, STREAMS)  # must be 0

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of the package.

    Args:
        path: as the repository calls it.
        module: its name without the package's, such as "ist.rounds".
        text: what it holds.
    """

    path: str
    module: str
    text: str

    @property
    def place(self) -> str:
        """The room, with the sub-room where there is one, such as "export/files"."""
        folders = self.path.removeprefix(f"{PACKAGE}/").split("/")[:-1]
        return "/".join(folders) or room_of(self.module)

    @property
    def room(self) -> str:
        """The room whose imports it may have: a command's, wherever it stands, are all."""
        return "commands" if self.path.endswith("__main__.py") else self.place.split("/")[0]


@dataclasses.dataclass
class House:
    """What was measured.

    Args:
        code: lines of code by place.
        lines: all lines by place.
        files: files with code by place.
        found: for each of MEASURES where and what, a line each; examples count by line.
    """

    code: collections.Counter[str]
    lines: collections.Counter[str]
    files: collections.Counter[str]
    found: dict[str, list[str]]


def room_of(module: str) -> str:
    """One of ROOMS: where a module stands.

    Args:
        module: without the package's name, such as "ist.rounds" or "train".
    """
    first = module.split(".")[0]
    if first in GROUND:
        return "ground"
    return first if first in ROOMS else "commands"


def read_sources(root: Path) -> list[Source]:
    """All files of the package below a folder that holds the repository."""
    sources = []
    for folder, name in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [name, *path.relative_to(root / folder).with_suffix("").parts]
            module = ".".join(part for part in parts if part not in ("", "__init__"))
            text = path.read_text(encoding="utf-8")
            sources.append(Source(path.relative_to(root).as_posix(), module, text))
    return sources


def measure(root: Path) -> House:
    """Measures a tree.

    Args:
        root: the folder that holds the repository's files.

    Returns:
        The figures, and where they come from.
    """
    sources = read_sources(root)
    counters = [collections.Counter[str]() for _ in range(3)]
    house = House(*counters, {name: [] for name in MEASURES})
    for source in sources:
        tree = ast.parse(source.text)
        docs = list(docstrings(tree))
        count = count_code(source.text, docs)
        lines = len(source.text.splitlines())
        house.code[source.place] += count
        house.lines[source.place] += lines
        house.files[source.place] += bool(count)
        found = {
            BACKWARD: backward_imports(source, tree),
            LONG_FILES: [(1, f"{lines} lines")] if lines > FILE_LINES else [],
            PARAMETERS_MANY: many_parameters(tree),
            UNTYPED: untyped(tree),
            STATES: state_names(tree, docs),
            STREAMS: [] if source.module == "streams" else bare_streams(tree),
            EXAMPLES: example_lines(docs),
        }
        for name, places in found.items():
            house.found[name] += [f"{source.path}:{line}: {what}" for line, what in places]
    house.found[SIZES] = large_rooms(house)
    return house


def large_rooms(house: House) -> list[str]:
    """Rooms, without their sub-rooms, that hold too much, and such as stand in no table."""
    strange = [place for place in house.lines if place.split("/")[0] not in ROOMS]
    out = [f"{place}: ROOMS doesn't say where it stands" for place in strange]
    for place, lines in house.lines.items():
        if lines > ROOM_LINES or house.files[place] > ROOM_FILES:
            out.append(f"{place}: {lines} lines in {house.files[place]} files")
    return out


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """The strings that stand alone as a statement."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                yield text


def count_code(text: str, docs: list[ast.Constant]) -> int:
    """Lines that hold code.

    Args:
        text: of a file.
        docs: its docstrings.
    """
    idle = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
            tokenize.ENDMARKER)  # fmt: skip
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in idle:
            lines.update(range(token.start[0], token.end[0] + 1))
    for doc in docs:
        lines.difference_update(range(doc.lineno, (doc.end_lineno or doc.lineno) + 1))
    return len(lines)


def backward_imports(source: Source, tree: ast.Module) -> list[tuple[int, str]]:
    """Imports of rooms to the right; those for types alone don't count.

    Args:
        source: the file.
        tree: what it says.
    """
    for_types = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test).endswith("TYPE_CHECKING")
        for statement in test.body
        for node in ast.walk(statement)
    }
    out = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == PACKAGE:
                names = [f"{PACKAGE}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] != PACKAGE or id(node) in for_types:
                continue
            module = name.removeprefix(PACKAGE).removeprefix(".")
            room = room_of(module)
            if source.room in ROOMS and room in ROOMS[ROOMS.index(source.room) + 1 :]:
                out.append((node.lineno, f"{source.room} imports {name}"))
    return out


def parameters(function: Function) -> list[ast.arg]:
    """A function's parameters, *args and **kwargs among them, self and cls not."""
    spec = function.args
    named = [*spec.posonlyargs, *spec.args]
    if named and named[0].arg in ("self", "cls"):
        named = named[1:]
    return named + [arg for arg in (spec.vararg, *spec.kwonlyargs, spec.kwarg) if arg]


def many_parameters(tree: ast.Module) -> list[tuple[int, str]]:
    """Functions of any kind that take too many."""
    return [
        (node.lineno, f"{node.name} takes {len(parameters(node))}")
        for node in ast.walk(tree)
        if isinstance(node, Function) and len(parameters(node)) > PARAMETERS
    ]


def public_functions(node: ast.Module | ast.ClassDef) -> Iterator[Function]:
    """Functions of a module and methods of its classes that others may call."""
    for child in node.body:
        if isinstance(child, Function):
            if not child.name.startswith("_") or child.name.endswith("__"):
                yield child
        elif isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)


def untyped(tree: ast.Module) -> list[tuple[int, str]]:
    """Public functions of which a parameter or the answer has no type; __init__ answers nothing."""
    out = []
    for function in public_functions(tree):
        missing = [arg.arg for arg in parameters(function) if arg.annotation is None]
        if function.returns is None and function.name != "__init__":
            missing.append("return")
        if missing:
            out.append((function.lineno, f"{function.name}: {', '.join(missing)}"))
    return out


def state_names(tree: ast.Module, docs: list[ast.Constant]) -> list[tuple[int, str]]:
    """Strings of code that spell how a state's arrays are called."""
    if any(isinstance(node, ast.ClassDef) and node.name == STATE_CLASS for node in tree.body):
        return []
    idle = {id(doc) for doc in docs}
    return [
        (node.lineno, repr(node.value))
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in idle
        if any(mark in node.value for mark in STATE_NAMES)
    ]


def bare_streams(tree: ast.Module) -> list[tuple[int, str]]:
    """Generators seeded with several numbers, where a named stream would keep them apart."""
    out = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=function, args=[ast.Tuple() | ast.List(), *_]):
                if ast.unparse(function).endswith(("default_rng", "SeedSequence")):
                    out.append((node.lineno, ast.unparse(node)))
    return out


def example_lines(docs: list[ast.Constant]) -> list[tuple[int, str]]:
    """Lines of examples in docstrings, with what they print."""
    out = []
    for doc in docs:
        try:
            examples = doctest.DocTestParser().get_examples(str(doc.value))
        except ValueError as error:  # their lines don't stand below each other
            out.append((doc.lineno, str(error)))
            continue
        for example in examples:
            text = (example.source + example.want).splitlines()
            out += [(doc.lineno + example.lineno + i, line) for i, line in enumerate(text)]
    return out


def table(columns: dict[str, House]) -> str:
    """The figures in Markdown.

    Args:
        columns: the measured trees by their titles.

    Returns:
        Lines of code by room with all lines in parentheses, then a line for each measure.
    """
    houses = list(columns.values())
    known = {place for house in houses for place in house.lines}
    order = [*ROOMS, *sorted({place.split("/")[0] for place in known} - set(ROOMS))]
    places = sorted(known, key=lambda place: (order.index(place.split("/")[0]), place))
    rows = [("lines of code (all lines)", *columns), ("---", *["---:"] * len(houses))]
    for place in places:
        rows.append((place, *(f"{h.code[place]:,} ({h.lines[place]:,})" for h in houses)))
    sums = (f"{h.code.total():,} ({h.lines.total():,})" for h in houses)
    rows.append(("**all rooms**", *(f"**{text}**" for text in sums)))
    for name in MEASURES:
        rows.append((name, *(f"{len(h.found[name]):,}" for h in houses)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def measure_revision(root: Path, revision: str) -> House:
    """Measures what a revision held.

    Args:
        root: the repository.
        revision: anything that git knows it by.

    Returns:
        The figures.

    Raises:
        subprocess.CalledProcessError: if git doesn't know it.
    """
    command = ["git", "-C", str(root), "archive", revision, *FOLDERS]
    archive = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        return measure(Path(folder))


def main(arguments: list[str]) -> int:
    """Prints the table.

    Args:
        arguments: as on the command line.

    Returns:
        0, or 1 where --check found a broken rule.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at", default="", help="another revision to set beside the tree")
    parser.add_argument("--check", action="store_true", help="status 1 where a rule is broken")
    parser.add_argument("--list", action="store_true", help="say where each figure comes from")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the tree")
    options = parser.parse_args(arguments)
    house = measure(options.root)
    columns = {options.at: measure_revision(options.root, options.at)} if options.at else {}
    print(table(columns | {"working tree": house}))
    broken = [name for name in RULES if house.found[name]] if options.check else []
    for name in MEASURES if options.list else broken:
        print(f"\n{name}: {len(house.found[name])}", *house.found[name], sep="\n  ")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
