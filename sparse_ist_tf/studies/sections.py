"""What the report says of one grid: its table, and the figures that its axes call for."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from sparse_ist_tf.reports.lines import Line, draw
from sparse_ist_tf.studies.results import MEASURES, paper_accuracy, points_of
from sparse_ist_tf.studies.words import label, settings, short, show
from sparse_ist_tf.workers.ledger import human_bytes

_SUBNETS, _TEST_RATIOS, _ENCODER = "ist.num_subnets", "masks.test_ratios", "encoder.weights"


class Section:
    """A grid with its results.

    Args:
        axes: keys, the first of them along the x axis.
        rows: from results.row_of, seeds side by side.
        metrics: from a row to the records of its metrics.jsonl.
    """

    def __init__(
        self,
        axes: Sequence[str],
        rows: Sequence[Mapping],
        metrics: Callable[[Mapping], Sequence[Mapping]],
    ):
        self.axes, self.rows, self.metrics = list(axes), rows, metrics
        self.points = points_of(rows, axes)
        first = [next(r for r in rows if all(r[a] == p[a] for a in axes)) for p in self.points]
        self.paper = [paper_accuracy(row) for row in first]
        if len(self.points) > 1 and len(set(self.paper)) == 1:  # of what the axes don't touch
            self.paper = [None] * len(self.points)
        # Axes of one value don't tell points apart: they are said once.
        self.fixed = [a for a in axes if all(p[a] == self.points[0][a] for p in self.points)]
        if len(self.fixed) == len(axes):
            self.fixed = self.fixed[1:]
        self.varied = [axis for axis in axes if axis not in self.fixed]

    @property
    def sends(self) -> bool:
        """Whether any of its trainings sent something."""
        return any(p["training_bytes"] and p["training_bytes"][0] for p in self.points)

    def intro(self) -> str:
        """What all its trainings have in common, one sentence or none."""
        return f"All with {settings(self.points[0], self.fixed)}." if self.fixed else ""

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text, the first the names of the columns."""
        columns = [
            (key, name) for key, name in MEASURES.items() if any(p[key] for p in self.points)
        ]
        known = any(value is not None for value in self.paper)
        rows = []
        for point, paper in zip(self.points, self.paper, strict=True):
            row = {short(axis): show(point[axis]) for axis in self.varied}
            row["seeds"] = str(point["seeds"])
            for key, name in columns:
                row[name] = percent(point, key)
                if known and key == "best_accuracy":
                    row["paper, at its best"] = "" if paper is None else f"{100 * paper:.2f} %"
            if self.sends:
                sent = point["training_bytes"]
                row["sent by a worker"] = human_bytes(sent[0]) if sent else ""
            rows.append(row)
        return [tuple(rows[0]), *(tuple(row.values()) for row in rows)]

    def figures(self) -> Iterator[tuple[str, str, str]]:
        """(what its file's name ends with, SVG, caption) of each figure."""
        bars = "bars are one standard deviation over seeds"
        if any(point["accuracy"] for point in self.points) and len(self.points) > 1:
            note = f"Merged head after the last step and at its best evaluation; {bars}"
            if any(value is not None for value in self.paper):
                note += ". Thin lines: the paper, which reports the best of one run"
            yield "", self._accuracies(), note
        if _ENCODER in self.varied and (curves := self._curves()):
            note = "Accuracy while training, mean over seeds"
            yield "_curves", curves, note
        if self.sends and (curves := self._bytes()):
            note = "Accuracy against what a worker has sent for training so far, mean over seeds"
            yield "_bytes", curves, note
        if _TEST_RATIOS in self.axes and (lines := self._test_ratios()):
            note = f"The finished head tested at other mask ratios than it was trained at; {bars}"
            yield "_test_ratios", lines, note
        if self.varied == [_SUBNETS] and (lines := self._missing()):
            note = (
                "Accuracy when only k of the N subnets can be reached, mean over which, over "
                f"seeds too; {bars}"
            )
            yield "_missing_workers", lines, note

    def _grouped(self) -> dict[str, list[int]]:
        """Places of the points of each line of a figure along the first varied axis."""
        groups: dict[str, list[int]] = {}
        for i, point in enumerate(self.points):
            name = settings(point, self.varied[1:]) or "merged head"
            groups.setdefault(name, []).append(i)
        return groups

    def _accuracies(self) -> str:
        axis, panels = self.varied[0], []
        groups = self._grouped()
        for key, title in (("accuracy", "after the last step"), ("best_accuracy", "at its best")):
            lines = []
            for name, group in groups.items():
                done = [self.points[i] for i in group if self.points[i][key]]
                x = [_place(point[axis]) for point in done]
                lines.append(Line.of_means(name, x, [point[key] for point in done]))
            panels.append((title, lines))
        for i, (name, group) in enumerate(groups.items()):
            known = [(self.points[j][axis], y) for j in group if (y := self.paper[j]) is not None]
            x, y = [_place(value) for value, _ in known], [y for _, y in known]
            lines.append(Line(f"{name}, paper", x, y, paper_of=i))
        return draw(panels, label(axis))

    def _mean_records(self) -> dict[str, list[dict]]:
        """Per point the records of metrics.jsonl, means over its finished seeds."""
        out = {}
        for point in self.points:
            runs = [
                self.metrics(row)
                for row in self.rows
                if row["status"] == "finished" and all(row[a] == point[a] for a in self.axes)
            ]
            keys = ("step", "test_accuracy", "train_accuracy", "training_bytes")
            out[settings(point, self.varied)] = [
                {key: sum(record[key] for record in records) / len(records) for key in keys}
                for records in zip(*runs, strict=False)
            ]
        return out

    def _curves(self) -> str:
        panels = []
        for title, key in (("test", "test_accuracy"), ("training batches", "train_accuracy")):
            lines = [
                Line(name, [r["step"] for r in records], [r[key] for r in records])
                for name, records in self._mean_records().items()
            ]
            panels.append((title, lines))
        if not any(line.x for line in panels[0][1]):
            return ""
        return draw(panels, "steps of a subnet", y_label="accuracy (%)", marks=False)

    def _bytes(self) -> str:
        lines = []
        for name, records in self._mean_records().items():
            sent = [record for record in records if record["training_bytes"]]
            x = [record["training_bytes"] / 1e6 for record in sent]
            lines.append(Line(name, x, [record["test_accuracy"] for record in sent]))
        if sum(len(line.x) > 0 for line in lines) < 2:
            return ""
        return draw([("", lines)], "sent by a worker for training (MB)", log=True)

    def _test_ratios(self) -> str:
        lines = []
        for point in self.points:
            found = {
                float(key.removeprefix("accuracy_at.")): value
                for key, value in point.items()
                if key.startswith("accuracy_at.") and value
            }
            if found:
                x = sorted(found)
                name = settings(point, [a for a in self.varied if a != _TEST_RATIOS])
                name = f"trained with {name}" if name else "merged head"
                lines.append(Line.of_means(name, x, [found[ratio] for ratio in x]))
        return draw([("", lines)], "mask ratio of the test images") if lines else ""

    def _missing(self) -> str:
        panels = []
        for what, title in (("merged", "their part of the merged head"), ("ensemble", "ensemble")):
            lines = []
            for point in self.points:
                x = range(1, point[_SUBNETS] + 1)
                found = [point.get(f"missing_workers.{kept}.{what}") for kept in x]
                if len(x) > 1 and all(found):
                    lines.append(Line.of_means(settings(point, self.varied), x, found))
            panels.append((title, lines))
        if not panels[0][1]:
            return ""
        return draw(panels, "subnets that can be reached, k")


def _place(value):
    """A number as it is, so that the axis is to scale; words for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return show(value)


def percent(point: Mapping, measure: str) -> str:
    """A mean, with the standard deviation where it is of several seeds; "" where there is none."""
    if not point[measure]:
        return ""
    mean, spread = (f"{100 * value:.2f}" for value in point[measure])
    return f"{mean} ± {spread} %" if point["seeds"] > 1 else f"{mean} %"
