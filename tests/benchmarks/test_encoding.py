"""The comparison with timm measures what it says, and ends well when a process doesn't."""

import pytest

from sparse_ist_tf.benchmarks import encoding as speed
from sparse_ist_tf.benchmarks import encoding_worker as speed_worker
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.errors import RequestError, RunError


def test_a_row_for_each_ratio_with_flops_of_the_work_done(capsys, monkeypatch):
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)  # without timm
    rows = speed.compare("vit_pico", 2, ratios=(0.0, 0.75), dtypes=("float32",), repeats=1)
    assert [row["ratio"] for row in rows] == [0.0, 0.75]
    model = create_encoder("vit_pico")
    for row, visible in zip(rows, (64, 16), strict=True):
        expected = row["images_per_second"] * model.spec.flops(visible) / 1e9
        assert row["gflops"] == pytest.approx(expected)
        assert row["images_per_second"] > 0
        assert row["memory_mb"] > 100
        assert row["peak_gflops"] > 0
    printed = capsys.readouterr()
    assert "timm isn't installed: ours alone" in printed.err
    lines = printed.out.splitlines()
    assert "Encoding, vit_pico, float32, batches of 2" in lines[0]
    assert "times unmasked" in lines[1]
    assert "timm" not in printed.out
    assert "Where the time goes at 0.75: " in printed.out
    assert "%" in lines[-2]


def _row(dtype, ratio, rate, timm, gflops=180.0):
    row = {"dtype": dtype, "ratio": ratio, "images_per_second": rate, "gflops": gflops}
    return row | {"peak_gflops": 200.0, "timm_images_per_second": timm}


def test_missed_aims_are_named():
    whole = _row("float32", 0.0, 10.0, 5.0)
    assert speed.missed_aims(whole, whole) == []
    assert speed.missed_aims(_row("float32", 0.75, 38.0, 19.0), whole) == []
    assert speed.missed_aims(_row("float32", 0.75, 30.0, 20.0, 140.0), whole) == [
        "1.50 times timm (aim: 2)",
        "70 % of the peak (aim: 75 %)",
        "3.00 times unmasked (aim: 3.8)",
    ]
    low = _row("bfloat16", 0.0, 11.0, 10.0, 90.0)
    assert speed.missed_aims(low, low) == ["1.10 times timm (aim: 1.15)"]


def test_what_bounds_a_missed_aim_is_printed(capsys):
    class Worker:
        def ask(self, what, ratio, repeats):
            return {"shares": [("_FusedMatMul", 0.6), ("BatchMatMulV2", 0.2), ("Softmax", 0.2)]}

    rows = [_row("float32", 0.0, 10.0, 5.0), _row("float32", 0.5, 18.0, 10.0, 144.0)]
    speed._print_profiles(rows, "vit_base", Worker())
    text = capsys.readouterr().out
    assert "Missed at 0.5: 1.80 times timm (aim: 2), 72 % of the peak (aim: 75 %)" in text
    assert "matrix products take 80% of the time, at 90% of the peak; all else takes 20%" in text
    assert "at 0.0" not in text


def test_an_unknown_preset_is_told_before_anything_is_measured():
    with pytest.raises(RequestError, match="preset='vit_nano': must be one of vit_pico"):
        speed.compare("vit_nano")


def test_a_process_that_ends_early_is_a_run_error():
    with (
        speed_worker.Worker("other", "float32", "vit_pico", 2) as worker,
        pytest.raises(RunError, match=r"measuring other ended early: .*other"),
    ):
        worker.ask("peak", repeats=1)


def test_the_shortest_run_is_taken_and_warm_runs_are_not(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed_worker.time, "perf_counter", lambda: now[0])

    def timed(seconds):
        left, now[0] = [9.0, 9.0, *seconds], 0.0

        def run():
            now[0] += left.pop(0)

        return speed_worker.timed(run, 2, 3)["seconds"], left

    assert timed([5.0, 2.0, 3.0, 1.0]) == (2.0, [1.0])
    # Short runs go on for half a second.
    assert timed([0.25, 0.125, 0.125, 0.0625, 0.0625]) == (0.125, [0.0625, 0.0625])
    assert timed([0.125, 0.125, 0.125, 0.0625, 0.0625, 0.5]) == (0.0625, [0.5])


@pytest.mark.large
def test_timm_stands_beside_where_it_is_installed(capsys):
    pytest.importorskip("timm", reason="needs timm: the extra 'references'")
    (row,) = speed.compare("vit_pico", 2, ratios=(0.5,), dtypes=("bfloat16",), repeats=1)
    assert row["timm_images_per_second"] > 0
    assert "ours / timm" in capsys.readouterr().out
