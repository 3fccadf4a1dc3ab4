"""The cluster of a Kubernetes Job whose pods are indexed.

    TF_CONFIG=$(python -m sparse_ist_tf.workers.indexed_job) exec python -m sparse_ist_tf.train ...

joins, as a pod of the Job, its other pods.
"""

import json
import os
import re
from collections.abc import Mapping

from sparse_ist_tf.errors import RequestError

PORT = 2222


def indexed_job_tf_config(environment: Mapping[str, str]) -> str:
    """TF_CONFIG for a pod of an indexed Job, from variables of its container.

    Pods of the Job J, in the subdomain of a headless Service S, are J-0.S, J-1.S and so on; each
    has its own name as its host name.

    Source: kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication.

    Args:
        environment: with HOSTNAME and JOB_COMPLETION_INDEX, which Kubernetes sets, and from the
            manifest NUM_WORKERS, as many as completions, and SERVICE, the Service's name.

    Raises:
        RequestError: if a variable is missing or can't be understood.
    """
    values = {}
    for name in ("JOB_COMPLETION_INDEX", "HOSTNAME", "NUM_WORKERS", "SERVICE"):
        if not environment.get(name):
            raise RequestError(f"{name} is not set: must be, in a pod of an indexed Job")
        values[name] = environment[name]
    for name in ("JOB_COMPLETION_INDEX", "NUM_WORKERS"):
        if not re.fullmatch(r"\d+", values[name]):
            raise RequestError(f"{name}={values[name]!r}: must be a whole number")
    index, num_workers = int(values["JOB_COMPLETION_INDEX"]), int(values["NUM_WORKERS"])
    if not index < num_workers:
        raise RequestError(
            f"NUM_WORKERS={num_workers}: must be the Job's completions, this is its pod {index}"
        )
    job, _, last = values["HOSTNAME"].rpartition("-")
    if last != str(index):
        raise RequestError(
            f"HOSTNAME={values['HOSTNAME']!r}: must end in -{index}, the pod's index"
        )
    addresses = [f"{job}-{i}.{values['SERVICE']}:{PORT}" for i in range(num_workers)]
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


if __name__ == "__main__":
    from sparse_ist_tf.commands import run

    run(lambda _: print(indexed_job_tf_config(os.environ)))
