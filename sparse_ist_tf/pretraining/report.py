"""The report of a pre-training: a table and a figure of its loss and accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.files import write_file

_CUT = {
    "sensor": "the sensor's images, each enlarged by itself (`masks.grid=sensor`)",
    "scaled": "images that are enlarged as a whole (`masks.grid=scaled`)",
}


def pretraining_rows(metrics: Sequence[Mapping]) -> list[tuple[str, ...]]:
    """The records in which something was tested, the titles first.

    Returns:
        Rows of equal length; "" where a record lacks a column.
    """
    tested = [record for record in metrics if any("@" in name for name in record)]
    names = dict.fromkeys(name for record in tested for name in record)
    names = ["loss"] * ("loss" in names) + [name for name in names if "@" in name]

    def cell(record, name):
        if name not in record:
            return ""
        value = record[name]
        return f"{100 * value:.2f} %" if "accuracy" in name else f"{value:.4f}"

    titles = [name.replace("_", " ").replace("@", " at ") for name in names]
    rows = [(f"{r['epoch']:.1f}", *(cell(r, name) for name in names)) for r in tested]
    return [("epoch", *titles), *rows]


def write_pretraining_report(folder: Path, config: Mapping, metrics: Sequence[Mapping]) -> None:
    """Writes report.md and pretraining.svg into a run directory.

    Raises:
        RunError: if a file can't be written.
    """
    from sparse_ist_tf.reports.figures import pretraining_figure

    titles, *rows = pretraining_rows(metrics)
    lines = [
        f"# {config['preset']} on {config['dataset']['name']}, {config['objective']}",
        "",
        f"{metrics[-1]['step']:,} steps of {config['batch_size']} images, seed {config['seed']}. "
        "Losses and accuracies are followed by the hidden share of the patches, which are cut from "
        f"{_CUT[config['masks']['grid']]}.",
        "",
        f"| {' | '.join(titles)} |",
        "|" + "---:|" * len(titles),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "![loss and accuracy over the epochs](pretraining.svg)",
        "",
    ]
    write_file(folder / "pretraining.svg", pretraining_figure(metrics))
    write_file(folder / "report.md", "\n".join(lines))
