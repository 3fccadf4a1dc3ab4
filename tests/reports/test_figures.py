"""Figures show what there is to see, and nothing covers it."""

import warnings

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparse_ist_tf.reports.figures import pretraining_figure, training_figure
from sparse_ist_tf.reports.lines import Line, draw


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, as they are saved."""
    figures, save = [], Figure.savefig

    def savefig(self, *arguments, **options):
        figures.append(self)
        return save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield figures


def records(count, sends=True):
    return [
        {
            "step": 20 * i,
            "epoch": i,
            "loss": 2 / i,
            "train_accuracy": 1 - 1 / (i + 2),
            "test_accuracy": 0.9 - 0.8 / (i + 1),
            "centralized_accuracy": 0.95 - 0.9 / (i + 1),
            "training_bytes": 1e6 * i * sends,
        }
        for i in range(1, count + 1)
    ]


def legends_cover_nothing(figure):
    """Whether legends lie beside all panels, and panels are of some size."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        canvas.draw()
    renderer = canvas.get_renderer()
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    boxes = [axes.get_window_extent(renderer) for axes in figure.axes]
    assert min(min(box.width, box.height) for box in boxes) > 100
    inner = [box.shrunk(0.98, 0.98) for box in boxes]
    found = [legend.get_window_extent(renderer) for legend in legends]
    assert all(legend.y0 >= -1 for legend in found)
    return bool(legends) and not any(legend.overlaps(box) for legend in found for box in inner)


@pytest.mark.parametrize("sends", [False, True])
@pytest.mark.parametrize("count", [1, 2, 200])
def test_the_figure_of_a_training(drawn, count, sends):
    training_figure(records(count, sends))
    [figure] = drawn
    marks = {line.get_marker() for axes in figure.axes for line in axes.lines}
    assert ("o" in marks) == (count < 200)
    assert ("" not in marks) == (count < 200)
    assert legends_cover_nothing(figure)


@pytest.mark.parametrize("count", [1, 8])
def test_the_figure_of_a_pretraining(drawn, count):
    pretraining_figure([r | {f"accuracy@{a}": 0.5 for a in (0, 0.5)} for r in records(count)])
    assert legends_cover_nothing(drawn[0])


@pytest.mark.parametrize("count", [2, 40])
@pytest.mark.parametrize("panels", [1, 2])
@pytest.mark.parametrize("words", [False, True])
def test_lines_of_long_names(drawn, count, panels, words):
    long = "/home/someone/photographs/dinov2_with_registers/pytorch_model.bin?num_heads=12"
    x = [f"hf:{long}{i}" for i in range(3)] if words else [1, 2, 4]
    lines = [Line(f"{i} {long} {i}, $a$ and 写真", x, [0.1, 0.2, 0.3]) for i in range(count)]
    svg = draw([("a title", lines)] * panels, "what x is")
    assert legends_cover_nothing(drawn[0])
    assert "$a$" in svg.replace("<!-- ", "").replace("\\$", "$")


def test_a_line_of_one_point_is_seen(drawn):
    draw([("", [Line("a", [3], [0.5]), Line("b", [1, 2], [0.5, 0.6])])], "x", marks=False)
    marked = [line.get_marker() for line in drawn[0].axes[0].lines if line.get_marker() != "None"]
    assert "o" in marked


def test_a_matplotlibrc_of_others_changes_nothing():
    lines = [("", [Line("a", [1, 2], [0.5, 0.6]), Line("b", [1, 2], [0.4, 0.6])])]
    plain = draw(lines, "x"), training_figure(records(3))
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "savefig.dpi": 10}):
        assert (draw(lines, "x"), training_figure(records(3))) == plain
        assert matplotlib.rcParams["font.size"] == 30
