"""Lines in panels side by side, as SVG; legible in grey: by darkness, dashes and marks."""

import dataclasses
import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from sparse_ist_tf.reports.figures import as_svg, plain_figures

if TYPE_CHECKING:
    from matplotlib.artist import Artist

_DASHES = ("-", "--", "-.", ":")
_MARKS = "osD^vPX*"
_TICK, _LEGEND = 30, 80  # characters of a line
_LIGHTEST = 0.78  # of the colour map, from dark to light


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a figure.

    Args:
        name: in the legend.
        x: numbers, or the words below the axis.
        y: for each a fraction in [0, 1], or what draw's percent says.
        spread: the standard deviation of each, or nothing.
        paper_of: the place among the lines of that of which the paper reports this; it is drawn
            alike, but thin and hollow.
    """

    name: str
    x: Sequence
    y: Sequence[float]
    spread: Sequence[float] = ()
    paper_of: int | None = None

    @classmethod
    def of_means(cls, name: str, x: Sequence, values: Sequence[tuple[float, float]]) -> "Line":
        """A line of (mean, standard deviation) pairs."""
        return cls(name, x, [mean for mean, _ in values], [spread for _, spread in values])


@plain_figures()
def draw(
    panels: Sequence[tuple[str, Sequence[Line]]],
    x_label: str,
    *,
    y_label: str = "test accuracy (%)",
    log: bool = False,
    marks: bool = True,
    percent: bool = True,
) -> str:
    """Panels side by side, with one scale and one legend.

    Where x are words they stand one below the other, and accuracy is along the horizontal axis.

    Args:
        panels: a title and lines for each.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        log: a logarithmic x axis.
        marks: a mark at each point.
        percent: y are fractions, drawn in percent; drawn as they are, on a logarithmic axis,
            where False.

    Returns:
        SVG: the same numbers give the same text.
    """
    from matplotlib.figure import Figure

    drawn = [
        [(i if line.paper_of is None else line.paper_of, line) for i, line in enumerate(lines)]
        for _, lines in panels
    ]
    drawn = [[(look, line) for look, line in lines if len(line.x)] for lines in drawn]
    ticks = _ticks([line for lines in drawn for _, line in lines])
    words = any(isinstance(tick, str) for tick in ticks)
    names = {_wrapped(line.name, _LEGEND) for lines in drawn for _, line in lines}
    shown_ticks = [_wrapped(str(tick), _TICK) for tick in ticks]
    height = 1.3 + 0.15 * sum(1 + _lines(tick) for tick in shown_ticks) if words else 3.7
    width = 9.6 if len(panels) > 1 else 7.2
    columns, legend_height = _legend_size(names, width)
    figure = Figure(figsize=(width, height + legend_height), layout="constrained")
    plots = figure.subplots(1, len(panels), squeeze=False, sharex=words, sharey=True)[0]
    shown: dict[str, Artist] = {}
    scale = 100 if percent else 1
    for plot, (title, _), lines in zip(plots, panels, drawn, strict=True):
        count = max((look for look, _ in lines), default=0) + 1
        for look, line in lines:
            style = _style(look, count, marks or len(line.x) == 1)
            name = _wrapped(line.name, _LEGEND)
            shown.setdefault(name, _draw_line(plot, line, ticks, words, style, scale))
        plot.set_title(_wrapped(title, _TICK), fontsize=10)
        plot.set_xlabel(y_label if words else x_label)
        plot.grid(alpha=0.3)
        plot.spines[["top", "right"]].set_visible(False)
        if not percent:
            plot.set_yscale("log")
            plot.yaxis.set_major_formatter("{x:,g}")
        if log:
            plot.set_xscale("log")
            plot.xaxis.set_major_formatter("{x:,g}")
        elif ticks and not words:
            plot.set_xticks(list(ticks.values()), [str(tick) for tick in ticks])
    if words:
        plots[0].set_yticks(list(ticks.values()), shown_ticks)
        plots[0].set_ylim(len(ticks) - 0.5, -0.5)
    plots[0].set_ylabel(x_label if words else y_label)
    if len(shown) > 1:
        figure.legend(
            list(shown.values()),
            list(shown),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
            handlelength=3.2,
        )
    return as_svg(figure)


def _wrapped(text: str, width: int) -> str:
    """A name that may be a path, on as many lines as it takes."""
    text = "\n".join(textwrap.wrap(text, width)) or text
    return text.replace("$", r"\$")  # it is no formula


def _legend_size(names: Collection[str], width: float) -> tuple[int, float]:
    """(columns, height in inches) of the legend below a figure of some inches."""
    longest = max((len(part) for name in names for part in name.splitlines()), default=0)
    columns = max(1, min(len(names), int(width * 13 / (longest + 9))))
    rows = -(-len(names) // columns)
    return columns, 0.2 + rows * (0.06 + 0.15 * max(map(_lines, names), default=0))


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _style(i, count, marks) -> dict:
    from matplotlib import colormaps

    color = colormaps["viridis"](_LIGHTEST * i / max(1, count - 1))
    style = {"color": color, "linestyle": _DASHES[i % 4], "markersize": 5}
    return style | ({"marker": _MARKS[i % 8]} if marks else {})


def _ticks(lines) -> dict:
    """Where on the axis each x stands that has a place of its own; none where numbers are many."""
    values = list(dict.fromkeys(x for line in lines for x in line.x))
    if not any(isinstance(x, str) for x in values):
        if not all(isinstance(x, int) for x in values) or len(values) > 10:
            return {}
        values.sort()
    return {value: i for i, value in enumerate(values)}


def _draw_line(plot, line, ticks, words, style, scale):
    x = [ticks.get(value, value) for value in line.x] if ticks else line.x
    y = [scale * value for value in line.y]
    error = [scale * value for value in line.spread] if any(line.spread) else None
    if words:  # in no order, so that no line joins them
        style = style | {"linestyle": "none", "marker": style.get("marker", "o")}
        x, y = y, x
    if line.paper_of is not None:
        thin = {"linewidth": 0.9, "alpha": 0.75, "markerfacecolor": "white"}
        return plot.plot(x, y, **style, **thin)[0]
    style["markevery"] = max(1, len(x) // 10)
    style |= {"xerr" if words else "yerr": error, "capsize": 2.5, "elinewidth": 1}
    return plot.errorbar(x, y, **style)
