"""A folder of which nothing is left."""

import multiprocessing
import os
import signal

import pytest

from sparse_ist_tf.export.staging import ended_by_signals, staging


def test_it_lies_beside_the_output_and_goes_with_what_was_made_for_it(tmp_path):
    output = tmp_path / "a" / "b" / "phone"
    try:
        with staging(output) as folder:
            assert folder.parent == output.parent
            (folder / "file").touch()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert list(tmp_path.iterdir()) == []
    with staging(output):
        output.mkdir()
    assert list(output.parent.iterdir()) == [output]


def _be_killed(output):
    with staging(output):
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    output = tmp_path / "phone"
    process = multiprocessing.get_context("spawn").Process(target=_be_killed, args=(output,))
    process.start()
    process.join()
    (left,) = tmp_path.iterdir()
    with staging(output) as first, staging(output) as second:
        assert {*tmp_path.iterdir()} == {first, second}, "that of a process at work stays"
        assert left not in (first, second)
    assert list(tmp_path.iterdir()) == []


def test_signals_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(SystemExit) as ended, ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_what_ignores_a_hangup_goes_on_doing_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
