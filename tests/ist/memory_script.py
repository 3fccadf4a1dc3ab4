"""One worker of test_memory.py: trains a wide head for some rounds and leaves what it held."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np

from sparse_ist_tf.ist.head import HeadSpec
from sparse_ist_tf.ist.rounds import IstTrainer
from sparse_ist_tf.ist.trainer import TrainerOptions, TrainingData
from sparse_ist_tf.workers.cluster import make_strategy, read_tf_config
from sparse_ist_tf.workers.launch import follow_launcher
from sparse_ist_tf.workers.link import Link, Shape


def _bytes(what):
    """Of this process: "VmHWM" is the most since it was reset."""
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def _growth(trainer, link, rounds):
    """Bytes that a round adds behind as many others, and what is sent outside of rounds."""
    for _ in ("to warm up", "to measure"):
        before = _bytes("VmRSS")
        for _ in range(rounds):
            trainer.run_round()
            link.all_gather(np.zeros(3), purpose="control")
            link.broadcast(
                np.zeros((5, 2)) if link.chief else Shape((5, 2), float), purpose="control"
            )
    return (_bytes("VmRSS") - before) / rounds


def main(folder, width, rounds=0):
    """Trains heads of a small and of the wanted width; the small one pays for what is fixed."""
    follow_launcher(os.environ)
    cluster = read_tf_config(os.environ)
    link = Link(make_strategy(cluster, 60.0), cluster.worker, cluster.num_workers, 300.0)
    rng, count = np.random.default_rng(0), cluster.num_workers
    features = rng.normal(size=(256, 16)).astype(np.float32)
    labels = rng.integers(0, 10, 256).astype(np.int32)
    data = TrainingData(features, labels, [np.arange(256)] * count)
    found = {}
    for name, neurons in (("fixed", 64), ("wide", int(width))):
        before = _bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        options = TrainerOptions(num_subnets=count, local_steps=2)
        trainer = IstTrainer(HeadSpec(16, (neurons, neurons), 10), options, link, data)
        for _ in range(2):
            trainer.run_round()
        found[name] = _bytes("VmHWM") - before
    if rounds:
        found["growth"] = _growth(trainer, link, int(rounds))
    Path(folder, f"{cluster.worker}.json").write_text(json.dumps(found), encoding="utf-8")
    link.part()


if __name__ == "__main__":
    main(*sys.argv[1:])
