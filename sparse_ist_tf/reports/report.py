"""The table that a run ends with, and report.md with its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.files import write_atomically
from sparse_ist_tf.workers.ledger import human_bytes


def accuracy_rows(results: Mapping) -> list[tuple[str, str]]:
    """Rows of the accuracy table.

    Args:
        results: of a finished run, as results.json has it.
    """
    table = results["accuracy"]
    percent = "{:.2f} %".format
    rows = [("merged head", percent(100 * table["merged"]))]
    if results.get("best_accuracy") is not None:
        rows.append(("merged head, best evaluation", percent(100 * results["best_accuracy"])))
    for i, value in enumerate(table["subnets"]):
        rows.append((f"subnet {i} alone", percent(100 * value)))
    for i, value in enumerate(table["ensembles"]):
        rows.append((f"ensemble of {i + 1} subnet{'s' * (i > 0)}", percent(100 * value)))
    for ratio, value in (results.get("accuracy_at") or {}).items():
        rows.append((f"merged head, tested with mask ratio {ratio}", percent(100 * value)))
    if results.get("centralized_accuracy") is not None:
        value = percent(100 * results["centralized_accuracy"])
        rows.append(("centralised head, same steps as a worker", value))
    return rows


def missing_rows(results: Mapping) -> list[tuple[str, str]]:
    """Rows of the table of accuracies when workers are missing.

    Args:
        results: of a finished run, as results.json has it.

    Returns:
        (what, percent) pairs; none for a head that has no subnets.
    """
    table = results.get("missing_workers") or {}
    return [
        (f"any {kept} of {len(table)} subnets, {what}", f"{100 * row[what]:.2f} %")
        for what in ("merged", "ensemble")
        for kept, row in table.items()
    ]


def bytes_rows(results: Mapping) -> list[tuple[str, str, str]]:
    """Rows of the table of bytes that a worker sent for training.

    Args:
        results: of a finished run, as results.json has it.

    Returns:
        (what, bytes for people, exact bytes) triples.
    """
    # What workers agree on is some hundred bytes, which results.json has.
    sent = {purpose: count for purpose, count in results["bytes"].items() if purpose != "control"}
    rows = [(f"{results['algorithm']}: {purpose}", count) for purpose, count in sent.items()]
    rows.append((f"{results['algorithm']}: training in all", results["training_bytes"]))
    for name, count in results["synchronous_bytes"].items():
        rows.append((f"{name} would have sent", count))
    return [(what, human_bytes(count), f"{count:,}") for what, count in rows]


def image_rows(results: Mapping) -> list[tuple[str, str]]:
    """Rows of the table of what an image costs on a link.

    Args:
        results: of a finished run, as results.json has it.

    Returns:
        (what, bytes) pairs.
    """
    sizes = results["bytes_per_image"]
    names = {
        "image_jpeg": "whole image, JPEG of quality {quality}",
        "patches_raw": "visible patches, raw",
        "patches_jpeg": "visible patches, JPEG of quality {quality}",
        "patches_jpeg_bitmap": "the same with its mask as a bitmap",
        "feature_float32": "feature, float32",
        "feature_float16": "feature, float16",
        "feature_int8": "feature, int8",
    }
    rows = [(text, sizes[what]) for what, text in names.items() if what in sizes]
    return [(text.format(**sizes), f"{size:,.0f}") for text, size in rows]


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells))
    return "\n".join(lines)


def summary(results: Mapping) -> str:
    """What train prints at the end.

    Args:
        results: of a finished run, as results.json has it.
    """
    lines = [f"Test accuracy ({results['test_size']:,} images)"]
    lines.append(format_table(accuracy_rows(results)))
    if results["num_workers"] == 1:
        lines.append("Bytes sent per worker: none, there was one worker")
    else:
        lines.append(f"Bytes sent per worker ({results['num_workers']} workers)")
        lines.append(format_table(bytes_rows(results)))
    return "\n".join(lines)


def write_report(
    folder: Path, config: Mapping, results: Mapping, metrics: Sequence[Mapping]
) -> None:
    """Writes report.md and its figures.

    Args:
        folder: the run directory.
        config: as config.json has it.
        results: as results.json has it.
        metrics: the records of metrics.jsonl.

    Raises:
        RunError: if a file can't be written.
    """
    from sparse_ist_tf.reports.figures import training_figure

    write_atomically(folder / "training.png", training_figure(metrics))
    lines = [
        f"# {config['dataset']['name']}, {config['masks']['kind']} masks at "
        f"{config['masks']['ratio']}, {results['algorithm']}",
        "",
        f"{results['steps']:,} steps of {config['batch_size']} examples per subnet, "
        f"{results['num_subnets']} subnets on {results['num_workers']} workers, encoder "
        f"`{config['encoder']['weights']}`, seed {config['seed']}.",
        "",
        f"| accuracy on {results['test_size']:,} test images | |",
        "|---|---:|",
        *(f"| {what} | {value} |" for what, value in accuracy_rows(results)),
        "",
        "![loss, accuracy and bytes over the steps](training.png)",
        "",
        *_missing_lines(results),
        "| bytes that a worker sent | | exactly |",
        "|---|---:|---:|",
        *(f"| {what} | {short} | {exact} |" for what, short, exact in bytes_rows(results)),
        "",
        f"| bytes of an image, mean of {results['bytes_per_image']['images']} test images | |",
        "|---|---:|",
        *(f"| {what} | {size} |" for what, size in image_rows(results)),
        "",
        "![what is visible of some test images](masks.png)",
        "",
    ]
    write_atomically(folder / "report.md", "\n".join(lines))


def _missing_lines(results) -> list[str]:
    rows = missing_rows(results)
    if not rows:
        return []
    return [
        "| accuracy when only some subnets can be reached, mean over which | |",
        "|---|---:|",
        *(f"| {what} | {value} |" for what, value in rows),
        "",
    ]
