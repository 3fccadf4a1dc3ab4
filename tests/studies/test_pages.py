"""Pages of studies: tables fit, names are shown as they are."""

import re

import pytest

from sparse_ist_tf import config
from sparse_ist_tf.studies import pages
from sparse_ist_tf.studies.results import MEASURES


@pytest.mark.parametrize("columns", [2, 9])
def test_tables_of_many_columns_are_set_smaller(tmp_path, monkeypatch, columns):
    head = ["ist.exchange.differences", *(f"c{i}" for i in range(1, columns))]
    row = ["50.00 ± 1.00 %", *("x" * (40 if i == 1 else 3) for i in range(1, columns))]

    class Made:
        def __init__(self, *_):
            pass

        def intro(self):
            return "All <alike>."

        def table(self):
            return [tuple(head), tuple(row)]

        def figures(self):
            return []

    monkeypatch.setattr(pages, "Section", Made)
    base = config.get_config().to_dict()
    base["dataset"]["name"] = "folder:/写真 <b>"
    rows = [{"cell": "c0", "status": "finished", **dict.fromkeys(MEASURES)}]
    monkeypatch.setattr(pages, "paper_accuracy", lambda row: None)
    monkeypatch.setattr(pages, "leak_sections", lambda grids: {})
    monkeypatch.setattr(pages, "link_sections", lambda grids: {})
    pages.write_pages(tmp_path, "Study of 写真 <b>", base, {"1_one": (["a"], rows)})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("<table class=many>" in text) == (columns > 7)
    assert "写真 &lt;b&gt;" in text
    assert "All &lt;alike&gt;." in text
    assert "<th>ist.<wbr>exchange.<wbr>differences</th>" in text
    assert "<td>50.00 ±&nbsp;1.00&nbsp;%</td>" in text
    assert len(re.findall(r"<t[hd] class=long>", text)) == 2  # the column's head, too
    assert "50.00 ± 1.00 %" in (tmp_path / "report.md").read_text(encoding="utf-8")
