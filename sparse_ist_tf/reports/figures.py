"""Figures as PNG or SVG, legible in grey."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_FEW = 30  # points of a line, each of which has a mark


@contextlib.contextmanager
def plain_figures() -> Iterator[None]:
    """Draws with Matplotlib's own defaults, whatever matplotlibrc a user or a notebook has.

    What the font lacks is no warning.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        yield


@plain_figures()
def training_figure(metrics: Sequence[Mapping]) -> bytes:
    """Loss, accuracy and bytes over the steps of a run, from one or more records, as PNG."""
    from matplotlib.figure import Figure

    def column(key, scale):
        return [scale * record[key] for record in metrics]

    steps, sends = column("step", 1), any(column("training_bytes", 1))
    mark = {"marker": "o" if len(steps) <= _FEW else "", "markersize": 4}
    figure = Figure(figsize=(11 if sends else 7.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 2 + sends)
    loss, accuracy = panels[:2]
    loss.plot(steps, column("loss", 1), "k-", **mark)
    loss.set(title="Training loss", ylabel="cross-entropy (nats)")
    train = mark | {"markerfacecolor": "white"}
    accuracy.plot(steps, column("train_accuracy", 100), "k--", label="training, subnets", **train)
    accuracy.plot(steps, column("test_accuracy", 100), "k-", label="test, merged head", **mark)
    if metrics[0].get("centralized_accuracy") is not None:
        line = column("centralized_accuracy", 100)
        kind = mark | {"marker": "s" if mark["marker"] else "", "color": "0.5", "linestyle": ":"}
        accuracy.plot(steps, line, label="test, centralised head", **kind)
    accuracy.set(title="Accuracy", ylabel="accuracy (%)")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    if sends:
        panels[2].plot(steps, column("training_bytes", 1e-6), "k-", **mark)
        panels[2].set(title="Sent by a worker", ylabel="MB (weights, moments, gradients)")
        panels[2].set_ylim(bottom=0)
    for axes in panels:
        axes.set_xlabel("steps of a subnet")
        axes.set_xlim(0, 1.05 * max(steps))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@plain_figures()
def pretraining_figure(metrics: Sequence[Mapping]) -> str:
    """Loss and accuracy over the epochs of a pre-training, as its records have them, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    styles = [{"color": c, "linestyle": s} for c in ("k", "0.6") for s in ("-", "--", ":", "-.")]
    names = list(dict.fromkeys(name for record in metrics for name in record))
    for axes, words in ((loss, "loss"), (accuracy, "accuracy")):
        shown = [name for name in names if words in name and name != "train_loss"]
        for i, name in enumerate(shown):
            points = [(record["epoch"], record[name]) for record in metrics if name in record]
            epochs, values = zip(*points, strict=True)
            if words == "accuracy":
                values = [100 * value for value in values]
            mark = "o" if len(points) < 40 else ""
            what, at, ratio = name.partition("@")
            label = what.replace("_", " ") + (f", {100 * float(ratio):g} % hidden" if at else "")
            label = {"loss": "training loss"}.get(label, label)
            style = styles[i % len(styles)] | {"marker": mark, "markersize": 3}
            axes.plot(epochs, values, label=label, **style)
        if shown:
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, fontsize="small"
            )
        axes.set(title=words.capitalize(), xlabel="epochs")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    accuracy.set_ylabel("accuracy (%)")
    return as_svg(figure)


def as_svg(figure: "Figure") -> str:
    """An element that can stand in a page: the same numbers give the same text."""
    import matplotlib

    buffer = io.StringIO()
    # No date and no random ids; a white ground of its own, for pages that are dark.
    with matplotlib.rc_context({"svg.hashsalt": "sparse_ist_tf", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
