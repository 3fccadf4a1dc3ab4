"""What a study that compares grids of masks says: how much of an accuracy a leak brings."""

import contextlib
import dataclasses
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.commands import quiet
from sparse_ist_tf.errors import RequestError, RunError, warn
from sparse_ist_tf.files import write_file
from sparse_ist_tf.reports.lines import Line, draw
from sparse_ist_tf.shown.bars import Bar
from sparse_ist_tf.studies.grid import Cell
from sparse_ist_tf.studies.words import show

GRID = "masks.grid"
_FILE = "leaks.json"
_IMAGES = 16  # that are attacked for a number
_RATIO, _SIZE = "masks.ratio", "encoder.image_size"
_DATA = ("dataset", "encoder", _SIZE)  # what a panel is of
_GRIDS = {"sensor": "on the sensor's pixels", "scaled": "on the scaled image"}
_BYTES = "bytes_per_image.patches_jpeg"
_SHARES = ("leak.close", "leak.mean_close")


def measure_leaks(cells: Iterable[Cell], folder: Path) -> None:
    """Attacks some images of every training that hides any; what is measured stays in leaks.json.

    One that can't be attacked, as images of unlike sizes have no mean, is left out with a warning.

    Raises:
        RunError: if the file can't be written or is damaged.
    """
    known = _stored(folder)
    todo = {_key(cell): cell for cell in cells if cell.config.masks.ratio}
    todo = {key: cell for key, cell in todo.items() if key not in known}
    if not todo:
        return
    with quiet():
        from sparse_ist_tf.benchmarks.leak import measure_leak
        from sparse_ist_tf.checkpoints.loading import load_configured
        from sparse_ist_tf.runs.parts import load_splits, mask_options
    with Bar(len(todo), "attacks", "trainings") as bar:
        for key, cell in todo.items():
            try:
                encoder, config = load_configured(cell.config.encoder), cell.config
                sizes = (encoder.image_size, encoder.patch_size)
                leak = measure_leak(load_splits(config), mask_options(config), *sizes, _IMAGES)
            except (RequestError, RunError) as error:
                warn(f"{cell.name}: no attack: {error}")
                continue
            finally:
                bar.update(1)
            found = {"recorded": leak.recorded, "scaled": leak.scaled}
            found |= dataclasses.asdict(leak.attack)
            known[key] = found | {f"mean_{k}": v for k, v in dataclasses.asdict(leak.mean).items()}
            write_file(folder / _FILE, json.dumps(known, indent=1, sort_keys=True) + "\n")


def leak_of(cell: Cell, folder: Path) -> dict[str, float]:
    """What was measured of a training, by columns such as "leak.close"; none where nothing was.

    Raises:
        RunError: if leaks.json is damaged.
    """
    found = _stored(folder).get(_key(cell), {})
    return {f"leak.{name}": value for name, value in found.items()}


def leak_sections(
    grids: Mapping[str, tuple[Sequence[str], Sequence[Mapping]]],
) -> dict[str, "LeakSection"]:
    """The part of a report that all grids with an axis masks.grid make together.

    Args:
        grids: (axes, rows) by the name of the grid; rows from results.row_of, with leak_of's.

    Returns:
        By name; nothing where no training of either grid has finished.
    """
    rows = {
        row["cell"]: row
        for axes, some in grids.values()
        if GRID in axes
        for row in some
        if row["status"] == "finished"
    }
    section = LeakSection(list(rows.values()))
    compared = any(set(_GRIDS) <= {g for g, _ in p.values} for p in section.panels)
    return {"leak": section} if compared else {}


class _Panel:
    """The trainings on one data set at one size.

    Args:
        rows: of finished trainings.
    """

    def __init__(self, rows: Sequence[Mapping]):
        self.rows = rows
        self.values: dict[tuple[str, float], dict[int, float]] = {}  # accuracies by seed
        for row in rows:
            point = self.values.setdefault((row[GRID], row[_RATIO]), {})
            point[row["seed"]] = row["accuracy"]
        name = rows[0]["dataset"].removeprefix("folder:").rstrip("/").rpartition("/")[2]
        recorded, scaled = self.mean("leak.recorded"), self.mean("leak.scaled")
        size = f"{recorded:.0f} to {scaled:.0f} px" if recorded else f"{rows[0][_SIZE] or ''} px"
        self.data, self.size = name, size if size != " px" else "the encoder's size"

    @property
    def ratios(self) -> list[float]:
        """In ascending order."""
        return sorted({ratio for _, ratio in self.values})

    def mean(self, key: str, **wanted: str | float) -> float | None:
        """The mean of a column, of rows with these settings alone, by grid and ratio."""
        found = [
            row[key]
            for row in self.rows
            if row.get(key) is not None
            and all(row[f"masks.{name}"] == value for name, value in wanted.items())
        ]
        return statistics.mean(found) if found else None

    def lost(self, grid: str, ratio: float) -> dict[int, float]:
        """By seed, how much lower the accuracy is than with nothing hidden."""
        whole, part = (self.values.get((grid, r), {}) for r in (0.0, ratio))
        return {seed: whole[seed] - part[seed] for seed in part if seed in whole}

    def hidden_loss(self, ratio: float) -> dict[int, float]:
        """By seed, how much more hiding costs where nothing leaks."""
        sensor, scaled = (self.lost(grid, ratio) for grid in _GRIDS)
        return {seed: sensor[seed] - scaled[seed] for seed in sensor if seed in scaled}


