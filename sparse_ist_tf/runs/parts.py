"""From a configuration to the parts of a run."""

import dataclasses
import os
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.codec.few_bits import Channels
from sparse_ist_tf.codec.transport import Transport
from sparse_ist_tf.config import MIXED, hidden_widths, ist_options
from sparse_ist_tf.encoder.features import FeatureOptions, Features
from sparse_ist_tf.encoder.frozen import FrozenEncoder
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.ist.exchange.parameters import Forms
from sparse_ist_tf.ist.finetuning import FineTuningTrainer, Tuning
from sparse_ist_tf.ist.head import HeadSpec
from sparse_ist_tf.ist.partition import Partition
from sparse_ist_tf.ist.trainer import Trainer, TrainerOptions, TrainingData
from sparse_ist_tf.masks import RESIZES, MaskOptions
from sparse_ist_tf.registry import EXCHANGE, find_algorithm
from sparse_ist_tf.reports.data_record import DataRecord
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs.schedules import learning_rate_schedule, local_steps
from sparse_ist_tf.workers.link import Link, Shape
from sparse_ist_tf.workers.preparing import place_of

_CLASSES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "lion": "Lion", "rmsprop": "RMSprop"}
# Keys of config.ist that an algorithm may use as they are.
_OPTIONS = (
    "num_subnets",
    "moments",
    "biases",
    "scale_inputs",
    "keep_last_step",
    "outer_learning_rate",
    "outer_momentum",
    "logit_adjustment",
)


def load_splits(config: ConfigDict, known: DataRecord | None = None) -> dict[str, datasets.Split]:
    """The data set of a configuration.

    Args:
        config: of a run.
        known: what it has to be; a folder is looked for where it was then, and only where there is
            none as the configuration says.

    Returns:
        {"train": ..., "test": ...}.

    Raises:
        RequestError: if it isn't there or can't be used, or is no longer what is known.
    """
    name = config.dataset.name
    if (
        known
        and known.place
        and (os.path.exists(known.place) or not os.path.exists(place_of(name)))
    ):
        name = f"{name.partition(':')[0]}:{known.place}"
    splits = datasets.load(
        name,
        data_dir=config.dataset.data_dir or None,
        split_seed=config.dataset.split_seed,
        on_bad_image=config.dataset.on_bad_image,
    )
    if change := known and known.change(DataRecord.of(name, splits)):
        raise RequestError(f"{name}: has changed since the training: {change}")
    return splits


def head_spec(config: ConfigDict, feature_dim: int, num_classes: int) -> HeadSpec:
    """The shape of a configuration's merged head."""
    return HeadSpec(feature_dim, hidden_widths(config), num_classes)


def mask_options(config: ConfigDict) -> MaskOptions:
    """The masks of a configuration, with the run's seed, as test images and devices have them."""
    masks, resize = config.masks, config.dataset.resize
    resize = RESIZES[0] if resize == MIXED else resize
    return MaskOptions(masks.kind, masks.ratio, masks.pattern, config.seed, masks.grid, resize)


def training_masks(config: ConfigDict) -> list[MaskOptions]:
    """The masks of every view of a training image, where these are encoded once.

    Each of masks.views by each way to scale, the test images' one first.
    """
    first = mask_options(config)
    ways = RESIZES if config.dataset.resize == MIXED else (first.resize,)
    return [
        dataclasses.replace(first, view=view, resize=resize)
        for view in range(config.masks.views)
        for resize in ways
    ]


def transport(config: ConfigDict, channels: Channels | None = None) -> Transport:
    """The link of a configuration that images or features cross, with what it knows of these."""
    transport = config.transport
    return Transport(transport.codec, int(transport.quality), transport.features, channels)


def features_of(
    config: ConfigDict, encoder: FrozenEncoder, channels: Channels | None = None
) -> Features:
    """What makes features by a configuration's masks, transport and cache."""
    options = FeatureOptions(
        config.encoder.dtype, config.features.cache_dir, config.encoder.batch_size
    )
    return Features(encoder, mask_options(config), transport(config, channels), options)


