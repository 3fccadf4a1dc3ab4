"""From a configuration to the parts of a run, and from a state to its accuracies."""

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.codec.thin_link import ThinLink
from sparse_ist_tf.config import hidden_widths, ist_options
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.ist.finetuning import FineTuningTrainer
from sparse_ist_tf.ist.head import HeadSpec, accuracy, fold, logits, table_of_accuracies
from sparse_ist_tf.ist.partition import Partition, make_partition
from sparse_ist_tf.ist.rounds import IstTrainer
from sparse_ist_tf.ist.synchronous import SynchronousTrainer
from sparse_ist_tf.ist.trainer import Trainer, TrainerOptions
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.runs.schedules import learning_rate_schedule

CENTRALIZED = "centralized"  # what the baseline's arrays are filed under in a run's state
_CLASSES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "lion": "Lion", "rmsprop": "RMSprop"}


def load_splits(config: ConfigDict) -> dict[str, datasets.Split]:
    """The data set of a configuration.

    Args:
        config: valid.

    Returns:
        {"train": ..., "test": ...}.

    Raises:
        RequestError: if it isn't there or can't be used.
    """
    return datasets.load(
        config.dataset.name,
        data_dir=config.dataset.data_dir or None,
        split_seed=config.dataset.split_seed,
        on_bad_image=config.dataset.on_bad_image,
    )


def head_spec(config: ConfigDict, feature_dim: int, num_classes: int) -> HeadSpec:
    """The shape of a configuration's merged head.

    Args:
        config: valid.
        feature_dim: of the encoder.
        num_classes: of the data set.

    Returns:
        The shape.
    """
    return HeadSpec(feature_dim, hidden_widths(config), num_classes)


def mask_options(config: ConfigDict) -> MaskOptions:
    """The masks of a configuration.

    Args:
        config: valid.

    Returns:
        Their options, with the run's seed.
    """
    masks = config.masks
    return MaskOptions(masks.kind, masks.ratio, masks.pattern, config.seed)


def thin_link(config: ConfigDict) -> ThinLink:
    """The link of a configuration that images or features cross.

    Args:
        config: valid.

    Returns:
        What it does to them.
    """
    transport = config.transport
    return ThinLink(transport.codec, int(transport.quality), transport.features)


def with_tuned_encoder(config: ConfigDict, folder: str | Path) -> ConfigDict:
    """The configuration of a finished run with the encoder that it ended with.

    Args:
        config: of the run.
        folder: the run directory.

    Returns:
        A new configuration; of a run whose encoder's blocks trained, encoder.weights are its
        encoder.safetensors.
    """
    config = ConfigDict(config.to_dict())
    if config.encoder.trainable_blocks:
        config.encoder.weights = str(Path(folder).resolve() / "encoder.safetensors")
        config.encoder.trainable_blocks = 0
    return config


def optimizer_config(config: ConfigDict) -> dict:
    """The optimizer of a configuration, as keras.optimizers.serialize gives it.

    Args:
        config: valid.

    Returns:
        A dictionary.

    Raises:
        RequestError: if Keras refuses config.optimizer.kwargs.
    """
    make = getattr(keras.optimizers, _CLASSES[config.optimizer.name])
    kwargs = config.optimizer.kwargs.to_dict()
    if "learning_rate" in kwargs:
        raise RequestError("optimizer.kwargs has learning_rate: must be given as learning_rate")
    try:
        return keras.optimizers.serialize(make(**kwargs))
    except (TypeError, ValueError) as error:
        raise RequestError(f"optimizer.kwargs={kwargs}: {error}") from None


