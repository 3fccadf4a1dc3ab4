"""What local workers can't do where they reach no network: fetch data sets."""

import os
import subprocess
from collections.abc import Mapping, Sequence

_PREPARING = "SPARSE_IST_PREPARING"
IN_PACKAGES = ("mnist5k", "digits")  # data sets whose images other packages carry
_HUBS = ("hf:", "keras_hub:", "resnet50:imagenet")


def from_hub(weights: str) -> bool:
    """Whether weights, as encoder.weights has them, are asked of the network at every start."""
    return weights.startswith(_HUBS)


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
        The exit status of that process; 0 where there is nothing to fetch.
    """
    if dataset in IN_PACKAGES or dataset.startswith("folder:"):
        return 0
    return subprocess.run(command, env={**os.environ, _PREPARING: "1"}).returncode
