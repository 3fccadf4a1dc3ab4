"""What the report says of a grid follows from its axes."""

import itertools

import pytest

from sparse_ist_tf.studies.results import MEASURES
from sparse_ist_tf.studies.sections import Section

BASE = {
    "masks.ratio": 0.5,
    "masks.kind": "fixed",
    "ist.num_subnets": 1,
    "ist.algorithm": "ist",
    "dataset": "cifar10",
    "encoder": "packaged:vit_micro",
    "share_total": False,
    "status": "finished",
    **dict.fromkeys((*MEASURES, "training_bytes")),
}


def _rows(axes, seeds=2, **more):
    rows = []
    for values in itertools.product(*axes.values()):
        for seed in range(seeds):
            row = BASE | dict(zip(axes, values, strict=True)) | {"seed": seed, "cell": len(rows)}
            row["encoder"] = row.get("encoder.weights", row["encoder"])
            row |= {"accuracy": 0.5 + seed / 100, "best_accuracy": 0.6 + seed / 100} | more
            rows.append(row)
    return rows


def _section(axes, metrics=lambda row: [], **more):
    return Section(list(axes), _rows(axes, **more), metrics)


def _records(row):
    scale = {"ist": 1, "local_sgd": 10}.get(row["ist.algorithm"], 100)
    return [
        {
            "step": 10 * i,
            "train_accuracy": 0.1 * i,
            "test_accuracy": 0.05 * i + row["seed"] / 100,
            "training_bytes": 1e6 * i * scale,
        }
        for i in range(1, 4)
    ]


def test_a_table_has_final_and_best_and_the_paper_beside_the_best():
    section = _section({"masks.ratio": (0.0, 0.5), "ist.num_subnets": (1, 4)})
    head, first, *_ = table = section.table()
    assert len(table) == 5
    assert head == (
        *("mask ratio", "subnets", "seeds", "merged head, at the end"),
        *("at its best evaluation", "paper, at its best"),
    )
    assert first == ("0", "1", "2", "50.50 ± 0.71 %", "60.50 ± 0.71 %", "82.30 %")
    [(ending, svg, caption)] = section.figures()
    assert ending == ""
    for text in ("1 subnet", "4 subnets", "4 subnets, paper", "after the last step", "at its best"):
        assert f">{text}</text>" in svg
    assert "the paper" in caption


def test_axes_of_one_value_are_said_once():
    section = _section({"masks.ratio": (0.0, 0.5), "ist.num_subnets": (1,)})
    assert section.intro() == "All with 1 subnet."
    assert section.table()[0][:2] == ("mask ratio", "seeds")


def test_a_number_of_the_paper_that_the_axes_do_not_touch_is_left_out():
    assert _section({"ist.local_steps": (1, 20)}).paper == [None, None]


def test_figure_3_has_both_encoders_over_time():
    axes = {"encoder.weights": ("packaged:vit_micro", "resnet50:random"), "masks.ratio": (0.0,)}
    section = _section(axes, _records)
    assert section.paper == [0.823, 0.5927]
    found = {ending: svg for ending, svg, _ in section.figures()}
    assert set(found) == {"", "_curves"}
    for text in ("packaged:vit_micro", "resnet50:random", "test", "training batches"):
        assert f">{text}</text>" in found["_curves"]


def test_bytes_are_drawn_where_trainings_send_some():
    axes = {"ist.algorithm": ("ist", "local_sgd", "data_parallel"), "num_workers": (2,)}
    section = _section(axes, _records, training_bytes=3e6)
    assert section.table()[0][-1] == "sent by a worker"
    found = {ending: svg for ending, svg, _ in section.figures()}
    for text in ("IST", "local SGD", "data parallel", "sent by a worker for training (MB)"):
        assert f">{text}</text>" in found["_bytes"]
    means = section._mean_records()["IST"]
    assert [record["test_accuracy"] for record in means] == pytest.approx([0.055, 0.105, 0.155])


def test_other_mask_ratios_in_testing_are_a_figure():
    axes = {"masks.ratio": (0.0, 0.5), "masks.test_ratios": ((0.0, 0.9),)}
    more = {"accuracy_at.0": 0.5, "accuracy_at.0.9": 0.2}
    found = {ending: svg for ending, svg, _ in _section(axes, **more).figures()}
    for text in ("trained with mask ratio 0.5", "mask ratio of the test images"):
        assert f">{text}</text>" in found["_test_ratios"]
    assert "_test_ratios" not in [ending for ending, *_ in _section(axes).figures()]


def test_missing_workers_are_a_figure_of_the_number_of_subnets():
    more = {
        f"missing_workers.{kept}.{what}": 0.1 * kept
        for kept in (1, 2, 3, 4)
        for what in ("merged", "ensemble")
    }
    found = {
        ending: svg for ending, svg, _ in _section({"ist.num_subnets": (1, 2, 4)}, **more).figures()
    }
    svg = found["_missing_workers"]
    assert ">4 subnets</text>" in svg
    assert ">1 subnet</text>" not in svg, "one subnet is there or isn't"
    assert svg.count(">subnets that can be reached, k</text>") == 2


def test_a_grid_of_which_nothing_is_finished_has_a_table_and_no_figure():
    none = dict.fromkeys(MEASURES) | {"status": "failed"}
    section = _section({"masks.ratio": (0.0, 0.55), "ist.num_subnets": (8,)}, **none)
    assert section.table() == [("mask ratio", "seeds"), ("0", "0"), ("0.55", "0")]
    assert list(section.figures()) == []