def make_trainer(
    config, spec, link, features, labels, ledger, steps: int, tuning: Mapping | None = None
) -> Trainer:
    """The trainer of config.ist.algorithm.

    Args:
        config: valid.
        spec: the head's shape.
        link: to the other workers.
        features: float32[n, feature_dim].
        labels: int32[n].
        ledger: where bytes are counted.
        steps: of the whole run, for the schedule.
        tuning: where the encoder's blocks train, FineTuningTrainer's encoder and tokens; the
            features are not used then.

    Returns:
        A trainer at step 0.

    Raises:
        RequestError: if the optimizer's moments can't travel.
    """
    ist, head = ist_options(config), config.head
    count = 1 if ist.algorithm == "centralized" else ist.num_subnets
    options = TrainerOptions(
        num_subnets=count,
        capacities=tuple(ist.capacities) if ist.algorithm == "ist" else (),
        local_steps=ist.local_steps,
        moments=ist.moments if ist.algorithm == "ist" else "carry",
        biases=ist.biases if ist.algorithm == "ist" else "carry",
        scale_inputs=ist.scale_inputs,
        keep_last_step=ist.keep_last_step or ist.algorithm != "ist",
        batch_size=config.batch_size,
        label_smoothing=config.label_smoothing,
        initializer=head.initializer,
        standardize=head.standardize,
        normalization=head.normalization,
        dropout=head.dropout,
        optimizer=optimizer_config(config),
        learning_rate=learning_rate_schedule(config, steps),
        seed=config.seed,
    )
    shards = datasets.shard_indices(
        labels,
        count,
        kind=config.dataset.shards,
        alpha=config.dataset.dirichlet_alpha,
        seed=config.seed,
    )
    if tuning:
        return FineTuningTrainer(
            *(spec, options, link, labels, shards, ledger),
            trainable_blocks=config.encoder.trainable_blocks,
            rate_factor=config.encoder.learning_rate_factor,
            **tuning,
        )
    parts = (spec, options, link, features, labels, shards, ledger)
    if ist.algorithm == "data_parallel":
        return SynchronousTrainer(*parts, average="gradients")
    if ist.algorithm == "local_sgd":
        return SynchronousTrainer(*parts, average="states")
    return IstTrainer(*parts)


def parameters_of(state: Mapping[str, np.ndarray], of: str = "") -> dict[str, np.ndarray]:
    """The parameters of a head in a run's state, statistics folded in, without the moments.

    Args:
        state: as a checkpoint has it.
        of: "" for the merged head, "centralized" for the baseline.

    Returns:
        Arrays by name; none where the state has no such head.
    """
    place = f"{of}/" if of else ""
    head, statistics = {}, {}
    for name, value in state.items():
        if name.startswith(f"{place}statistics/"):
            statistics[name.removeprefix(f"{place}statistics/")] = value
        elif name.startswith(f"{place}dense_") and "/moment_" not in name:
            head[name.removeprefix(place)] = value
    return fold(head, statistics)


def last_partition(config: ConfigDict, spec: HeadSpec, rounds: int) -> Partition | None:
    """Who held which neuron in the last round.

    Args:
        config: valid.
        spec: the head's shape.
        rounds: done.

    Returns:
        The partition; None for a head that is trained whole.
    """
    ist = config.ist
    if ist.algorithm != "ist" or ist.num_subnets == 1:
        return None
    return make_partition(
        config.seed, rounds - 1, tuple(spec.hidden), ist.num_subnets, tuple(ist.capacities)
    )


def accuracies(
    config: ConfigDict,
    spec: HeadSpec,
    state: Mapping[str, np.ndarray],
    rounds: int,
    features: np.ndarray,
    labels: np.ndarray,
) -> dict:
    """Every accuracy of a state: merged head, subnets of its last round, ensembles, baseline.

    Args:
        config: valid.
        spec: the head's shape.
        state: as a checkpoint has it.
        rounds: done.
        features: float32[n, feature_dim].
        labels: int[n].

    Returns:
        As table_of_accuracies, and "centralized", None where there is no baseline.
    """
    partition, scale = last_partition(config, spec, rounds), ist_options(config).scale_inputs
    table = table_of_accuracies(parameters_of(state), spec, partition, features, labels, scale)
    central = parameters_of(state, CENTRALIZED)
    table["centralized"] = accuracy(logits(central, features), labels) if central else None
    return table
