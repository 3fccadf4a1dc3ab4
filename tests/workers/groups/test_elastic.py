"""A worker of a cluster starts its process for one group after another; real, light processes."""

import json
import subprocess
import sys

import pytest

from sparse_ist_tf.workers.launch import free_ports

# What a member of a cluster runs: its place, the worker's script, the run's folder.
MEMBER = """
import json, os, sys
from sparse_ist_tf.workers.cluster import Cluster
from sparse_ist_tf.workers.groups.elastic import ElasticWorker
from sparse_ist_tf.workers.groups.roll_call import RollCall
from sparse_ist_tf.workers.groups.restarts import Restarts
worker, addresses, script, folder = json.loads(sys.argv[1])
roll_call = RollCall(Cluster(worker, tuple(addresses)), {}, 30.0, 2.0)
restarts = Restarts(9, lambda: len(os.listdir(folder)) if worker == 0 else object())
command = [sys.executable, "-c", script, folder, str(worker)]
sys.exit(ElasticWorker(command, roll_call, restarts, 5.0, lambda: False).run())
"""
# Trains until it is asked to end, a peer is gone, or all is done; place 1 dies at some starts.
WORKER = """
import json, os, sys, time
from sparse_ist_tf.workers.launch import follow_launcher
from sparse_ist_tf.workers.stopping import Stop
follow_launcher(os.environ)
folder, place = sys.argv[1:]
count = len(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"])
stop, asked, begun = Stop(regroups=True), [], time.monotonic()
stop.listen()
def names(kind):
    return [name for name in os.listdir(folder + "_more") if name.startswith(kind)]
def note(kind):
    open(f"{folder}_more/{kind}{len(names(kind))}", "w").close()
deaths = len(names("death"))
with stop.at_round_ends(asked.append):
    while not asked and time.monotonic() < begun + 100:
        time.sleep(0.1)
        if place == "0" and time.monotonic() > begun + 2 and (count == 1 or FULL_GETS_ON):
            open(f"{folder}/{os.getpid()}", "w").close()
        if place == "1" and deaths < DEATHS and time.monotonic() > begun + 3:
            note("death")
            os.kill(os.getpid(), 9)
        if count == 2 and len(names("death")) > deaths:
            sys.exit(print("error: worker 0 lost worker 1", file=sys.stderr) or 1)
        if time.monotonic() > begun + 6 and (count == 2 or STAYS_SMALL):
            sys.exit(0)
stop.end(asked[0], " after round 3")
"""


@pytest.fixture
def run(tmp_path):
    """Runs two members to their end; returns the status of the chief and what each said."""
    started = []

    def run_all(**names):
        (tmp_path / "run").mkdir()
        (tmp_path / "run_more").mkdir()
        script = WORKER
        for name, value in names.items():
            script = script.replace(name, str(value))
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        for worker in range(2):
            place = json.dumps([worker, addresses, script, str(tmp_path / "run")])
            command = [sys.executable, "-c", MEMBER, place]
            started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        _, err = started[0].communicate(timeout=200)
        if names["STAYS_SMALL"]:
            started[1].kill()
        _, other = started[1].communicate(timeout=200)
        return started[0].returncode, addresses[1], err.splitlines(), other.splitlines()

    yield run_all
    for process in started:
        process.kill()
        process.communicate()


def test_a_worker_whose_process_dies_again_comes_back_later(run):
    status, address, said, other = run(DEATHS=2, FULL_GETS_ON=True, STAYS_SMALL=False)
    lost = "warning: worker 0 lost worker 1; who is left goes on from the last checkpoint"
    assert status == 0, said
    assert said == [
        f"{lost} (8 restarts left)",
        f"{lost} (7 restarts left)",
        f"warning: 1 of 2 workers go on, without worker 1 ({address})",
        "warning: all 2 workers go on from the checkpoint",
    ]
    assert [line for line in other if "waits" not in line] == [
        "warning: worker 1 was ended by SIGKILL; who is left goes on from the last checkpoint "
        f"({left} restarts left)"
        for left in (8, 7)
    ]


@pytest.mark.large
def test_where_all_come_no_further_those_that_are_left_go_on_for_good(run):
    status, address, said, _ = run(DEATHS=9, FULL_GETS_ON=False, STAYS_SMALL=True)
    assert status == 0, said
    assert said[-1] == f"warning: 1 of 2 workers go on, without worker 1 ({address})"
