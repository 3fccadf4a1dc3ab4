"""Figures: names, units and ticks are in them as text; the same numbers give the same file."""

import itertools
import re
import xml.etree.ElementTree as ET

from sparse_ist_tf.reports.lines import Line, draw


def _texts(svg):
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter() if _tag(node) == "text"]


def _tag(node):
    return node.tag.rpartition("}")[2]


def _size(svg):
    return tuple(float(v) for v in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())


def test_labels_legend_and_ticks_are_text_on_a_ground_of_their_own():
    lines = [
        Line("fixed", (1, 2, 4, 16), (0.9, 0.8, 0.7, 0.6), (0.01, 0.02, 0.0, 0.01)),
        Line("fixed, paper", (1, 2), (0.95, 0.9), paper_of=0),
    ]
    svg = draw([("at the end", lines), ("at its best", lines)], "subnets")
    texts = _texts(svg)
    assert texts.count("subnets") == 2
    assert texts.count("test accuracy (%)") == 1
    assert texts.count("fixed") == texts.count("fixed, paper") == 1
    assert {"at the end", "at its best"} <= set(texts)
    assert all(texts.count(tick) >= 2 for tick in ("1", "2", "4", "16")), "both panels have them"
    assert "fill: #ffffff" in svg
    assert svg == draw([("at the end", lines), ("at its best", lines)], "subnets")


def test_lines_differ_in_more_than_colour():
    lines = [Line(str(i), (0.0, 0.5), (0.5, 0.6 + i / 100)) for i in range(4)]
    svg = draw([("", lines)], "x")
    assert len(set(re.findall(r"stroke-dasharray: ([\d., ]+)", svg))) == 3, "and one is solid"
    colors = set(re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: 1.5", svg))
    greys = sorted(_grey(color) for color in colors)
    assert len(greys) == 4
    assert min(b - a for a, b in itertools.pairwise(greys)) > 25, "of 256"


def _grey(color):
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_words_stand_below_each_other_whatever_their_length():
    few, many = ([f"a setting with a long name {i}" for i in range(n)] for n in (2, 12))
    figures = [draw([("", [Line("head", x, [0.5] * len(x))])], "setting") for x in (few, many)]
    assert set(many) <= set(_texts(figures[1]))
    assert _size(figures[1])[1] > _size(figures[0])[1] + 150


def test_a_logarithmic_axis_has_plain_numbers():
    svg = draw([("", [Line("ist", (1.0, 10.0, 1000.0), (0.1, 0.2, 0.3))])], "MB", log=True)
    assert {"1", "10", "100", "1,000"} <= set(_texts(svg))


def test_lines_without_points_are_left_out():
    svg = draw(
        [("", [Line("none", (), ()), Line("a", (1.0,), (0.5,)), Line("b", (2.0,), (0.5,))])], "x"
    )
    assert "none" not in _texts(svg)
    assert {"a", "b"} <= set(_texts(svg))
