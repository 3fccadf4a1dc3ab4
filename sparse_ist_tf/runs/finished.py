"""What a finished head does where testing differs from training: other masks, missing workers."""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.config import ist_options
from sparse_ist_tf.encoder.features import shared_features
from sparse_ist_tf.ist.head import HeadSpec, accuracy, logits
from sparse_ist_tf.ist.missing import missing_workers
from sparse_ist_tf.runs.parts import last_partition, mask_options, parameters_of, thin_link
from sparse_ist_tf.workers.ledger import Ledger
from sparse_ist_tf.workers.link import Link


def finished_accuracies(
    config: ConfigDict,
    encoder,
    test,
    spec: HeadSpec,
    state: Mapping[str, np.ndarray],
    rounds: int,
    features: np.ndarray,
    progress: bool = True,
) -> dict:
    """Accuracies that are of interest once, at the end of a run.

    Args:
        config: valid.
        encoder: from load_encoder.
        test: the test split.
        spec: the head's shape.
        state: as a checkpoint has it.
        rounds: done.
        features: float32[n, feature_dim] of the test split, masked as in training.
        progress: show a bar where something has to be encoded.

    Returns:
        {"accuracy_at": {ratio as text: of the merged head at config.masks.test_ratios},
        "missing_workers": as missing_workers, None for a head that has no subnets}.

    Raises:
        RunError: if an image can't be read.
    """
    head = parameters_of(state)
    table = {
        f"{ratio:g}": accuracy(
            logits(head, _features_at(config, encoder, test, ratio, progress)), test.labels
        )
        for ratio in config.masks.test_ratios
    }
    partition, missing = last_partition(config, spec, rounds), None
    if partition:
        scale = ist_options(config).scale_inputs
        missing = missing_workers(
            head, spec, partition, features, test.labels, scale, seed=config.seed
        )
    return {"accuracy_at": table, "missing_workers": missing}


def _features_at(config, encoder, test, ratio, progress):
    """The chief's alone: the other workers have gone when a run is at its end."""
    import tensorflow as tf

    at = ConfigDict(config.to_dict())
    at.masks.ratio = ratio
    return shared_features(
        encoder,
        test,
        mask_options(at),
        Link(tf.distribute.get_strategy(), 0, 1),
        Ledger(),
        dtype=config.encoder.dtype,
        cache_dir=config.features.cache_dir,
        batch_size=config.encoder.batch_size,
        progress=progress,
        thin_link=thin_link(config),
    )
