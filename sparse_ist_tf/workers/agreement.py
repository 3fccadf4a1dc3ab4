"""What all workers must have alike, and which of them has something else."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

import sparse_ist_tf
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.workers.preparing import place_of

if TYPE_CHECKING:
    from sparse_ist_tf.workers.link import Link

PROTOCOL = 1  # raise it when what workers send each other changes
# Keys that may differ from worker to worker: where things lie, and how patient each is.
OF_A_HOST = (
    "cluster.peer_timeout_s",
    "dataset.cache_dir",
    "dataset.data_dir",
    "features.cache_dir",
)

Facts = Mapping[str, str]


def command_facts(command: str, config: Mapping) -> dict[str, str]:
    """What a process is about to do: its versions, its command, its configuration key by key.

    Args:
        command: its name.
        config: plain values, nested.

    Returns:
        Texts by what they are of; of the configuration without what may differ.
    """
    import keras
    import tensorflow as tf

    versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    return versions | request_facts(command, config)


def request_facts(command: str, config: Mapping) -> dict[str, str]:
    """What a process is asked to do, as far as it knows without TensorFlow.

    Args:
        command: its name.
        config: as command_facts.

    Returns:
        As command_facts, without others' versions.
    """
    facts = {
        "sparse_ist_tf": sparse_ist_tf.__version__,
        "protocol": str(PROTOCOL),
        "command": command,
    }
    values = {name: value for name, value in _leaves(config) if name not in OF_A_HOST}
    name = str(values.get("dataset.name", ""))
    if place_of(name):
        values["dataset.name"] = name.partition(":")[0] + ":"  # it may lie elsewhere
    return facts | {name: _text(value) for name, value in values.items()}


def _leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def disagreement(facts: Sequence[Facts]) -> str | None:
    """The first thing that a worker has otherwise than worker 0, in one line.

    Args:
        facts: of every worker, in their order.

    Returns:
        None where all are alike.
    """
    for key in dict.fromkeys(key for some in facts for key in some):
        for worker, some in enumerate(facts):
            if some.get(key) != facts[0].get(key):
                mine, first = (one.get(key, "none") for one in (some, facts[0]))
                return (
                    f"{key}: worker {worker} has {mine}, worker 0 has {first}: must be the same on "
                    "all workers"
                )
    return None


def agree(link: "Link", facts: Facts) -> None:
    """Makes sure that all workers have the same; called by all workers.

    Args:
        link: to the other workers.
        facts: texts by what they are of.

    Raises:
        RequestError: on every worker, with the first difference.
    """
    if link.num_workers == 1:
        return
    mine = json.dumps(dict(facts)).encode()
    sizes = link.all_gather(np.array([len(mine)], np.int64), purpose="control").ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(mine)] = np.frombuffer(mine, np.uint8)
    texts = link.all_gather(padded.astype(np.int32), purpose="control").astype(np.uint8)
    found = [json.loads(row[:size].tobytes()) for row, size in zip(texts, sizes, strict=True)]
    if difference := disagreement(found):
        raise RequestError(difference)