def with_channels(
    features: Features, train: datasets.Split, link: Link, directory: RunDirectory
) -> Features:
    """Features whose transport knows their channels, where it has to.

    Called by all workers. What a run once found it keeps, so that neither the number of workers
    nor a restart changes what a message says.

    Args:
        features: what makes them.
        train: the training images.
        link: to the other workers.
        directory: of the run; the chief reads and writes there.

    Returns:
        The same, or with channels.

    Raises:
        RunError: as Features.of, or if the run's channels are damaged.
    """
    if not features.transport.needs_channels:
        return features
    known = directory.channels() if link.chief else None
    have = np.array([known is not None], np.int32)
    if link.broadcast(have, purpose="control")[0]:
        table = np.stack([known.mean, known.std]) if known else None
        shape = Shape((2, features.encoder.feature_dim))
        table = link.broadcast(shape if table is None else table, purpose="features")
        channels = Channels(*table)
    else:
        channels = features.channels_of(train, link, progress=link.chief)
        if link.chief:
            directory.save_channels(channels)
    transport = dataclasses.replace(features.transport, channels=channels)
    return dataclasses.replace(features, transport=transport)


def with_tuned_encoder(config: ConfigDict, folder: str | Path) -> ConfigDict:
    """A finished run's configuration, with its encoder.safetensors where the encoder trained."""
    config = ConfigDict(config.to_dict())
    if config.encoder.trainable_blocks:
        config.encoder.weights = str(Path(folder).resolve() / "encoder.safetensors")
        config.encoder.trainable_blocks = 0
    return config


def optimizer_config(config: ConfigDict) -> dict:
    """The optimizer of a configuration, as keras.optimizers.serialize gives it.

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


def trainer_options(config: ConfigDict, steps: int) -> TrainerOptions:
    """What a configuration's algorithm needs to know besides the data.

    Returns:
        With a schedule over so many steps; keys that the algorithm doesn't use have their defaults.

    Raises:
        RequestError: if there is no such algorithm, or as optimizer_config.
    """
    ist, head, keys = ist_options(config), config.head, find_algorithm(config.ist.algorithm).keys
    used = {name: ist[name] for name in _OPTIONS if f"ist.{name}" in keys}
    forms = {name: ist.exchange[name] for name in EXCHANGE if f"ist.exchange.{name}" in keys}
    return TrainerOptions(
        **used,
        capacities=tuple(ist.capacities) if "ist.capacities" in keys else (),
        forms=Forms(**forms),
        local_steps=local_steps(config, steps),
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


def training_shards(
    config: ConfigDict, options: TrainerOptions, labels: np.ndarray
) -> list[np.ndarray]:
    """Which examples each subnet draws from; as TrainingData has them.

    Raises:
        RequestError: if a shard would be empty.
    """
    return datasets.shard_indices(
        labels,
        options.num_subnets,
        kind=config.dataset.shards,
        alpha=config.dataset.dirichlet_alpha,
        seed=config.seed,
    )


def make_trainer(
    config: ConfigDict,
    spec: HeadSpec,
    link: Link,
    options: TrainerOptions,
    data: TrainingData,
    tuning: Tuning | None = None,
) -> Trainer:
    """The trainer of config.ist.algorithm at step 0; with tuning the data's features aren't used.

    Raises:
        RequestError: if the optimizer's moments can't travel.
    """
    if tuning:
        return FineTuningTrainer(spec, options, link, data, tuning)
    return find_algorithm(config.ist.algorithm).load()(spec, options, link, data)


def last_partition(config: ConfigDict, spec: HeadSpec, rounds: int) -> Partition | None:
    """Who held which neuron in the last round.

    Returns:
        The partition; None for a head that is trained whole.
    """
    options = trainer_options(config, steps=1)
    if options.num_subnets == 1:
        return None
    algorithm = find_algorithm(config.ist.algorithm).load()
    return algorithm.partition_of(options, tuple(spec.hidden), rounds - 1)
