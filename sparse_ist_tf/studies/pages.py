"""The report of a study: one set of tables and figures, as Markdown and as a page of its own."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.reports.files import write_atomically
from sparse_ist_tf.reports.ledger import human_bytes
from sparse_ist_tf.reports.run_directory import RunDirectory, writing
from sparse_ist_tf.studies.figures import bytes_figure, grid_figure, show
from sparse_ist_tf.studies.results import as_csv, paper_accuracy, paper_results, points_of

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #8886; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { background: #fff; border-radius: 6px; max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
"""


def write_pages(
    folder: Path,
    title: str,
    base: Mapping,
    grids: Mapping[str, tuple[Sequence[str], Sequence[Mapping]]],
) -> None:
    """Writes report.md with its figures, report.html, results.csv and results.jsonl.

    Args:
        folder: of the study.
        title: of the pages.
        base: what all trainings share, as config.json has it.
        grids: (axes, rows) by the name of the grid; rows from results.row_of.

    Raises:
        RunError: if a file can't be written.

    Example:
        See sparse_ist_tf/study.py.
    """
    markdown, page = [f"# {title}", ""], [f"<h1>{html.escape(title)}</h1>"]

    def say(text):
        markdown.extend([text, ""])
        page.append(f"<p>{html.escape(text)}</p>")

    def tabulate(rows):
        head, *body = rows
        rule = "|".join(["---", *["---:"] * (len(head) - 1)])
        markdown.extend([_line(head), f"|{rule}|", *map(_line, body), ""])
        cells = "".join(
            "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>"
            for tag, row in (("th", head), *(("td", row) for row in body))
        )
        page.append(f'<div class="wide"><table>{cells}</table></div>')

    def draw(name, svg, caption):
        with writing(folder / f"{name}.svg"):
            write_atomically(folder / f"{name}.svg", svg)
        markdown.extend([f"![{caption}]({name}.svg)", ""])
        page.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")

    say(_settings(base))
    rows = {row["cell"]: row for _, some in grids.values() for row in some}
    bad = [row for row in rows.values() if row["status"] != "finished"]
    if bad:
        say(f"{len(bad)} of {len(rows)} trainings are not finished:")
        tabulate(
            [
                ("training", "what happened"),
                *((row["cell"], row["error"] or "not begun") for row in bad),
            ]
        )
    for name, (axes, some) in grids.items():
        markdown.extend([f"## {name}", ""])
        page.append(f"<h2>{html.escape(name)}</h2>")
        points = points_of(some, axes)
        firsts = [next(r for r in some if all(r[a] == p[a] for a in axes)) for p in points]
        paper = [paper_accuracy(row) for row in firsts]
        tabulate(_table(points, axes, paper))
        caption = "Merged head after the last step; bars are one standard deviation over seeds"
        draw(name, grid_figure(points, axes, paper), caption)
        curves = _byte_curves(folder, some, axes)
        if len(curves) > 1:
            draw(f"{name}_bytes", bytes_figure(curves), "Accuracy against bytes, the first seed")
    if any(paper_accuracy(row) is not None for row in rows.values()):
        say(f"The paper's numbers: {paper_results()['source']}.")
    _write(folder, title, markdown, page, list(rows.values()))


def _write(folder, title, markdown, page, rows) -> None:
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    files = {
        "report.md": "\n".join(markdown),
        "report.html": f"<!doctype html><html lang=en>{head}<body>{''.join(page)}</body></html>\n",
        "results.csv": as_csv(rows),
        "results.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    for name, text in files.items():
        with writing(folder / name):
            write_atomically(folder / name, text)


def _line(cells) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _settings(base: Mapping) -> str:
    durations = {"total_steps": "steps", "total_epochs": "epochs", "total_examples": "examples"}
    [lasts] = [f"{base[key]:g} {word}" for key, word in durations.items() if base[key]]
    hidden = "-".join(map(str, base["head"]["hidden"]))
    return (
        f"Data {base['dataset']['name']}, encoder {base['encoder']['weights']}, head with hidden "
        f"layers of {hidden}, {base['optimizer']['name']} at {base['learning_rate']:g}, batches of "
        f"{base['batch_size']}, {lasts}, {base['ist']['local_steps']} local steps a round, where a "
        "table doesn't say otherwise. Every subnet takes as many steps as the centralised head."
    )


def _table(points, axes, paper) -> list[tuple]:
    columns = [
        ("accuracy", "merged head"),
        ("best_accuracy", "best evaluation"),
        ("ensemble_accuracy", "ensemble"),
        ("centralized_accuracy", "centralised"),
    ]
    columns = [(key, title) for key, title in columns if any(point[key] for point in points)]
    sends = any(point["training_bytes"] and point["training_bytes"][0] for point in points)
    head = [*axes, "seeds", *(title for _, title in columns)]
    head += ["sent"] * sends + ["paper"] * any(value is not None for value in paper)
    rows = [tuple(head)]
    for point, known in zip(points, paper, strict=True):
        row = [show(point[axis]) for axis in axes] + [str(point["seeds"])]
        row += [_percent(point[key]) for key, _ in columns]
        if sends:
            row.append(human_bytes(point["training_bytes"][0]) if point["training_bytes"] else "")
        if "paper" in head:
            row.append("" if known is None else f"{100 * known:.2f} %")
        rows.append(tuple(row))
    return rows


def _percent(value) -> str:
    return f"{100 * value[0]:.2f} ± {100 * value[1]:.2f} %" if value else ""


def _byte_curves(folder, rows, axes) -> dict[str, list[tuple[float, float]]]:
    """Bytes and accuracy over a training, for the first seed of each point that sends any."""
    curves = {}
    for row in rows:
        name = ", ".join(show(row[axis]) for axis in axes)
        if row["status"] != "finished" or not row["training_bytes"] or name in curves:
            continue
        records = RunDirectory(folder / "cells" / row["cell"]).metrics()
        pairs = [(r["training_bytes"], r["test_accuracy"]) for r in records if r["training_bytes"]]
        if pairs:
            curves[name] = pairs
    return curves
