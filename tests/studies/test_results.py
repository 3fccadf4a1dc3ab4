"""Rows, means and the paper's numbers."""

import csv
import io
import statistics

import pytest

from sparse_ist_tf.studies.results import MEASURES, as_csv, paper_accuracy, paper_results, points_of


def _row(n, accuracy, status="finished"):
    row = dict.fromkeys((*MEASURES, "training_bytes"))
    return row | {"n": n, "status": status, "accuracy": accuracy}


def test_means_are_over_the_finished_seeds():
    rows = [_row(1, 0.5), _row(1, 0.7), _row(1, None, "failed"), _row(2, None, "missing")]
    one, two = points_of(rows, ["n"])
    assert (one["n"], one["seeds"]) == (1, 2)
    assert one["accuracy"] == (statistics.mean([0.5, 0.7]), statistics.stdev([0.5, 0.7]))
    assert (two["n"], two["seeds"], two["accuracy"]) == (2, 0, None)
    assert points_of([_row(1, 0.5)], ["n"])[0]["accuracy"] == (0.5, 0.0)


def test_numbers_in_tables_are_columns_of_which_means_are_taken():
    rows = [_row(1, 0.5) | {"accuracy_at.0.9": a, "missing_workers.1.merged": 0.25} for a in (0, 1)]
    [point] = points_of([*rows, _row(1, None, "failed")], ["n"])
    assert point["accuracy_at.0.9"][0] == 0.5
    assert point["missing_workers.1.merged"] == (0.25, 0.0)


def _paper(
    dataset="cifar10",
    kind="fixed",
    ratio=0.5,
    subnets=1,
    algorithm="ist",
    encoder="packaged:vit_micro",
    share_total=False,
):
    return paper_accuracy(
        {
            "encoder": encoder,
            "share_total": share_total,
            "dataset": dataset,
            "masks.kind": kind,
            "masks.ratio": ratio,
            "ist.num_subnets": subnets,
            "ist.algorithm": algorithm,
        }
    )


def test_the_papers_numbers_are_found_where_it_has_them():
    assert _paper() == 0.851
    assert _paper(ratio=0.0) == 0.823
    assert _paper(kind="random") == 0.8571
    assert _paper(subnets=2) == 0.8538
    assert _paper(subnets=4) == 0.846
    assert _paper(subnets=4, algorithm="centralized") == 0.851
    assert _paper(dataset="resisc45", ratio=0.9, subnets=4) == 0.6848
    assert _paper(ratio=0.0, encoder="resnet50:imagenet") == 0.5927
    for other in (
        {"encoder": "resnet50:random"},
        {"encoder": "resnet50:random", "ratio": 0.0, "subnets": 4},
        {"subnets": 4, "share_total": True},
        {"subnets": 4, "ratio": 0.2},
        {"subnets": 8},
        {"ratio": 0.55},
        {"dataset": "digits"},
        {"kind": "shared"},
        {"kind": "random", "subnets": 2},
        {"algorithm": "local_sgd", "subnets": 2},
    ):
        assert _paper(**other) is None
    assert "PMLR" in paper_results()["source"]


def test_curves_and_ratios_have_one_length():
    paper = paper_results()
    for name in ("table4_fixed_max_acc", "fig4_random", "fig7_2workers", "fig7_4workers"):
        ratios = paper["mask_ratio_4w" if name == "fig7_4workers" else "mask_ratio"]
        for dataset, curve in paper[name].items():
            assert len(curve) == len(ratios), (name, dataset)
            assert all(0.5 < value < 1 for value in curve)


def test_csv_has_every_column_of_every_row():
    rows = [{"cell": "a", "accuracy": 0.5}, {"cell": "b, c", "error": 'it said "no"'}]
    again = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert again[0] == {"cell": "a", "accuracy": "0.5", "error": ""}
    assert again[1]["error"] == 'it said "no"'
    assert float(again[0]["accuracy"]) == pytest.approx(0.5)
