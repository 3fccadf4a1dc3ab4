"""What local workers can't do where they reach no network: fetch data sets."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from sparse_ist_tf.workers.launch import LIFELINE

_PREPARING = "SPARSE_IST_PREPARING"
_OF_PLACES = ("folder", "npz")  # kinds of data sets that are named by a path
IN_PACKAGES = ("mnist5k", "digits")  # data sets whose images other packages carry


def place_of(dataset: str) -> str:
    """The path in a dataset.name that has one, such as "photos" in "folder:photos"; else empty."""
    kind, _, path = dataset.partition(":")
    return path if kind in _OF_PLACES else ""


def are_local(weights: str) -> bool:
    """Whether weights, as encoder.weights has them, are never asked of the network.

    Examples:
        >>> [are_local(w) for w in ("packaged:vit_micro", "vit.npz", "hf:google/vit-base")]
        [True, True, False]
    """
    kind, colon, name = weights.partition(":")
    if not colon or kind in ("packaged", "random"):
        return True
    return kind == "resnet50" and name != "imagenet"


def is_preparing(environment: Mapping[str, str]) -> bool:
    """Whether this process is to fetch its data alone.

    Args:
        environment: such as os.environ.
    """
    return bool(environment.get(_PREPARING))


def prepare_outside(dataset: str, command: Sequence[str]) -> int:
    """Has a process fetch a data set that may have to be fetched, before workers are secluded.

    Args:
        dataset: as dataset.name.
        command: of a worker.

    Returns:
        The exit status of that process, which doesn't outlive this one; 0 where there is nothing
        to fetch.
    """
    if dataset in IN_PACKAGES or place_of(dataset):
        return 0
    environment = {**os.environ, _PREPARING: "1", LIFELINE: "1"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        return process.wait()
