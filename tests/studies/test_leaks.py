"""What a study of grids says of hidden pixels: losses by seed, and attacks that are made once."""

import itertools
import json

import pytest

from sparse_ist_tf.studies import leaks
from sparse_ist_tf.studies.grid import cells_of
from sparse_ist_tf.studies.leaks import leak_of, leak_sections, measure_leaks
from sparse_ist_tf.study_config import get_config

AXES = ["masks.ratio", "masks.grid", "encoder.image_size"]
LOST = {("sensor", 0.5): 0.2, ("scaled", 0.5): 0.05}


def _rows(dataset="cifar10", sizes=(64,), grids=("sensor", "scaled"), **more):
    rows = []
    for size, grid, ratio, seed in itertools.product(sizes, grids, (0.0, 0.5), (0, 1)):
        row = {
            "cell": f"{dataset}{size}{grid}{ratio}{seed}",
            "status": "finished",
            "dataset": dataset,
            "encoder": "packaged:vit_micro",
            "seed": seed,
            # As much lower with another seed, so that losses are the same with either.
            "accuracy": 0.9 - LOST.get((grid, ratio), 0.0) - seed / 10,
            "bytes_per_image.patches_jpeg": 400.0 if grid == "sensor" else 500.0,
            **dict(zip(AXES, (ratio, grid, size), strict=True)),
        }
        if ratio:
            row |= {"leak.recorded": 32, "leak.scaled": size, "leak.mean_close": 0.03}
            row["leak.close"] = 0.03 if grid == "sensor" else 0.37
        rows.append(row | more)
    return rows


def test_losses_are_taken_seed_by_seed():
    [section] = leak_sections({"a": (AXES, _rows())}).values()
    head, whole, half = section.table()
    whole, half = (dict(zip(head, row, strict=True)) for row in (whole, half))
    assert (half["data"], half["scaled"], half["hidden"]) == ("cifar10", "32 to 64 px", "0.5")
    assert half["sensor: accuracy"] == "65.00 ± 7.07 %"
    assert half["sensor: lost"] == "20.00 ± 0.00 %"
    assert half["scaled: lost"] == "5.00 ± 0.00 %"
    assert half["hidden by the leak"] == "15.00 ± 0.00 %"
    assert half["sensor: read by least squares"] == "3.0 % (3.0 %)"
    assert half["scaled: read by least squares"] == "37.0 % (3.0 %)"
    assert (half["sensor: bytes"], half["scaled: bytes"]) == ("400", "500")
    assert whole["scaled: accuracy"] == "85.00 ± 7.07 %"
    assert {whole[name] for name in head if "lost" in name or "read" in name} == {""}


def test_the_figure_has_a_panel_for_each_data_set_and_size():
    grids = {
        "a": (AXES, _rows(sizes=(64, 128))),
        "b": (AXES, _rows("folder:some/photos")),
        "c": (["masks.ratio"], _rows("not compared")),
    }
    [section] = leak_sections(grids).values()
    [(ending, svg, caption)] = section.figures()
    assert ending == ""
    assert "standard deviation" in caption
    assert [(p.data, p.size) for p in section.panels] == [
        ("cifar10", "32 to 64 px"),
        ("cifar10", "32 to 128 px"),
        ("photos", "32 to 64 px"),
    ]
    for text in ("masks on the scaled image", "masks on the sensor", "hidden share"):
        assert text in svg
    assert "not compared" not in svg


def test_there_is_nothing_to_say_before_both_grids_have_finished():
    assert leak_sections({"a": (AXES, _rows(grids=("sensor",)))}) == {}
    assert leak_sections({"a": (AXES, _rows(status="missing"))}) == {}
    assert leak_sections({}) == {}


def _cells(**base):
    study = get_config()
    study.base.update({"dataset": {"name": "digits"}, "encoder": {"weights": "random:vit_pico"}})
    study.base.update(base)
    study.grids = {"a": (("masks.ratio", (0.0, 0.5)), ("masks.grid", ("sensor", "scaled")))}
    study.seeds = (0, 1)
    return cells_of(study)["a"]


def test_attacks_are_made_once_for_all_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(leaks, "_IMAGES", 3)
    cells = _cells()
    measure_leaks(cells, tmp_path)
    assert len(json.loads((tmp_path / "leaks.json").read_text())) == 2
    found = {}
    for cell in cells:
        masks, columns = cell.config.masks, leak_of(cell, tmp_path)
        if not masks.ratio:
            assert columns == {}
            continue
        assert columns["leak.recorded"] == 8
        assert found.setdefault(masks.grid, columns) == columns, "seeds share it"
    assert found["sensor"]["leak.close"] == found["sensor"]["leak.mean_close"] < 0.5
    assert found["scaled"]["leak.close"] > 0.9
    monkeypatch.setattr("sparse_ist_tf.benchmarks.leak.measure_leak", None)
    measure_leaks(cells, tmp_path)


def test_what_cannot_be_attacked_is_left_out(tmp_path, capsys):
    cells = _cells(dataset={"name": "folder:nowhere"})
    measure_leaks(cells, tmp_path)
    assert capsys.readouterr().err.count("no attack: ") == 2
    assert leak_of(cells[-1], tmp_path) == {}


@pytest.mark.parametrize("data", [b"{", b"[[[", b"[]", b"\xff", b"\x00" * 99])
def test_a_damaged_file_is_named(tmp_path, data):
    (tmp_path / "leaks.json").write_bytes(data)
    with pytest.raises(leaks.RunError, match=r"leaks.json is damaged"):
        leak_of(_cells()[0], tmp_path)
