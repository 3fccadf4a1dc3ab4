"""The comparison with timm measures what it says, and ends well when a process doesn't."""

import pytest

from sparse_ist_tf.encoder import speed
from sparse_ist_tf.encoder.fast import flops
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.errors import RequestError, RunError


def test_a_row_for_each_ratio_with_flops_of_the_work_done(capsys, monkeypatch):
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)  # without timm
    rows = speed.compare("vit_pico", 2, ratios=(0.0, 0.75), dtypes=("float32",), repeats=1)
    assert [row["ratio"] for row in rows] == [0.0, 0.75]
    model = create_encoder("vit_pico")
    for row, visible in zip(rows, (64, 16), strict=True):
        expected = row["images_per_second"] * flops(model, visible) / 1e9
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


def test_an_unknown_preset_is_told_before_anything_is_measured():
    with pytest.raises(RequestError, match="preset='vit_nano': must be one of vit_pico"):
        speed.compare("vit_nano")


def test_a_process_that_ends_early_is_a_run_error():
    with (
        speed._Worker("other", "float32", "vit_pico", 2) as worker,
        pytest.raises(RunError, match=r"measuring other ended early: .*other"),
    ):
        worker.ask("peak", repeats=1)


def test_the_shortest_run_is_taken_and_warm_runs_are_not(monkeypatch):
    clock = iter([0.0, 5.0, 5.0, 7.0, 7.0, 10.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    calls = []
    assert speed._timed(lambda: calls.append(1), 2, 3)["seconds"] == 2.0
    assert len(calls) == 5


@pytest.mark.large
def test_timm_stands_beside_where_it_is_installed(capsys):
    pytest.importorskip("timm", reason="needs timm: the extra 'references'")
    (row,) = speed.compare("vit_pico", 2, ratios=(0.5,), dtypes=("bfloat16",), repeats=1)
    assert row["timm_images_per_second"] > 0
    assert "ours / timm" in capsys.readouterr().out
