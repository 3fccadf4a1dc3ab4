"""The run directory survives what happens to it."""

import contextlib
import json
import multiprocessing
import types

import numpy as np
import pytest

from sparse_ist_tf import files, pretrain_config, study_config
from sparse_ist_tf.config import completed, get_config
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.reports import run_directory
from sparse_ist_tf.reports.run_directory import RunDirectory

CONFIG = {"seed": 0, "masks": {"ratio": 0.5}, "dataset": {"data_dir": "a"}}


def _state(value):
    return {"dense_0/kernel": np.full((3, 2), value, np.float32)}


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    directory = RunDirectory(tmp_path)
    assert directory.checkpoint() is None
    for number in (1, 2, 10):
        directory.save_checkpoint(_state(number), {"round": number, "step": 20 * number})
    assert len(list(tmp_path.glob("checkpoints/*"))) == 2
    state, progress = directory.checkpoint()
    assert progress == {"round": 10, "step": 200}
    assert np.array_equal(state["dense_0/kernel"], _state(10)["dense_0/kernel"])


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys, damage):
    directory = RunDirectory(tmp_path)
    for number in (1, 2):
        directory.save_checkpoint(_state(number), {"round": number, "step": number})
    newest = sorted(tmp_path.glob("checkpoints/*"))[-1]
    data = newest.read_bytes()
    changed = {"cut": data[:-4], "flip": data[:-1] + b"\x01", "empty": b""}[damage]
    newest.write_bytes(changed)
    _, progress = directory.checkpoint()
    assert progress["round"] == 1
    assert f"{newest} is damaged and not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new"), [("674", "274"), ("features", "featvres"), ("kern", "kerm")]
)
def test_a_checkpoint_s_words_are_covered_too(tmp_path, capsys, old, new):
    directory = RunDirectory(tmp_path)
    for number in (1, 2):
        directory.save_checkpoint(_state(1), {"round": number, "step": 674, "features": {}})
    newest = sorted(tmp_path.glob("checkpoints/*"))[-1]
    newest.write_bytes(newest.read_bytes().replace(old.encode(), new.encode(), 1))
    _, progress = directory.checkpoint()
    assert progress == {"round": 1, "step": 674, "features": {}}
    assert f"{newest} is damaged and not used" in capsys.readouterr().err


def test_another_configuration_is_refused_and_named(tmp_path):
    directory = RunDirectory(tmp_path)
    with directory.opened(CONFIG):
        pass
    with pytest.raises(RequestError, match=r"another masks\.ratio \(0\.5, not 0\.75\)"):
        directory.check({**CONFIG, "masks": {"ratio": 0.75}})
    directory.check({**CONFIG, "dataset": {"data_dir": "b"}})  # changes where, not what
    assert directory.config() == CONFIG


