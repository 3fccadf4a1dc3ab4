"""One worker of conftest.py: trains small heads and leaves what it saw in files."""

import json
import sys

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange.parameters import Forms
from sparse_ist_tf.ist.head import HeadSpec
from sparse_ist_tf.ist.local import logit_adjustments
from sparse_ist_tf.ist.rounds import IstTrainer
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.ist.synchronous import DataParallel, LocalSgd
from sparse_ist_tf.ist.trainer import TrainerOptions, TrainingData
from sparse_ist_tf.workers.cluster import Cluster, make_strategy, read_tf_config
from sparse_ist_tf.workers.ledger import Ledger
from sparse_ist_tf.workers.link import Link, Shape

SPEC = HeadSpec(16, (64, 48), 5)
ROUNDS, LOCAL_STEPS, SUBNETS = 10, 5, 4
# In every run; the others where large tests run too.
SOME = ("carry", "states", "thin")
KINDS = (*SOME, "reset", "gradients", "published", "dressed", "many")
HALVES = ("carry", "published", "dressed", "states", "thin")  # kinds that another run goes on with


def data():
    """Features and labels that a head can learn."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 16)).astype(np.float32)
    return features, (features @ rng.normal(size=(16, 5))).argmax(1).astype(np.int32)


class CountingLink(Link):
    """Counts the bytes of the tensors that go into collectives, apart from the ledger."""

    sent = 0

    def send(self, words, worker, channel, purposes, is_first):
        def count(*sizes):
            self.sent += 4 * int(sum(sizes))
            return np.int32(0)

        pieces = channel.pieces(channel.length(tf.size(words), is_first))
        sizes = [p.size if p.crosses is None else tf.where(p.crosses, p.size, 0) for p in pieces]
        with tf.control_dependencies([tf.numpy_function(count, sizes, tf.int32)]):
            return super().send(tf.identity(words), worker, channel, purposes, is_first)


def make(kind, link):
    """One of the trainers under test."""
    features, labels = data()
    changes = {
        "reset": {"moments": "reset"},
        "published": {
            "moments": "slot",
            "biases": "slot",
            "keep_last_step": False,
            "capacities": (4.0, 2.0, 1.0, 1.0),  # one worker of two hosts three of them
        },
        "many": {"num_subnets": 16},
        "thin": {"forms": Forms("bfloat16", "int4", "int8", "neuron")},
        "dressed": {
            "standardize": True,
            "normalization": "batch",
            "dropout": 0.2,
            "forms": Forms(second_moment="halvings"),
            "logit_adjustment": True,
        },
    }
    kind = kind.removesuffix("-resumed")
    changed = {"num_subnets": SUBNETS, **changes.get(kind, {})}
    options = TrainerOptions(local_steps=LOCAL_STEPS, **changed)
    shards = [np.arange(400)] * options.num_subnets
    if options.logit_adjustment:
        shards = [np.flatnonzero(labels != n) for n in range(options.num_subnets)]
    adjustments = logit_adjustments(labels, shards, SPEC.num_classes)
    data_ = TrainingData(features, labels, shards, None, adjustments)
    algorithm = {"gradients": DataParallel, "states": LocalSgd}.get(kind, IstTrainer)
    return algorithm(SPEC, options, link, data_)


def _crossings(link):
    """What came of arrays that crossed, and what the ledger says of them."""
    start = link.ledger.counts()
    large = np.array([2**40 + 1, 2**24 + 1], np.int64)
    got = link.broadcast(large if link.chief else Shape((2,), np.int64), purpose="checkpoint")
    rows = link.all_gather(np.array([2**40 + link.worker]), purpose="control")
    sent = Ledger.of_counts(link.ledger.counts() - start).as_dict()
    return {"broadcast": got.tolist(), "gathered": rows.ravel().tolist(), "sent": sent}


def main(folder, scope):
    """Runs every kind of trainer and stores its merged head; four workers go on from one's halves.

    Args:
        folder: for what one of so many workers leaves, beside that of others.
        scope: "all" kinds, or a "few" of them.
    """
    import os

    import diloco_script  # beside this file

    tf.config.experimental.enable_op_determinism()
    cluster = read_tf_config(os.environ) or Cluster(0, ())
    strategy = make_strategy(cluster, 60.0)
    link = CountingLink(strategy, cluster.worker, cluster.num_workers, 120.0)
    link.check_order()
    facts = {"link": _crossings(link)}
    kinds = SOME if scope == "few" else KINDS
    if cluster.num_workers == 4:
        kinds = ("carry", *(f"{kind}-resumed" for kind in HALVES))
    for kind in kinds:
        facts[kind] = _facts(folder, kind, link)
    with open(f"{folder}/facts_{cluster.worker}.json", "w", encoding="utf-8") as file:
        json.dump(facts, file)
    if cluster.num_workers < 4:
        diloco_script.run(f"{folder}/diloco", scope, link)


def _facts(folder, kind, link):
    """Trains one kind of trainer to its end, and says what crossed."""
    trainer, facts = make(kind, link), {}
    if kind.endswith("-resumed"):
        with np.load(f"{folder}/../1/{kind.removesuffix('-resumed')}_half.npz") as half:
            state = HeadState.of_arrays(half) if link.chief else None
        start = link.ledger.counts()
        trainer.restore(state, ROUNDS // 2, ROUNDS // 2 * LOCAL_STEPS)
        facts["restored"] = Ledger.of_counts(link.ledger.counts() - start).as_dict()
    before, counted = link.sent, link.ledger.counts()
    while trainer.round < ROUNDS:
        record = trainer.run_round()
        if kind in HALVES and trainer.round == ROUNDS // 2:
            _keep(trainer, f"{folder}/{kind}_half.npz")
    facts["loss"] = record["loss"]
    facts["sent"] = link.sent - before
    facts["ledger"] = Ledger.of_counts(link.ledger.counts() - counted).as_dict()
    if isinstance(trainer, IstTrainer):
        facts["bound"] = ROUNDS * trainer.exchange.lower_bound_bytes()
    _keep(trainer, f"{folder}/{kind}.npz")
    return facts


def _keep(trainer, path):
    state = trainer.gather()
    if trainer.link.chief:
        np.savez(path, **state.arrays())


if __name__ == "__main__":
    main(*sys.argv[1:])
