"""What a study says to someone with a thin link: bytes of an image, and accuracy against them."""

from collections.abc import Iterator, Mapping, Sequence

from sparse_ist_tf.reports.lines import Line, draw
from sparse_ist_tf.studies.results import points_of
from sparse_ist_tf.studies.sections import percent
from sparse_ist_tf.studies.words import label, settings, show

_CODEC, _QUALITY, _FEATURES = "transport.codec", "transport.quality", "transport.features"
_RATIO = "masks.ratio"
_GRID, _SIZE = "masks.grid", "encoder.image_size"
_OF_IMAGES = ("dataset", "encoder", _GRID, _SIZE)  # what their bytes depend on besides
_OF_A_LINK = (_CODEC, _QUALITY, _FEATURES, _RATIO)
_KIND_OF = {"jpeg": "image_jpeg_message", "patches": "patches_jpeg", "raw": "patches_raw"}
_KINDS = {
    "image_jpeg": "whole image, JPEG file",
    "image_jpeg_message": "whole image, JPEG",
    "patches_raw": "visible patches, raw",
    "patches_jpeg": "visible patches, JPEG",
    "feature_float32": "feature, float32",
    "feature_float16": "feature, float16",
    **{f"feature_{name}": f"feature, {name}" for name in ("int8", "int4", "int3", "int2")},
}
_MEANS = "means of test images that were really encoded"
_HEADERS = (
    "JPEGs are messages without the header of some 600 bytes that all JPEG files of a size and a "
    "quality have in common, whole images too; as a file an image has it."
)


def link_sections(
    grids: Mapping[str, tuple[Sequence[str], Sequence[Mapping]]],
) -> dict[str, "AccuracyOfLinks | BytesOfImages"]:
    """The parts of a report that all grids make together.

    Args:
        grids: (axes, rows) by the name of the grid; rows from results.row_of.

    Returns:
        By name; what the grids have no numbers for is left out.
    """
    sections: dict[str, AccuracyOfLinks | BytesOfImages] = {}
    varied = {
        name: (axes, rows)
        for name, (axes, rows) in grids.items()
        if any(axis.startswith("transport.") for axis in axes)
    }
    links = AccuracyOfLinks(varied)
    if len(links.points) > 1:
        sections["accuracy_and_bytes_of_an_image"] = links
    rows = {row["cell"]: row for _, some in grids.values() for row in some}
    data: dict[tuple, list[Mapping]] = {}
    for row in rows.values():
        data.setdefault(tuple(row.get(key) for key in _OF_IMAGES), []).append(row)
    for i, key in enumerate(sorted(data, key=str), 1):
        images = BytesOfImages(data[key])
        if len(images.sizes) > 1:
            number = f"_{i}" if len(data) > 1 else ""
            sections[f"bytes_of_an_image{number}"] = images
    return sections


