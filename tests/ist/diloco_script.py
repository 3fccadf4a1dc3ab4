"""DiLoCo's part of worker_script.py: small replicas, whose state and bytes are left in files."""

import json
import os

import numpy as np

from sparse_ist_tf.ist.diloco import Diloco
from sparse_ist_tf.ist.exchange.parameters import ALLOWED_FORMS, Forms
from sparse_ist_tf.ist.head import HeadSpec
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.ist.trainer import TrainerOptions, TrainingData

SPEC = HeadSpec(16, (150,), 5)  # seven blocks, the last one partly filled
ROUNDS, LOCAL_STEPS = 4, 4
SGD = {"class_name": "SGD", "config": {"momentum": 0.9}}
DIFFERENCES = ALLOWED_FORMS["differences"]
KINDS = {form: {"forms": Forms(differences=form), "optimizer": SGD} for form in DIFFERENCES}
KINDS["uneven"] = {"forms": Forms(differences="int4"), "num_subnets": 3}  # with Adam
SOME = ("float32", "int4", "uneven")  # in every run; the others where large tests run too
RESUMED = "uneven"


def data():
    """Features and labels that a head can learn."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 16)).astype(np.float32)
    return features, (features @ rng.normal(size=(16, 5))).argmax(1).astype(np.int32)


def make(link, **changed):
    """A trainer under test."""
    options = TrainerOptions(**{"num_subnets": 4, "local_steps": LOCAL_STEPS, **changed})
    shards = [np.arange(400)] * options.num_subnets
    return Diloco(SPEC, options, link, TrainingData(*data(), shards))


def run(folder, scope, link):
    """Kinds from the beginning, and on two workers one also from a half that one worker left.

    Args:
        folder: for one of so many workers' files, beside that of others.
        scope: "all" kinds, or a "few" of them.
        link: to the other workers.
    """
    os.makedirs(folder, exist_ok=True)
    half = f"{folder}/../../1/diloco" if link.num_workers > 1 else ""
    facts = {}

    def keep(trainer, name):
        state = trainer.gather()
        if link.chief:
            np.savez(f"{folder}/{name}.npz", **state.arrays())

    for kind in SOME if scope == "few" else KINDS:
        changed = KINDS[kind]
        trainer, before = make(link, **changed), link.ledger.training
        for _ in range(ROUNDS):
            trainer.run_round()
            if trainer.round == ROUNDS // 2 and kind == RESUMED:
                keep(trainer, f"{kind}_half")
        keep(trainer, kind)
        facts[kind] = link.ledger.training - before, ROUNDS * trainer.exchange.round_bytes()
        if half and kind == RESUMED:
            trainer = make(link, **changed)
            state = None
            if link.chief:
                with np.load(f"{half}/{kind}_half.npz") as arrays:
                    state = HeadState.of_arrays(arrays)
            trainer.restore(state, ROUNDS // 2, ROUNDS // 2 * LOCAL_STEPS)
            while trainer.round < ROUNDS:
                trainer.run_round()
            keep(trainer, f"{kind}_resumed")
    with open(f"{folder}/facts_{link.worker}.json", "w", encoding="utf-8") as file:
        json.dump(facts, file)