class LeakSection:
    """Accuracy with masks on the sensor's pixels and on the scaled image, and what leaks there."""

    def __init__(self, rows: Sequence[Mapping]):
        groups: dict[tuple, list[Mapping]] = {}
        for row in rows:
            groups.setdefault(tuple(row[key] for key in _DATA), []).append(row)
        self.panels = [_Panel(some) for some in groups.values()]

    def intro(self) -> str:
        """What the numbers are."""
        return (
            "With masks on the sensor's pixels a visible patch is made of its own pixels alone; on "
            "the scaled image, as in the paper, patches are blends with hidden neighbours where "
            "that enlarges. Lost is what hiding costs, against nothing hidden on the same grid; "
            "the leak hides the difference of both. Read by least squares are values of hidden "
            "pixels that an attacker who knows how images are scaled finds within 2.5 of 255 from "
            f"the visible patches, of {_IMAGES} test images; in brackets, those that the mean of "
            "training images has. Bytes are of the visible patches as JPEGs."
        )

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text, the first the names of the columns."""
        rows = []
        for panel in self.panels:
            for ratio in panel.ratios:
                row = {"data": panel.data, "scaled": panel.size, "hidden": show(ratio)}
                for grid in _GRIDS:
                    row[f"{grid}: accuracy"] = _percent(panel.values.get((grid, ratio), {}))
                    row[f"{grid}: lost"] = _percent(panel.lost(grid, ratio)) if ratio else ""
                row["hidden by the leak"] = _percent(panel.hidden_loss(ratio)) if ratio else ""
                for grid in _GRIDS:
                    shares = [panel.mean(key, grid=grid, ratio=ratio) for key in _SHARES]
                    known = None not in shares
                    text = "{:.1%} ({:.1%})".format(*shares).replace("%", " %") if known else ""
                    row[f"{grid}: read by least squares"] = text
                for grid in _GRIDS:
                    size = panel.mean(_BYTES, grid=grid, ratio=ratio)
                    row[f"{grid}: bytes"] = "" if size is None else f"{size:,.0f}"
                rows.append(row)
        return [tuple(rows[0]), *(tuple(row.values()) for row in rows)]

    def figures(self) -> Iterator[tuple[str, str, str]]:
        """(what its file's name ends with, SVG, caption) of each figure."""
        panels = []
        for panel in self.panels:
            lines = []
            for grid, name in (
                ("sensor", "on the sensor's pixels"),
                ("scaled", "on the scaled image"),
            ):
                x = [ratio for ratio in panel.ratios if (grid, ratio) in panel.values]
                points = [_mean(panel.values[grid, ratio].values()) for ratio in x]
                lines.append(Line.of_means(f"masks {name}", x, points))
            panels.append((f"{panel.data}\n{panel.size}", lines))
        caption = (
            "Merged head after the last step by hidden share, with masks on the sensor's pixels "
            "and on the scaled image; bars are one standard deviation over seeds"
        )
        yield "", draw(panels, "hidden share"), caption


def _mean(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    values = list(values)
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _percent(by_seed: Mapping[int, float]) -> str:
    if not by_seed:
        return ""
    mean, spread = (f"{100 * value:.2f}" for value in _mean(by_seed.values()))
    return f"{mean} ± {spread} %" if len(by_seed) > 1 else f"{mean} %"


def _key(cell: Cell) -> str:
    """What a leak depends on; the seed changes which pixels are hidden, not how many are read."""
    masks = cell.config.masks.to_dict()
    del masks["test_ratios"]
    dataset, encoder = cell.config.dataset, cell.config.encoder
    data = [dataset.name, dataset.split_seed, dataset.on_bad_image]
    return json.dumps([*data, encoder.weights, encoder.image_size, masks], sort_keys=True)


def _stored(folder: Path) -> dict[str, dict]:
    with contextlib.suppress(FileNotFoundError):
        try:
            found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RunError(f"{folder / _FILE} is damaged")
        return found
    return {}