class AccuracyOfLinks:
    """Accuracy against the bytes of an image, from all grids that vary what crosses the link.

    Where no codec is set the encoder stands at the sensor, and it is the feature that crosses.
    """

    def __init__(self, grids: Mapping[str, tuple[Sequence[str], Sequence[Mapping]]]):
        rows = {row["cell"]: row for _, some in grids.values() for row in some}
        axes = list(dict.fromkeys(axis for axes, _ in grids.values() for axis in axes))
        axes = [axis for axis in axes if axis not in _OF_A_LINK]
        some = [row for row in rows.values() if all(axis in row for axis in axes)]
        self.others = [axis for axis in axes if len({show(row[axis]) for row in some}) > 1]
        points = points_of(some, [*_OF_A_LINK, *self.others])
        self.points = sorted((p for p in points if _bytes(p)), key=lambda p: _bytes(p) or 0)

    def intro(self) -> str:
        """What is counted."""
        return (
            f"Bytes of an image on the link are {_MEANS}, of messages with all that they hold. "
            "Where a feature crosses, the encoder stands at the sensor; elsewhere at the receiver. "
            f"{_HEADERS}"
        )

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text, the first the names of the columns, by ascending bytes."""
        best = [id(point) for point in _front(self.points)]
        rows = []
        for point in self.points:
            feature = f", {point[_FEATURES]}" if point[_CODEC] == "none" else ""
            coded = point[_CODEC] in ("jpeg", "patches")
            row = {
                "what crosses the link": self._line(point) + feature,
                "JPEG quality": show(point[_QUALITY]) if coded else "",
                "mask ratio": show(point[_RATIO]),
                "seeds": str(point["seeds"]),
                "bytes": f"{_bytes(point):,.0f}",
                "merged head, at the end": percent(point, "accuracy"),
                "at its best evaluation": percent(point, "best_accuracy"),
                "most accurate for its bytes": "yes" if id(point) in best else "",
            }
            rows.append(row)
        return [tuple(rows[0]), *(tuple(row.values()) for row in rows)]

    def figures(self) -> Iterator[tuple[str, str, str]]:
        """(what its file's name ends with, SVG, caption) of each figure."""
        groups: dict[str, list[Mapping]] = {}
        for point in self.points:
            groups.setdefault(self._line(point), []).append(point)
        lines = []
        for name in sorted(groups):
            front = _front(groups[name])
            x = [_bytes(point) for point in front]
            lines.append(Line.of_means(name, x, [point["accuracy"] for point in front]))
        caption = (
            "Merged head after the last step, of each kind the most accurate of those that need at "
            f"most so many bytes; bytes are {_MEANS}, bars one standard deviation over seeds"
        )
        yield "", draw([("", lines)], "bytes of an image on the link", log=True), caption

    def _line(self, point) -> str:
        """What a line of the figure is called."""
        kind = _KIND_OF.get(point[_CODEC])
        words = [_KINDS[kind] if kind else "feature"]
        if kind and point[_FEATURES] != "float32":
            words.append(f"features in {point[_FEATURES]}")
        return ", ".join(filter(None, [*words, settings(point, self.others)]))


class BytesOfImages:
    """Bytes of an image in each form that all rows have; they have one data set, encoder, grid.

    Source: paper figures 5 and 6, which count raw float32.
    """

    def __init__(self, rows: Sequence[Mapping]):
        done = [row for row in rows if row.get("bytes_per_image.quality")]
        # JPEGs of one quality: that which most mask ratios have, the finest of those.
        ratios: dict[int, set[float]] = {}
        for row in done:
            ratios.setdefault(row["bytes_per_image.quality"], set()).add(row[_RATIO])
        self.quality = max(ratios, key=lambda q: (len(ratios[q]), q), default=None)
        same = [row for row in done if row["bytes_per_image.quality"] == self.quality]
        self.rows = same
        self.kinds = {
            kind: name
            for kind, name in _KINDS.items()
            if all(f"bytes_per_image.{kind}" in row for row in same)
        }
        self.sizes: dict[float, dict[str, float]] = {}
        for ratio in sorted({row[_RATIO] for row in same}):
            some = [row for row in same if row[_RATIO] == ratio]
            self.sizes[ratio] = {
                kind: sum(row[f"bytes_per_image.{kind}"] for row in some) / len(some)
                for kind in self.kinds
            }

    def intro(self) -> str:
        """What is counted."""
        row = self.rows[0]
        size = f" at {row[_SIZE]} px" if row.get(_SIZE) else ""
        grid = f", masks.grid={row[_GRID]}" if row.get(_GRID) else ""
        return (
            f"{row['dataset']} as encoder {row['encoder']} takes it{size}{grid}: "
            f"bytes of an image in each form, {_MEANS}. JPEGs are of quality {self.quality}; "
            "messages of patches hold the seed of their mask where it has one, a bitmap where not. "
            f"{_HEADERS}"
        )

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text, the first the names of the columns."""
        rows = [("mask ratio", *self.kinds.values())]
        for ratio, sizes in self.sizes.items():
            rows.append((show(ratio), *(f"{sizes[kind]:,.0f}" for kind in self.kinds)))
        return rows

    def figures(self) -> Iterator[tuple[str, str, str]]:
        """(what its file's name ends with, SVG, caption) of each figure."""
        lines = [
            Line(name, list(self.sizes), [sizes[kind] for sizes in self.sizes.values()])
            for kind, name in self.kinds.items()
        ]
        caption = f"Bytes of an image in each form, {_MEANS}; JPEGs of quality {self.quality}"
        svg = draw([("", lines)], label(_RATIO), y_label="bytes of an image", percent=False)
        yield "", svg, caption


def _bytes(point) -> float | None:
    """What crosses the link for an image; None where no seed has finished."""
    kind = _KIND_OF.get(point[_CODEC], f"feature_{point[_FEATURES]}")
    found = point.get(f"bytes_per_image.{kind}")
    return found[0] if found and point["accuracy"] else None


def _front(points: Sequence[Mapping]) -> list[Mapping]:
    """Those of points in ascending order of bytes than which no cheaper one is as accurate."""
    front: list[Mapping] = []
    for point in points:
        if not front or point["accuracy"][0] > front[-1]["accuracy"][0]:
            front.append(point)
    return front
