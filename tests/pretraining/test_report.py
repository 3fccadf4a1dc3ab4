"""The report of a pre-training."""

import xml.etree.ElementTree

from sparse_ist_tf.pretraining.report import pretraining_rows, write_pretraining_report

METRICS = [
    {"step": 0, "epoch": 0.0, "test_loss@0.75": 1.5, "linear_accuracy@0.0": 0.25},
    {"step": 5, "epoch": 0.5, "loss": 1.0, "train_loss": 1.0},
    {"step": 10, "epoch": 1.0, "loss": 0.9, "train_loss": 0.9, "test_loss@0.75": 0.8,
     "linear_accuracy@0.0": 0.5},
]  # fmt: skip


def test_rows_are_what_was_tested():
    assert pretraining_rows(METRICS) == [
        ("epoch", "loss", "test loss at 0.75", "linear accuracy at 0.0"),
        ("0.0", "", "1.5000", "25.00 %"),
        ("1.0", "0.9000", "0.8000", "50.00 %"),
    ]


def test_the_report_has_a_table_and_a_figure(tmp_path):
    config = {"preset": "vit_pico", "dataset": {"name": "digits"}, "objective": "mae"}
    config["masks"] = {"grid": "scaled"}
    write_pretraining_report(tmp_path, config | {"batch_size": 32, "seed": 0}, METRICS)
    text = (tmp_path / "report.md").read_text()
    assert "| 1.0 | 0.9000 | 0.8000 | 50.00 % |" in text
    assert "10 steps of 32 images" in text
    assert "enlarged as a whole (`masks.grid=scaled`)" in text
    assert "(pretraining.svg)" in text
    figure = xml.etree.ElementTree.parse(tmp_path / "pretraining.svg")
    words = " ".join(figure.getroot().itertext())
    for name in ("epochs", "linear accuracy, 0 % hidden", "test loss, 75 % hidden"):
        assert name in words