def test_a_run_of_0_1_0_goes_on_with_the_same_configuration(tmp_path):
    """Which had keys that are part of encoder.weights, and lacks those that came later."""
    old = get_config().to_dict()
    old["encoder"] |= {"num_heads": 0, "qk_scale": 0.0, "epsilon": 0.0}
    del old["head"]["dropout"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    config = get_config()
    RunDirectory(tmp_path).check(config.to_dict())
    config.head.dropout = 0.5
    with pytest.raises(RequestError, match=r"another head.dropout \(0.0, not 0.5\)"):
        RunDirectory(tmp_path).check(config.to_dict())
    old["encoder"]["num_heads"] = 6
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(RequestError, match=r"another encoder\.weights"):
        RunDirectory(tmp_path).check(get_config().to_dict())


def test_a_directory_of_another_command_is_refused(tmp_path):
    commands = {
        "train": (get_config().to_dict(), completed),
        "pretrain": (pretrain_config.get_config().to_dict(), pretrain_config.completed),
        "study": ({"base": get_config().to_dict(), "num_workers": 1}, study_config.completed),
    }
    for name, (config, _) in commands.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    for name, (config, complete) in commands.items():
        for other in commands:
            if other == name:
                RunDirectory(tmp_path / other).check(config, complete)
            else:
                with pytest.raises(RequestError, match="holds a run with another"):
                    RunDirectory(tmp_path / other).check(config, complete)


@pytest.mark.parametrize("taken", [True, False])
def test_windows_locks_are_used_where_there_are_no_others(tmp_path, monkeypatch, taken):
    def locking(descriptor, mode, count):
        assert (mode, count) == ("non-blocking", 1)
        if taken:
            raise PermissionError(13, "Permission denied")

    fake = types.SimpleNamespace(__name__="msvcrt", locking=locking, LK_NBLCK="non-blocking")
    monkeypatch.setattr(run_directory, "locks", fake)
    opened = RunDirectory(tmp_path).opened(CONFIG, patience_s=0.0)
    outcome = pytest.raises(RequestError, match="another process is at work")
    with outcome if taken else contextlib.nullcontext(), opened:
        assert not taken


def _hold(path, ready, done):
    with RunDirectory(path).opened(CONFIG):
        ready.set()
        done.wait(30)


def test_two_processes_cannot_work_in_one_directory(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        directory = RunDirectory(tmp_path)
        with (
            pytest.raises(RequestError, match="another process is at work"),
            directory.opened(CONFIG, patience_s=0.3),
        ):
            pass
    finally:
        done.set()
        other.join()
    with RunDirectory(tmp_path).opened(CONFIG, patience_s=0.0):
        pass


def test_metrics_are_rewound_to_the_checkpoint(tmp_path):
    directory = RunDirectory(tmp_path)
    for step in (20, 40, 60):
        directory.append_metrics({"step": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8')  # torn by a kill
    assert [record["step"] for record in directory.metrics()] == [20, 40, 60]
    assert directory.rewind_metrics(40) == [{"step": 20}, {"step": 40}]
    assert [record["step"] for record in directory.metrics()] == [20, 40]


def _lines(tmp_path, *steps):
    for step in steps:
        RunDirectory(tmp_path).append_metrics({"step": step})
    return tmp_path / "metrics.jsonl"


@pytest.mark.parametrize(
    "tail", [b"\x00" * 4096, b'{"step": \xff\xfe}\n', b"\x80", b'{"st', b"12\n", b"{}\n"]
)
def test_a_damaged_tail_is_cut_off(tmp_path, capsys, tail):
    """Power cuts leave blocks of zeros, and worse."""
    path = _lines(tmp_path, 20, 40)
    with open(path, "ab") as file:
        file.write(tail)
    directory = RunDirectory(tmp_path)
    assert directory.metrics() == directory.rewind_metrics(60) == [{"step": 20}, {"step": 40}]
    assert capsys.readouterr().err == ""
    directory.append_metrics({"step": 60})
    assert [record["step"] for record in directory.metrics()] == [20, 40, 60]
    assert directory.last_metrics() == {"step": 60}


def test_damage_that_costs_more_than_the_last_line_is_said(tmp_path, capsys):
    path = _lines(tmp_path, 20, 40, 60, 80)
    path.write_bytes(path.read_bytes().replace(b"40", b"\xff\xff"))
    assert RunDirectory(tmp_path).metrics() == [{"step": 20}]
    warning = f"warning: {path} is damaged from line 2 on; 3 lines are not used\n"
    assert capsys.readouterr().err == warning


@pytest.mark.parametrize("data", [None, b"", b"\x00" * 512, b"\xff\n"])
def test_no_metrics_at_all_are_one_line(tmp_path, data):
    if data is not None:
        (tmp_path / "metrics.jsonl").write_bytes(data)
    with pytest.raises(RunError, match=r"metrics\.jsonl: is missing or damaged"):
        RunDirectory(tmp_path).last_metrics()


@pytest.mark.parametrize("data", [b"", b"\x00" * 512, b'{"a": "\xff"}', b"3", b'{"a": 1}\x00'])
def test_files_of_json_that_lost_bytes_are_named(tmp_path, data):
    directory = RunDirectory(tmp_path)
    for name in ("config.json", "results.json"):
        (tmp_path / name).write_bytes(data)
    for call in (directory.config, directory.results, lambda: directory.check(CONFIG)):
        with pytest.raises(RunError, match=r"(config|results)\.json is damaged"):
            call()


def test_damaged_files_are_named(tmp_path):
    directory = RunDirectory(tmp_path)
    with pytest.raises(RequestError, match="is no run directory"):
        directory.config()
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "results.json").write_text("[1,")
    (tmp_path / "head.keras").write_bytes(b"PK")
    for call in (directory.config, directory.results, directory.head):
        with pytest.raises(RunError, match="damaged"):
            call()


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path)
    directory.save_checkpoint(_state(1), {"round": 1, "step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match="can't be written: No space left on device"):
        directory.save_checkpoint(_state(2), {"round": 2, "step": 2})
    _, progress = directory.checkpoint()
    assert progress["round"] == 1


def test_a_bad_request_leaves_no_new_directory(tmp_path):
    def fail(path):
        with RunDirectory(path).opened(CONFIG):
            raise RequestError("no such data")

    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(RequestError, match="no such data"):
            fail(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_directory_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    directory = RunDirectory(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="can't be written"), directory.opened(CONFIG):
        pass
