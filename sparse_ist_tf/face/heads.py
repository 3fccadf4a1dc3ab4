"""A head trained on features that a program holds, by any algorithm, in this process."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.ist.head import accuracy, logits
from sparse_ist_tf.ist.local import logit_adjustments
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.ist.trainer import TrainingData
from sparse_ist_tf.runs.parts import head_spec, make_trainer, trainer_options, training_shards
from sparse_ist_tf.runs.schedules import rounds_between, steps_of_round, total_steps
from sparse_ist_tf.workers.link import Link


def train_head(
    config: ConfigDict,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    report: Callable[[dict], None],
) -> HeadState:
    """Trains a head as train does.

    Args:
        config: valid, of one worker.
        train: (features float32[n, d], labels int32[n]).
        test: the same, which the merged head is tested with.
        num_classes: of the labels.
        report: takes {"round", "step", "loss", "train_accuracy", "test_accuracy"} of every round
            that is tested.

    Returns:
        What is trained.

    Raises:
        RequestError: if the optimizer or the shards can't be made.
        RunError: if a loss is not finite.
    """
    features, labels = train
    steps = total_steps(config, len(features))
    options = trainer_options(config, steps)
    shards = training_shards(config, options, labels)
    adjustments = logit_adjustments(labels, shards, num_classes)
    data = TrainingData(features, labels, shards, None, adjustments)
    spec = head_spec(config, features.shape[1], num_classes)
    trainer = make_trainer(config, spec, Link.alone(), options, data)
    every = rounds_between(config, "eval", len(features))
    while trainer.step < steps:
        record = trainer.run_round(steps_of_round(config, trainer.step, steps))
        if trainer.round % every == 0 or trainer.step >= steps:
            head = trainer.gather().folded()
            report(record | {"test_accuracy": accuracy(logits(head, test[0]), test[1])})
    return trainer.gather()
