"""The report of a study: one set of tables and figures, as Markdown and as a page of its own."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.files import write_file
from sparse_ist_tf.reports.report import markdown_table, where_masks_lie
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.studies import words
from sparse_ist_tf.studies.leaks import leak_sections
from sparse_ist_tf.studies.links import link_sections
from sparse_ist_tf.studies.results import as_csv, paper_accuracy, paper_results
from sparse_ist_tf.studies.sections import Section

_CAVEATS = (
    "Where the paper has a number, it stands beside ours: the highest test accuracy of 30 epochs, "
    "of one run, with a masked autoencoder ViT-B/16 at 224 px (in figure 3 also a ResNet-50) and "
    "the published code. So it is to be compared with ours at its best evaluation, which is chosen "
    "on the test images and therefore flatters; and encoders differ in what they were trained on. "
    "Source: {source}."
)
_SHARES = {
    False: "Every subnet takes as many steps as the centralised head.",
    True: "N subnets take as many steps together as the centralised head, each 1/N of them.",
}
_MANY = 7  # columns, above which a table is set smaller, so that it fits 1,100 px
_LONG = 30  # characters, above which a table's cell may have lines
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #8886; text-align: right; }
td { white-space: nowrap; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 10rem; }
.many { font-size: 13px; line-height: 1.35; }
.many th, .many td { padding: .2rem .35rem; white-space: normal; }
th:first-child, td:first-child, .long { text-align: left; }
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
        grids: (axes, rows) by the name of the grid; rows from results.row_of, with leak_of's.

    Raises:
        RunError: if a file can't be written.
    """
    markdown, page = [f"# {title}", ""], [f"<h1>{html.escape(title)}</h1>"]

    def say(text):
        markdown.extend([text, ""])
        page.append(f"<p>{html.escape(text)}</p>")

    def tabulate(rows):
        markdown.extend(markdown_table(rows))
        long = [any(len(text) > _LONG for text in column) for column in zip(*rows, strict=True)]
        cells = "".join(
            f"<tr>{''.join(map(_cell, ['td' if i else 'th'] * len(row), row, long))}</tr>"
            for i, row in enumerate(rows)
        )
        kind = " class=many" * (len(rows[0]) > _MANY)
        page.append(f'<div class="wide"><table{kind}>{cells}</table></div>')

    def draw(name, svg, caption):
        write_file(folder / f"{name}.svg", svg)
        markdown.extend([f"![{caption}]({name}.svg)", ""])
        page.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")

    say(_settings(base))
    rows = {row["cell"]: row for _, some in grids.values() for row in some}
    bad = [row for row in rows.values() if row["status"] != "finished"]
    if bad:
        failed = [(row["cell"], row["error"]) for row in bad if row["status"] == "failed"]
        say(
            f"{len(bad)} of {len(rows)} trainings are not finished; "
            f"{len(failed)} failed{':' if failed else '.'}"
        )
        if failed:
            tabulate([("training", "what happened"), *failed])
    if any(paper_accuracy(row) is not None for row in rows.values()):
        say(_CAVEATS.format(source=paper_results()["source"]))

    def metrics(row):
        return RunDirectory(folder / "cells" / row["cell"]).metrics()

    sections = {name: Section(axes, some, metrics) for name, (axes, some) in grids.items()}
    for name, section in (leak_sections(grids) | sections | link_sections(grids)).items():
        markdown.extend([f"## {words.title(name)}", ""])
        page.append(f"<h2>{html.escape(words.title(name))}</h2>")
        if intro := section.intro():
            say(intro)
        tabulate(section.table())
        for ending, svg, caption in section.figures():
            draw(f"{name}{ending}", svg, caption)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    files = {
        "report.md": "\n".join(markdown),
        "report.html": f"<!doctype html><html lang=en>{head}<body>{''.join(page)}</body></html>\n",
        "results.csv": as_csv(list(rows.values())),
        "results.jsonl": "".join(json.dumps(row) + "\n" for row in rows.values()),
    }
    for name, text in files.items():
        write_file(folder / name, text)


def _cell(tag: str, text: str, long: bool) -> str:
    shown = html.escape(text).replace(" %", "&nbsp;%").replace("± ", "±&nbsp;")
    if tag == "th":  # a key may have lines
        shown = re.sub(r"([._])(?=\w)", r"\1<wbr>", shown)
    return f"<{tag}{' class=long' * long}>{shown}</{tag}>"


def _round(ist: Mapping) -> str:
    steps = ist["local_steps"]
    return f"{steps} local steps a round" if steps else f"rounds for a {ist['link']} link"


def _settings(base: Mapping) -> str:
    durations = {"total_steps": "steps", "total_epochs": "epochs", "total_examples": "examples"}
    [lasts] = [f"{base[key]:g} {word}" for key, word in durations.items() if base[key]]
    hidden = "-".join(map(str, base["head"]["hidden"]))
    return (
        f"Data {base['dataset']['name']}, encoder {base['encoder']['weights']}, head with hidden "
        f"layers of {hidden}, {base['optimizer']['name']} at {base['learning_rate']:g}, batches of "
        f"{base['batch_size']}, {lasts}, {_round(base['ist'])}, where a "
        f"table doesn't say otherwise. {_SHARES[base['share_total']]} Means and standard "
        f"deviations are over the seeds. {where_masks_lie(base['masks'])}"
    )
