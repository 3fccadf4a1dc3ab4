"""A study's figures as SVG, legible in grey: every line has a style and a mark of its own."""

import io
from collections.abc import Mapping, Sequence

_STYLES = ("-", "--", "-.", ":")
_MARKS = "osD^vPX*"


def grid_figure(points: Sequence[Mapping], axes: Sequence[str], paper: Sequence) -> str:
    """Accuracy along the first axis, a line for each combination of the others.

    Args:
        points: from results.points_of.
        axes: of the grid.
        paper: for each point the paper's accuracy or None; they become grey lines.

    Returns:
        SVG.

    Example:
        >>> from sparse_ist_tf.studies.figures import grid_figure
        >>> point = {"masks.ratio": 0.5, "accuracy": (0.7, 0.01), "best_accuracy": (0.71, 0.01)}
        >>> "accuracy (%)" in grid_figure([point], ["masks.ratio"], [0.9])
        True
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    plot = figure.subplots()
    x_axis, others = axes[0], axes[1:]
    ticks = list(dict.fromkeys(str(point[x_axis]) for point in points))
    numeric = all(isinstance(point[x_axis], int | float) for point in points)
    lines: dict[str, list] = {}
    for point, known in zip(points, paper, strict=True):
        name = ", ".join(f"{short(key)} {show(point[key])}" for key in others) or "merged head"
        x = point[x_axis] if numeric else ticks.index(str(point[x_axis]))
        lines.setdefault(name, []).append((x, point["accuracy"], known))
    for i, (name, line) in enumerate(lines.items()):
        style = {"linestyle": _STYLES[i % 4], "marker": _MARKS[i % 8], "markersize": 4}
        color = str(0.55 * i / max(1, len(lines) - 1))
        done = [(x, mean, spread) for x, (mean, spread) in ((x, a) for x, a, _ in line if a)]
        if done:
            x, mean, spread = zip(*done, strict=True)
            error = {"yerr": [100 * s for s in spread], "capsize": 2, "color": color}
            plot.errorbar(x, [100 * m for m in mean], **error, **style, label=name)
        known = [(x, 100 * value) for x, _, value in line if value is not None]
        if known:
            x, y = zip(*known, strict=True)
            plot.plot(x, y, color="0.75", linewidth=1, **style, label=f"{name}, paper")
    if not numeric:
        plot.set_xticks(range(len(ticks)), ticks)
    plot.set(xlabel=label(x_axis), ylabel="test accuracy (%)")
    return _finish(figure, plot)


def bytes_figure(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Accuracy against what a worker has sent so far.

    Args:
        curves: (bytes, accuracy) pairs by name.

    Returns:
        SVG.

    Example:
        >>> from sparse_ist_tf.studies.figures import bytes_figure
        >>> "bytes" in bytes_figure({"ist": [(1e6, 0.5), (2e6, 0.6)]})
        True
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    plot = figure.subplots()
    for i, (name, pairs) in enumerate(curves.items()):
        sent, accuracy = zip(*pairs, strict=True)
        style = {"linestyle": _STYLES[i % 4], "color": str(0.55 * i / max(1, len(curves) - 1))}
        plot.plot(sent, [100 * value for value in accuracy], **style, label=name)
    plot.set_xscale("log")
    plot.set(xlabel="bytes sent by a worker for training", ylabel="test accuracy (%)")
    return _finish(figure, plot)


def _finish(figure, plot) -> str:
    import matplotlib

    plot.grid(alpha=0.3)
    plot.spines[["top", "right"]].set_visible(False)
    if plot.get_legend_handles_labels()[0]:
        plot.legend(frameon=False, fontsize=8)
    buffer = io.StringIO()
    # The same numbers give the same file: no date, no random ids.
    with matplotlib.rc_context({"svg.hashsalt": "sparse_ist_tf", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def short(key: str) -> str:
    """The last word of a key, for people.

    Example:
        >>> from sparse_ist_tf.studies.figures import short
        >>> short("ist.num_subnets")
        'subnets'
    """
    return key.rpartition(".")[2].removeprefix("num_").replace("_", " ")


def label(key: str) -> str:
    """An axis' name, with its unit where it has one.

    Example:
        >>> from sparse_ist_tf.studies.figures import label
        >>> label("masks.ratio")
        'mask ratio (hidden share of the patches)'
    """
    names = {
        "masks.ratio": "mask ratio (hidden share of the patches)",
        "ist.num_subnets": "subnets",
        "ist.local_steps": "local steps of a round",
    }
    return names.get(key, key)


def show(value) -> str:
    """A setting's value, for people.

    Example:
        >>> from sparse_ist_tf.studies.figures import show
        >>> show((4, 2, 1, 1)), show(0.5)
        ('4-2-1-1', '0.5')
    """
    if isinstance(value, tuple | list):
        return "-".join(map(str, value)) or "none"
    return str(value)
