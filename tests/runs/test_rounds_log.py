"""What a worker notes of its rounds."""

import os
import socket
import sys
import time

import pytest

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.runs.rounds_log import RoundsLog, interface_bytes, read_rounds
from sparse_ist_tf.workers.ledger import Ledger


def test_lines_are_read_as_they_were_written(tmp_path):
    start = time.monotonic()
    log = RoundsLog(tmp_path / "rounds", 3)
    for round_ in (1, 2):
        log.add(round_, 20 * round_, Ledger({"weights": 100 * round_}))
    assert log.path == tmp_path / "rounds/worker_3.jsonl"
    with open(log.path, "a") as file:
        file.write('{"round": 3, "st')  # it is being written
    first, second = read_rounds(log.path)
    assert (first["round"], first["step"], first["sent"]) == (1, 20, {"weights": 100})
    assert (second["round"], second["step"], second["sent"]) == (2, 40, {"weights": 200})
    assert start <= first["seconds"] <= second["seconds"] <= time.monotonic()


def test_a_worker_that_starts_again_goes_on(tmp_path):
    for round_ in (1, 2):
        RoundsLog(tmp_path, 0).add(round_, round_, Ledger())
    assert [line["round"] for line in read_rounds(tmp_path / "worker_0.jsonl")] == [1, 2]


def test_no_file_has_no_lines_and_a_damaged_one_is_named(tmp_path):
    assert read_rounds(tmp_path / "none.jsonl") == []
    (tmp_path / "bad.jsonl").write_text("nothing\n")
    with pytest.raises(RunError, match=r"bad\.jsonl is damaged"):
        read_rounds(tmp_path / "bad.jsonl")


def test_a_folder_that_cant_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"worker_0\.jsonl can't be written"):
        RoundsLog(tmp_path / "file", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_interfaces_are_counted_without_the_loopback():
    before = interface_bytes(os.getpid())
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as one:
        server.accept()[0].close()
        one.send(bytes(10))
    after = interface_bytes()
    assert set(after) == {"received", "sent"}
    assert all(after[name] >= before[name] >= 0 for name in after)
    assert interface_bytes(2**30) == {}
