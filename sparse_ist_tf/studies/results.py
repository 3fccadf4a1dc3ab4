"""What the trainings of a study came to: a row each, and means over the seeds."""

import csv
import functools
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.studies.grid import Cell

# What is measured, and what a table's column of it is called.
MEASURES = {
    "accuracy": "merged head, at the end",
    "best_accuracy": "at its best evaluation",
    "ensemble_accuracy": "ensemble",
    "centralized_accuracy": "centralised head",
    "centralized_best_accuracy": "at its best",
}
# Tables in results.json that become columns of their own, such as "accuracy_at.0.5", and what
# leaks.json has of a training.
TABLES = ("accuracy_at", "missing_workers", "bytes_per_image", "leak")
# The paper's curves by kind of masks and number of subnets.
_CURVES = {
    ("fixed", 1): "table4_fixed_max_acc",
    ("fixed", 2): "fig7_2workers",
    ("fixed", 4): "fig7_4workers",
    ("random", 1): "fig4_random",
}


def row_of(cell: Cell, folder: Path) -> dict:
    """A training and its results.

    Returns:
        "cell", "status" ("finished", "failed" or "missing"), "error", the cell's settings by key,
        "seed", accuracies in [0, 1] by MEASURES, "steps" and "training_bytes" per worker, None
        where there is none; and what TABLES hold, such as "missing_workers.2.merged".
    """
    config = cell.config
    row = {
        "cell": cell.name,
        "status": "missing",
        "error": None,
        "dataset": config.dataset.name,
        "encoder": config.encoder.weights,
        "encoder.image_size": config.encoder.image_size,
        "num_workers": cell.num_workers,
        "share_total": config.share_total,
        **{
            key: value
            for name in ("masks", "ist", "transport")
            for key, value in _columns(name, config[name].to_dict())
        },
        **cell.values,
        "seed": config.seed,
        **dict.fromkeys((*MEASURES, "steps", "training_bytes")),
    }
    place = folder / "cells" / cell.name
    try:
        results = RunDirectory(place).results()
    except RunError as error:
        return row | {"status": "failed", "error": str(error)}
    if results is None:
        error = _last_error(place.with_name(f"{cell.name}.log"))
        return row | {"status": "failed" if error else "missing", "error": error}
    ensembles = results["accuracy"]["ensembles"]
    same = ("best_accuracy", "centralized_accuracy", "centralized_best_accuracy", "steps")
    return row | {
        **{name: results[name] for name in (*same, "training_bytes")},
        "status": "finished",
        "accuracy": results["accuracy"]["merged"],
        "ensemble_accuracy": ensembles[-1] if ensembles else None,
        **{k: v for name in TABLES for k, v in _columns(name, results.get(name))},
    }


def _columns(name: str, table) -> Iterator[tuple[str, Any]]:
    """What nested dictionaries hold, by its path."""
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from _columns(f"{name}.{key}", value)
    elif table is not None:
        yield name, table


def _last_error(log: Path) -> str | None:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it ended without a word"])[-1].removeprefix("error: ")


def points_of(rows: Sequence[Mapping], axes: Sequence[str]) -> list[dict]:
    """Means over the seeds.

    Args:
        rows: from row_of.
        axes: keys that tell the points of a grid apart.

    Returns:
        A dictionary per point, in the order of the rows: the axes' values, "seeds" (how many are
        finished), and for each of MEASURES, "training_bytes" and the columns of TABLES (mean,
        standard deviation), 0 for a single seed; None where no seed has it.
    """
    tables = tuple(f"{name}." for name in TABLES)
    columns = [k for k in dict.fromkeys(k for row in rows for k in row) if k.startswith(tables)]
    points: dict[str, list] = {}
    for row in rows:
        points.setdefault(json.dumps([row[axis] for axis in axes]), []).append(row)
    out = []
    for group in points.values():
        done = [row for row in group if row["status"] == "finished"]
        point = {axis: group[0][axis] for axis in axes} | {"seeds": len(done)}
        for measure in (*MEASURES, "training_bytes", *columns):
            values = [row[measure] for row in done if row.get(measure) is not None]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            point[measure] = (statistics.mean(values), spread) if values else None
        out.append(point)
    return out


@functools.cache
def paper_results() -> dict:
    """The paper's own numbers, as paper_results.json beside this file has them.

    Returns:
        "source", "mask_ratio" and "mask_ratio_4w", and curves by name and data set, in [0, 1].
    """
    path = Path(__file__).parent / "paper_results.json"
    return json.loads(path.read_text(encoding="utf-8"))


def paper_accuracy(row: Mapping) -> float | None:
    """What the paper reports for a row's data set, masks, kind of encoder and number of subnets.

    Source: paper table 4 and figures 3, 4 and 7: the maximum over the epochs, one run, MAE
    ViT-B/16 (in figure 3 also ResNet-50).

    Returns:
        In [0, 1]; None where the paper has no such run.
    """
    paper, dataset = paper_results(), row["dataset"].upper()
    whole = row["ist.algorithm"] == "centralized"
    subnets = 1 if whole else row["ist.num_subnets"]
    if not (whole or row["ist.algorithm"] == "ist") or (subnets > 1 and row["share_total"]):
        return None
    if row["encoder"].startswith("resnet50:"):
        known = dataset == "CIFAR10" and row["masks.ratio"] == 0 and subnets == 1
        return paper["fig3_cifar10_unmasked"]["R50_test_max"] if known else None
    curve = paper.get(_CURVES.get((row["masks.kind"], subnets)), {})
    ratios = paper["mask_ratio_4w" if subnets == 4 else "mask_ratio"]
    if dataset not in curve or row["masks.ratio"] not in ratios:
        return None
    return curve[dataset][ratios.index(row["masks.ratio"])]


def as_csv(rows: Sequence[Mapping]) -> str:
    """The rows below a line of names, as results.csv has them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
