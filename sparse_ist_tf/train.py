"""Trains a head on the features of masked images, by default by IST on two local workers.

    python -m sparse_ist_tf.train
    python -m sparse_ist_tf.train --config=configs/aid.py --config.masks.ratio=0.75 --num_workers=4

With TF_CONFIG set the process joins that cluster as one worker; without it, num_workers processes
are started here, and started again where one dies; with --elastic those that are left go on without
it, until it can be taken back. SIGTERM, SIGHUP and Ctrl-C end a training behind a round, with a
checkpoint. The same command goes on from the last checkpoint of its run directory.
"""

import hashlib
import itertools
import json
import os
import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from sparse_ist_tf import config as default_config
from sparse_ist_tf import plugins
from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.config import identity, validate
from sparse_ist_tf.registry import find_algorithm
from sparse_ist_tf.reports.report import next_steps, summary
from sparse_ist_tf.reports.run_directory import FREE_KEYS, RunDirectory
from sparse_ist_tf.runs.trained import is_trained
from sparse_ist_tf.workers.agreement import request_facts
from sparse_ist_tf.workers.cluster import Cluster, joined_cluster
from sparse_ist_tf.workers.groups.elastic import ElasticWorker
from sparse_ist_tf.workers.groups.restarts import (
    Restarts,
    define_elastic_flags,
    define_restart_flags,
)
from sparse_ist_tf.workers.groups.roll_call import RollCall
from sparse_ist_tf.workers.launch import LIFELINE, follow_launcher, run_local_workers
from sparse_ist_tf.workers.preparing import are_local, is_preparing, prepare_outside
from sparse_ist_tf.workers.stopping import Stop

FLAGS = flags.FLAGS


def default_workdir(config: ConfigDict) -> str:
    """Where a run goes if --workdir doesn't say: named by its data set and configuration.

    Returns:
        A path below runs/; the same configuration gives the same path, so it is resumed.
    """
    values = identity(config)
    for key in FREE_KEYS:
        *above, last = key.split(".")
        here = values
        for part in above:
            here = here[part]
        here.pop(last, None)  # some are keys of pretrain
    text = json.dumps(values, sort_keys=True)
    name = Path(config.dataset.name.removeprefix("folder:")).resolve().name or "images"
    name = re.sub(r"[^\w.-]", "_", name)
    return f"runs/{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def default_num_workers(config: ConfigDict) -> int:
    """How many local workers --num_workers stands for where it isn't given.

    Returns:
        2, or 1 where a single worker has all to do.
    """
    alone = find_algorithm(config.ist.algorithm).single_worker or config.ist.num_subnets == 1
    return 1 if alone else 2


def main(_: list[str]) -> int:
    """Starts local workers, or is one."""
    follow_launcher(os.environ)
    plugins.load_plugins()
    config = FLAGS.config
    default = default_num_workers(config)
    cluster, num_workers = joined_cluster(os.environ, FLAGS.num_workers, default)
    validate(config, num_workers)
    if is_preparing(os.environ):
        return _prepare(config)
    directory = RunDirectory(FLAGS.workdir or default_workdir(config))
    if cluster is None:
        directory.check(config.to_dict())
        if results := directory.results():
            print(f"{directory.path} is finished.")
            return _show(directory, results)
        if num_workers > 1:
            command = _command()
            restarts = Restarts(FLAGS.max_restarts, directory.newest_checkpoint)
            status = prepare_outside(config.dataset.name, command) or run_local_workers(
                command,
                num_workers,
                restarts,
                FLAGS.grace_s,
                is_secluded=are_local(config.encoder.weights),
                is_elastic=FLAGS.elastic,
            )
            return status or _show(directory, directory.results())
    is_launched = bool(cluster and os.environ.get(LIFELINE))
    if cluster and cluster.num_workers > 1 and FLAGS.elastic and not is_launched:
        status = _elastic_worker(config, directory, cluster).run()
        return status if status or cluster.worker else _show(directory, directory.results())
    stop = Stop(FLAGS.grace_s, regroups=FLAGS.elastic and is_launched)
    stop.listen()
    with quiet():
        from sparse_ist_tf.runs.training import train_and_evaluate
    cluster = cluster or Cluster(0, ())
    results = train_and_evaluate(config, directory.path, cluster, stop, FLAGS.rounds_log)
    return 0 if is_launched or results is None else _show(directory, results)


def _command() -> list[str]:
    return [sys.executable, "-m", "sparse_ist_tf.train", *sys.argv[1:]]


def _elastic_worker(config: ConfigDict, directory: RunDirectory, cluster: Cluster) -> ElasticWorker:
    """What starts this worker's process for every group that it is part of."""
    facts = request_facts("train", config.to_dict())
    timeout_s = config.cluster.peer_timeout_s
    # How far the run is, the chief alone sees: it gives up for all.
    progress = itertools.count().__next__ if cluster.worker else directory.newest_checkpoint
    return ElasticWorker(
        _command(),
        RollCall(cluster, facts, timeout_s, FLAGS.elastic_wait_s),
        Restarts(FLAGS.max_restarts, progress),
        FLAGS.grace_s,
        lambda: is_trained(directory, config),
    )


def _prepare(config: ConfigDict) -> int:
    with quiet():
        from sparse_ist_tf.runs.parts import load_splits
    load_splits(config)
    return 0


def _show(directory: RunDirectory, results: dict) -> int:
    print(summary(results))
    print(f"Run directory: {directory.path} (report.md, head.keras, masks.png, tensorboard/)")
    for line in next_steps(directory.path, directory.config(), results, FLAGS.plugin):
        print(line)
    return 0


def define_flags() -> None:
    """Defines the command's flags."""
    plugins.define_flag()
    flags.DEFINE_string("workdir", None, "Run directory; runs/NAME-DIGEST where not given.")
    flags.DEFINE_integer("num_workers", None, "Local worker processes; 2 where not given.")
    text = "A folder where each worker notes its rounds: seconds, bytes; none where not given."
    flags.DEFINE_string("rounds_log", None, text)
    define_restart_flags()
    define_elastic_flags()


if __name__ == "__main__":
    run(main, define_flags, config=default_config)
