"""A labels.csv beside pictures: which file is of which class, and perhaps of which part."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from sparse_ist_tf.errors import RequestError, printable
from sparse_ist_tf.inputs.layouts.parts import PARTS_SHOWN, role_of
from sparse_ist_tf.inputs.pictures import EXTENSIONS

NAMES = ("labels.csv", "metadata.csv")
_COLUMNS = {
    "file": (
        *("file", "filename", "file_name", "filepath", "file_path", "path"),
        *("image", "image_name", "image_path", "image_id", "img", "id"),
    ),
    "label": ("label", "labels", "class", "class_name", "category", "target"),
    "split": ("split", "part", "subset", "set", "partition"),
}


class Row(NamedTuple):
    """A picture of a table.

    Args:
        path: below the folder.
        label: its class.
        role: "train", "test" or "val"; empty where nothing says so.
    """

    path: str
    label: str
    role: str


def find_table(folder: Path) -> Path | None:
    """The table of a folder, in any case of letters; None where there is none."""
    found = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_file()}
    return next((found[name] for name in NAMES if name in found), None)


def read_table(table: Path, paths: Iterable[str]) -> list[Row] | None:
    """Reads a table of labels.

    A file may be named by its path below the folder, by its name where that is there once, and
    without its extension. Without a column for parts, folders such as train/ say them.

    Args:
        table: a CSV file with a header; commas, semicolons or tabs between.
        paths: of all pictures below the folder.

    Returns:
        A row for every picture that is named, by path; None where the header names no column for
        files, or none for labels.

    Raises:
        RequestError: naming the line, where a picture isn't there or is named with two labels, or a
            cell is empty or no part.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{table}: can't be read as UTF-8 text ({error})") from None
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = _columns(table, reader.fieldnames or ())
        if columns is None:
            return None
        places = _places(paths)
        rows: dict[str, Row] = {}
        for cells in reader:
            where = f"{table}, line {reader.line_num}"
            row = _row(where, cells, columns, places)
            if rows.setdefault(row.path, row) != row:
                raise RequestError(
                    f"{where}: {printable(row.path)} has another label or part above"
                )
    except csv.Error as error:
        raise RequestError(f"{table}, line {reader.line_num}: is no CSV ({error})") from None
    if not rows:
        raise RequestError(f"{table}: names no pictures")
    return [rows[path] for path in sorted(rows)]


def _columns(table: Path, header: Iterable[str]) -> dict[str, str] | None:
    """The header's names for file, label and split."""
    known = {(name or "").strip().lower().replace(" ", "_"): name for name in header}
    found = {
        what: known[name]
        for what, names in _COLUMNS.items()
        for name in names[::-1]
        if name in known
    }
    return found if {"file", "label"} <= found.keys() else None


def _places(paths: Iterable[str]) -> Mapping[str, set[str]]:
    """Paths by all that may name them."""
    found: dict[str, set[str]] = {}
    for path in paths:
        name = os.path.basename(path)
        for called in {path, name, os.path.splitext(path)[0], os.path.splitext(name)[0]}:
            found.setdefault(called, set()).add(path)
    return found


def _row(where: str, cells: Mapping, columns: Mapping[str, str], places: Mapping) -> Row:
    cell = {what: (cells.get(name) or "").strip() for what, name in columns.items()}
    for what in columns:
        if not cell[what]:
            raise RequestError(f"{where}: {columns[what]} is empty")
    wanted = os.path.normpath(cell["file"].replace("\\", "/"))
    found = places.get(wanted, set())
    if wanted in found:
        found = {wanted}
    if len(found) != 1:
        what = f"{len(found)} pictures are called that" if found else "no such picture"
        known = "" if found else f" of {', '.join(EXTENSIONS)}"
        raise RequestError(f"{where}: {printable(cell['file'])}: {what}{known}")
    [path] = found
    if "split" not in columns:
        first, _, behind = path.partition("/")
        role = role_of(first) if behind else None
        return Row(path, cell["label"], role.role if role else "")
    role = role_of(cell["split"])
    if not role:
        raise RequestError(
            f"{where}: {columns['split']} {cell['split']!r}: must be one of {PARTS_SHOWN}"
        )
    return Row(path, cell["label"], role.role)
