"""The tables and figures of a run."""

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sparse_ist_tf.reports.figures import training_figure
from sparse_ist_tf.reports.metrics import ScalarLog
from sparse_ist_tf.reports.report import (
    accuracy_rows,
    bytes_rows,
    missing_rows,
    next_steps,
    summary,
    where_masks_lie,
    write_report,
)

RESULTS = {
    "algorithm": "ist",
    "num_subnets": 2,
    "num_workers": 2,
    "steps": 40,
    "test_size": 1000,
    "accuracy": {"merged": 0.9, "subnets": [0.8, 0.7], "ensembles": [0.8, 0.85]},
    "best_accuracy": 0.91,
    "centralized_accuracy": 0.89,
    "bytes": {"weights": 1_000_000, "moments": 2_000_000},
    "training_bytes": 3_000_000,
    "synchronous_bytes": {"data_parallel": 90_000_000, "local_sgd": 9_000_000},
    "bytes_per_image": {"images": 256, "quality": 60, "image_jpeg": 1553.1, "patches_raw": 6159.9},
}
METRICS = [
    {
        "step": step,
        "loss": 2 / step,
        "train_accuracy": step / 50,
        "test_accuracy": step / 60,
        "training_bytes": step * 1000,
        "centralized_accuracy": None,
    }
    for step in (20, 40)
]


def test_every_accuracy_has_its_row():
    rows = dict(accuracy_rows(RESULTS))
    assert rows["merged head"] == "90.00 %"
    assert rows["merged head, best evaluation"] == "91.00 %"
    assert rows["subnet 1 alone"] == "70.00 %"
    assert rows["ensemble of 1 subnet"] == "80.00 %"
    assert rows["ensemble of 2 subnets"] == "85.00 %"
    assert rows["centralised head, same steps as a worker"] == "89.00 %"


def test_other_mask_ratios_and_missing_workers_have_their_rows(tmp_path):
    more = RESULTS | {
        "accuracy_at": {"0.25": 0.95},
        "missing_workers": {
            "1": {"merged": 0.75, "ensemble": 0.76, "subsets": 2},
            "2": {"merged": 0.9, "ensemble": 0.85, "subsets": 1},
        },
    }
    assert dict(accuracy_rows(more))["merged head, tested with mask ratio 0.25"] == "95.00 %"
    assert missing_rows(RESULTS) == []
    assert missing_rows(more) == [
        ("any 1 of 2 subnets, merged", "75.00 %"),
        ("any 2 of 2 subnets, merged", "90.00 %"),
        ("any 1 of 2 subnets, ensemble", "76.00 %"),
        ("any 2 of 2 subnets, ensemble", "85.00 %"),
    ]


def test_bytes_are_exact_and_readable():
    rows = {what: (short, exact) for what, short, exact in bytes_rows(RESULTS)}
    assert rows["ist: training in all"] == ("3 MB", "3,000,000")
    assert rows["data_parallel would have sent"] == ("90 MB", "90,000,000")
    text = summary(RESULTS)
    assert "Bytes sent per worker (2 workers)" in text
    assert len({len(line) for line in text.splitlines()[1:8]}) == 1, "columns line up"


def test_the_report_holds_tables_and_figures(tmp_path):
    config = {
        "dataset": {"name": "digits"},
        "masks": {"kind": "fixed", "ratio": 0.5},
        "batch_size": 64,
        "encoder": {"weights": "packaged:vit_micro"},
        "seed": 3,
    }
    write_report(tmp_path, config, RESULTS, METRICS)
    text = (tmp_path / "report.md").read_text()
    assert "| merged head | 90.00 % |" in text
    assert "| bytes of an image, mean of 256 test images | |" in text
    assert "| whole image, a JPEG file of quality 60 | 1,553 |" in text
    assert "| visible patches, raw | 6,160 |" in text
    assert "feature, int8" not in text
    assert "seed 3" in text
    assert "Masks on the scaled image (leaks where images are enlarged)" in text
    for name in re.findall(r"\((\w+\.png)\)", text):
        assert name in ("training.png", "masks.png")
    assert (tmp_path / "training.png").exists()


def test_reports_name_the_grid_of_masks():
    sensor, scaled, before = ({"grid": "sensor"}, {"grid": "scaled"}, {})
    assert "as it was recorded" in where_masks_lie(sensor)
    assert "scaled image (leaks" in where_masks_lie(scaled)
    assert where_masks_lie(before) == where_masks_lie(scaled)


def test_the_figure_has_a_panel_for_bytes_only_where_some_were_sent():
    widths = []
    for change in ({}, {"centralized_accuracy": 0.5}, {"training_bytes": 0}):
        records = [{**record, **change} for record in METRICS]
        image = np.asarray(Image.open(io.BytesIO(training_figure(records))).convert("L"))
        assert (image < 128).mean() > 0.005
        widths.append(image.shape[1])
    assert widths[0] == widths[1] > widths[2]


def test_tensorboard_reads_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = ScalarLog(tmp_path)
    for record in METRICS:
        log.add(record)
    log = ScalarLog(tmp_path)  # resumed from the first evaluation
    log.restart(METRICS[:1])
    log.add(METRICS[1])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["tensors"]) == {
        "loss",
        "train_accuracy",
        "test_accuracy",
        "training_bytes",
    }
    assert [event.step for event in events.Tensors("loss")] == [20, 40]


CONFIG = {"masks": {"kind": "shared"}, "encoder": {"weights": "packaged:vit_pico"}}


def test_next_steps_name_evaluate_and_what_can_be_exported():
    lines = next_steps("runs/a b", CONFIG, RESULTS | {"int8_bytes": 3_000_000})
    assert lines == [
        "Next: python -m sparse_ist_tf.evaluate --run='runs/a b'",
        "      python -m sparse_ist_tf.export --run='runs/a b' --target=phone  # or coral",
    ]
    small = next_steps("r", CONFIG, RESULTS | {"int8_bytes": 500_000}, ["own.py", "b"])
    assert small[-1] == (
        "      python -m sparse_ist_tf.export --run=r --plugin=own.py,b --target=micro"
    )


def test_next_steps_of_what_does_not_export_and_of_earlier_runs():
    assert len(next_steps("r", CONFIG, RESULTS | {"int8_bytes": None})) == 1
    resnet = CONFIG | {"encoder": {"weights": "resnet50:random"}}
    assert len(next_steps("r", resnet, RESULTS)) == 1
    assert not any("micro" in line for line in next_steps("r", CONFIG, RESULTS))
    assert any("phone" in line for line in next_steps("r", CONFIG, RESULTS))


@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_next_steps_say_what_a_camera_needs(kind):
    config = CONFIG | {"masks": {"kind": kind}}
    last = next_steps("r", config, RESULTS | {"int8_bytes": 500_000})[-1]
    assert "one-file classifier for a camera needs masks.kind=shared" in last
    assert f"this run has {kind} masks" in last


def test_next_steps_import_nothing_heavy():
    code = "import sys, sparse_ist_tf.reports.report as r; r.next_steps('r', "
    code += f"{CONFIG!r}, {{}}); sys.exit(bool({{'tensorflow', 'keras'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
