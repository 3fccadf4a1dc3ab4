"""The table that a run ends with, and report.md with its figures."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.errors import printable
from sparse_ist_tf.files import write_file
from sparse_ist_tf.workers.ledger import human_bytes

_MICRO_FLASH = 2**20  # bytes: what a large microcontroller has, of which docs/export.md tells


def accuracy_rows(results: Mapping) -> list[tuple[str, str]]:
    """Rows of the accuracy table of a finished run, from its results.json."""
    table = results["accuracy"]
    at = (results.get("accuracy_at") or {}).items()
    rows = [
        ("merged head", table["merged"]),
        ("merged head, best evaluation", results.get("best_accuracy")),
        *((f"subnet {i} alone", value) for i, value in enumerate(table["subnets"])),
        *(
            (f"ensemble of {i} subnet{'s' * (i > 1)}", value)
            for i, value in enumerate(table["ensembles"], 1)
        ),
        *((f"merged head, tested with mask ratio {ratio}", value) for ratio, value in at),
        ("centralised head, same steps as a worker", results.get("centralized_accuracy")),
    ]
    return [(what, f"{100 * value:.2f} %") for what, value in rows if value is not None]


def missing_rows(results: Mapping) -> list[tuple[str, str]]:
    """Rows of accuracies when workers are missing; none for a head that has no subnets."""
    table = results.get("missing_workers") or {}
    return [
        (f"any {kept} of {len(table)} subnets, {what}", f"{100 * row[what]:.2f} %")
        for what in ("merged", "ensemble")
        for kept, row in table.items()
    ]


def bytes_rows(results: Mapping) -> list[tuple[str, str, str]]:
    """Rows of what a worker sent for training: what, bytes for people, exact bytes."""
    # What workers agree on is some hundred bytes, which results.json has.
    sent = {purpose: count for purpose, count in results["bytes"].items() if purpose != "control"}
    rows = [(f"{results['algorithm']}: {purpose}", count) for purpose, count in sent.items()]
    rows.append((f"{results['algorithm']}: training in all", results["training_bytes"]))
    others = {} if results.get("devices") else results["synchronous_bytes"]
    for name, count in others.items():
        rows.append((f"{name} would have sent", count))
    return [(what, human_bytes(count), f"{count:,}") for what, count in rows]


def device_rows(results: Mapping) -> list[tuple[str, ...]]:
    """Rows of what was seen of devices, if devices trained: a line for each, the head first."""
    found = results.get("devices")
    if not found:
        return []
    head = ("device", "images", "rounds merged", "missing", "answers refused", "seconds of steps")
    rows = [
        (
            printable(name),
            *(f"{seen[key]:,}" for key in ("images", "merged", "missing", "refused")),
            f"{seen['seconds']:.1f}",
        )
        for name, seen in found["devices"].items()
    ]
    return [head, *rows]


def refusal_rows(results: Mapping) -> list[tuple[str, str]]:
    """Rows of how often what devices sent was refused, by what was wrong with it."""
    found = (results.get("devices") or {}).get("refusals", {})
    return [(f"refused: {kind}", f"{count:,}") for kind, count in found.items()]


def image_rows(results: Mapping) -> list[tuple[str, str]]:
    """Rows of what an image costs on a link, in bytes."""
    sizes = results["bytes_per_image"]
    names = {
        "image_jpeg": "whole image, a JPEG file of quality {quality}",
        "image_jpeg_message": "the same as a message, without the header of all such files",
        "patches_raw": "visible patches, raw",
        "patches_jpeg": "visible patches, JPEG of quality {quality}",
        "patches_jpeg_bitmap": "those with its mask as a bitmap",
        "feature_float32": "feature, float32",
        "feature_float16": "feature, float16",
        **{f"feature_{name}": f"feature, {name}" for name in ("int8", "int4", "int3", "int2")},
    }
    rows = [(text, sizes[what]) for what, text in names.items() if what in sizes]
    return [(text.format(**sizes), f"{size:,.0f}") for text, size in rows]


def where_masks_lie(masks: Mapping) -> str:
    """Which image the grid of a configuration's masks is laid over, as a sentence."""
    if masks.get("grid", "scaled") == "sensor":
        return "Masks hide pixels of the image as it was recorded."
    return "Masks on the scaled image (leaks where images are enlarged): masks.grid=scaled."


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(["", first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown, the last one empty; the first row is the head."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    head, *body = (" ".join(f"| {cell}".rstrip() for cell in row) + " |" for row in escaped)
    return [head, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *body, ""]


def summary(results: Mapping) -> str:
    """What train prints at the end, from the run's results.json."""
    sent = "Bytes sent per worker: none, there was one worker"
    if seen := results.get("devices"):
        rows = [("to devices", human_bytes(seen["sent"]))]
        rows += [("from devices", human_bytes(seen["received"])), *refusal_rows(results)]
        sent = f"Bytes of messages, and what was refused\n{format_table(rows)}"
    elif results["num_workers"] > 1:
        table = format_table(bytes_rows(results))
        sent = f"Bytes sent per worker ({results['num_workers']} workers)\n{table}"
    head = f"Test accuracy ({results['test_size']:,} images)"
    return "\n".join([head, format_table(accuracy_rows(results)), sent])


def next_steps(
    folder: str | Path, config: Mapping, results: Mapping, plugins: Sequence[str] = ()
) -> list[str]:
    """What train says may follow, a line each.

    Args:
        folder: the run directory.
        config: the run's configuration.
        results: its results.json; of versions before 0.2.0 without "int8_bytes".
        plugins: what --plugin named.
    """
    about = f"--run={shlex.quote(str(folder))}"
    more = f" --plugin={shlex.quote(','.join(plugins))}" if plugins else ""
    lines = [f"Next: python -m sparse_ist_tf.evaluate {about}{more}"]
    size = results.get("int8_bytes", 0)
    if size is None or config["encoder"]["weights"].startswith("resnet50:"):
        return lines
    lines.append(f"      python -m sparse_ist_tf.export {about}{more} --target=phone  # or coral")
    if 0 < size <= _MICRO_FLASH:
        lines.append(f"      python -m sparse_ist_tf.export {about}{more} --target=micro")
    kind = config["masks"]["kind"]
    if kind != "shared":
        lines.append(
            "      A one-file classifier for a camera needs masks.kind=shared; "
            f"this run has {kind} masks."
        )
    return lines


def write_report(
    folder: Path, config: Mapping, results: Mapping, metrics: Sequence[Mapping]
) -> None:
    """Writes report.md and its figures from what a run directory's other files hold.

    Raises:
        RunError: if a file can't be written.
    """
    from sparse_ist_tf.reports.figures import training_figure

    write_file(folder / "training.png", training_figure(metrics))
    missing = missing_rows(results)
    if missing:
        missing.insert(0, ("accuracy when only some subnets can be reached, mean over which", ""))
    accuracy = f"accuracy on {results['test_size']:,} test images"
    devices, refused = device_rows(results), refusal_rows(results)
    where = f"{len(devices) - 1} devices" if devices else f"{results['num_workers']} workers"
    sent = "bytes of blocks to and from devices" if devices else "bytes that a worker sent"
    of_an_image = f"bytes of an image, mean of {results['bytes_per_image']['images']} test images"
    lines = [
        f"# {config['dataset']['name']}, {config['masks']['kind']} masks at "
        f"{config['masks']['ratio']}, {results['algorithm']}",
        "",
        f"{results['steps']:,} steps of {config['batch_size']} examples per subnet, "
        f"{results['num_subnets']} subnets on {where}, encoder "
        f"`{config['encoder']['weights']}`, seed {config['seed']}. "
        f"{where_masks_lie(config['masks'])}",
        "",
        *markdown_table([(accuracy, ""), *accuracy_rows(results)]),
        "![loss, accuracy and bytes over the steps](training.png)",
        "",
        *(markdown_table(missing) if missing else []),
        *(markdown_table(devices) if devices else []),
        *(markdown_table([("what devices sent", ""), *refused]) if refused else []),
        *markdown_table([(sent, "", "exactly"), *bytes_rows(results)]),
        *markdown_table([(of_an_image, ""), *image_rows(results)]),
        "![what is visible of some test images](masks.png)",
        "",
    ]
    write_file(folder / "report.md", "\n".join(lines))
