"""A study's figures as SVG, legible in grey: lines differ in darkness, dashes and marks."""

import dataclasses
import io
from collections.abc import Sequence

_DASHES = ("-", "--", "-.", ":")
_MARKS = "osD^vPX*"
_LIGHTEST = 0.78  # of the colour map, from dark to light


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a figure.

    Args:
        name: in the legend.
        x: numbers, or the words below the axis.
        y: a fraction in [0, 1] for each; drawn in percent.
        spread: the standard deviation of each, or nothing.
        like: the place in the order of lines whose look it has; its own where None.
        is_paper: drawn thin and hollow, as what the paper reports.

    Example:
        >>> from sparse_ist_tf.studies.figures import Line
        >>> Line("4 subnets", (0.0, 0.5), (0.9, 0.8)).is_paper
        False
    """

    name: str
    x: Sequence
    y: Sequence[float]
    spread: Sequence[float] = ()
    like: int | None = None
    is_paper: bool = False


def draw(
    panels: Sequence[tuple[str, Sequence[Line]]],
    x_label: str,
    *,
    y_label: str = "test accuracy (%)",
    log: bool = False,
    marks: bool = True,
) -> str:
    """Panels side by side, with one scale and one legend.

    Args:
        panels: a title and lines for each.
        x_label: what is along the x axis, with its unit.
        y_label: what is along the y axis, with its unit.
        log: a logarithmic x axis.
        marks: a mark at each point.

    Returns:
        SVG: the same numbers give the same text.

    Example:
        >>> from sparse_ist_tf.studies.figures import Line, draw
        >>> "mask ratio" in draw([("", [Line("fixed", (0, 0.5), (0.9, 0.8))])], "mask ratio")
        True
    """
    from matplotlib.figure import Figure

    panels = [(title, [line for line in lines if len(line.x)]) for title, lines in panels]
    figure = Figure(figsize=(9.6 if len(panels) > 1 else 7.2, 3.9), layout="constrained")
    plots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    shown: dict[str, object] = {}
    for plot, (title, lines) in zip(plots, panels, strict=True):
        ticks = _ticks(lines)
        count = max((_look(i, line) for i, line in enumerate(lines)), default=0) + 1
        for i, line in enumerate(lines):
            handle = _draw_line(plot, line, ticks, _style(_look(i, line), count, marks))
            shown.setdefault(line.name, handle)
        if log:
            plot.set_xscale("log", base=10)
        elif ticks:
            plot.set_xticks(list(ticks.values()), [str(word) for word in ticks])
        plot.set_title(title, fontsize=10)
        plot.set_xlabel(x_label)
        plot.grid(alpha=0.3)
        plot.spines[["top", "right"]].set_visible(False)
    plots[0].set_ylabel(y_label)
    if len(shown) > 1:
        where = {"loc": "outside right upper", "frameon": False, "fontsize": 8, "handlelength": 3.2}
        figure.legend(shown.values(), shown.keys(), **where)
    return _svg(figure)


def _look(i, line) -> int:
    return i if line.like is None else line.like


def _style(i, count, marks) -> dict:
    from matplotlib import colormaps

    color = colormaps["viridis"](_LIGHTEST * i / max(1, count - 1))
    style = {"color": color, "linestyle": _DASHES[i % 4], "markersize": 5}
    return style | ({"marker": _MARKS[i % 8]} if marks else {})


def _ticks(lines) -> dict:
    """Where on the axis each x stands that has a place of its own; none where numbers are many."""
    values = list(dict.fromkeys(x for line in lines for x in line.x))
    if all(isinstance(x, int | float) and not isinstance(x, bool) for x in values):
        whole = all(isinstance(x, int) for x in values)
        if not whole or len(values) > 10:
            return {}
        values.sort()
    return {value: i for i, value in enumerate(values)}


def _draw_line(plot, line, ticks, style):
    x = [ticks.get(value, value) for value in line.x] if ticks else line.x
    y = [100 * value for value in line.y]
    if line.is_paper:
        thin = {"linewidth": 0.9, "alpha": 0.75, "markerfacecolor": "white"}
        return plot.plot(x, y, **style, **thin)[0]
    error = [100 * value for value in line.spread] if any(line.spread) else None
    return plot.errorbar(x, y, yerr=error, capsize=2.5, elinewidth=1, **style)


def _svg(figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    # No date and no random ids; a white ground of its own, for pages that are dark.
    with matplotlib.rc_context({"svg.hashsalt": "sparse_ist_tf", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
