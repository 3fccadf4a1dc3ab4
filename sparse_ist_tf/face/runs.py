"""A training in this process, for programs that want the built run."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sparse_ist_tf.checkpoints.sources import register_encoder
from sparse_ist_tf.config import validate
from sparse_ist_tf.encoder.bundle import Encoder, keras_encoder
from sparse_ist_tf.encoder.frozen import FrozenEncoder
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.runs.finished_run import FinishedRun
from sparse_ist_tf.runs.training import train_and_evaluate
from sparse_ist_tf.workers.cluster import Cluster

_ENCODERS: dict[str, Encoder] = {}


def train(config: ConfigDict, workdir: str | Path) -> FinishedRun:
    """Trains as the command does, as one worker in this process.

    Args:
        config: as get_config gives it.
        workdir: the run directory; a training that was stopped there goes on, a finished one is
            read.

    Returns:
        The finished run: results, encoder, head and its subnets, images, features.

    Raises:
        RequestError: if the configuration isn't possible, or the folder holds another run.
        RunError: if an image can't be read, a loss is not finite, or a file can't be written.

    Example:
        >>> import tempfile
        >>> import sparse_ist_tf as si
        >>> config = si.get_config()
        >>> config.dataset.name, config.encoder.weights = "digits", "packaged:vit_pico"
        >>> config.total_epochs, config.head.hidden = 1.0, (32,)
        >>> run = si.train(config, tempfile.mkdtemp())  # doctest: +SKIP
        >>> run.results["accuracy"]["merged"] > 0.5  # doctest: +SKIP
        True
    """
    validate(config, 1)
    train_and_evaluate(config, workdir, Cluster(0, ()))
    return FinishedRun(workdir)


def hold_encoder(encoder: Encoder) -> str:
    """Makes an encoder known to this process.

    Returns:
        What `encoder.weights` calls it.
    """
    if not encoder.digest:  # its weights came with a .keras file
        told = keras_encoder(encoder.model, encoder.preprocessing, name=encoder.name)
        encoder = dataclasses.replace(encoder, digest=told.digest)
    plain = re.sub(r"\W+", "_", encoder.name.rpartition(":")[2])
    name = f"held:{plain}-{encoder.digest[:8]}"
    _ENCODERS[name] = encoder
    return name


def _load_held(rest: str, /, *, name: str, dtype: str, **options: Any) -> FrozenEncoder:
    if name not in _ENCODERS:
        raise RequestError(
            "is a model of a Python program that has ended; commands take it as in "
            "examples/own_encoder.py"
        )
    if options or dtype != "float32":
        wrong = next(iter(options), "dtype")
        raise RequestError(f"{wrong}: must not be given for a model that is made already")
    return dataclasses.replace(_ENCODERS[name], name=name)


register_encoder("held", _load_held)
