"""Recomputes every accuracy of a finished run from what it stored.

python -m sparse_ist_tf.evaluate --run=runs/aid
"""

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from sparse_ist_tf.commands import run
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.reports.report import accuracy_rows, format_table
from sparse_ist_tf.reports.run_directory import RunDirectory

FLAGS = flags.FLAGS


def evaluate(path: str) -> dict:
    """The accuracies of a run, from its last checkpoint, head.keras and the test images.

    Args:
        path: the run directory.

    Returns:
        {"accuracy": as results.json has it, "head_keras": accuracy of head.keras,
        "test_size": int}.

    Raises:
        RequestError: if there is no finished run.

    Example:
        >>> from sparse_ist_tf.evaluate import evaluate
        >>> evaluate("runs/digits")["accuracy"]["merged"]  # doctest: +SKIP
        0.95
    """
    directory = RunDirectory(path)
    config, results = ConfigDict(directory.config()), directory.results()
    found = directory.checkpoint()
    if results is None or found is None:
        raise RequestError(f"{path}: the run is not finished; train with its command goes on")
    import keras
    import tensorflow as tf

    from sparse_ist_tf.encoder.features import shared_features
    from sparse_ist_tf.encoder.weights import load_encoder
    from sparse_ist_tf.ist.exchange import Link
    from sparse_ist_tf.ist.head import HeadSpec, accuracy, table_of_accuracies
    from sparse_ist_tf.ist.partition import make_partition
    from sparse_ist_tf.ist.setup import load_splits, mask_options, parameters_of
    from sparse_ist_tf.reports.ledger import Ledger

    test = load_splits(config)["test"]
    features = shared_features(
        load_encoder(config.encoder.weights, dtype=config.encoder.dtype),
        test,
        mask_options(config),
        Link(tf.distribute.get_strategy(), 0, 1),
        Ledger(),
        dtype=config.encoder.dtype,
        cache_dir=config.features.cache_dir,
        batch_size=config.encoder.batch_size,
    )
    spec = HeadSpec(features.shape[1], tuple(config.head.hidden), test.num_classes)
    partition = None
    if config.ist.algorithm == "ist" and config.ist.num_subnets > 1:
        partition = make_partition(
            config.seed,
            found[1]["round"] - 1,
            spec.hidden,
            config.ist.num_subnets,
            tuple(config.ist.capacities),
        )
    parameters = parameters_of(found[0])
    table = table_of_accuracies(
        parameters, spec, partition, features, test.labels, config.ist.scale_inputs
    )
    model = keras.saving.load_model(directory.path / "head.keras")
    outputs = np.asarray(model(features))
    return {
        "accuracy": table,
        "head_keras": accuracy(outputs, test.labels),
        "test_size": test.size,
    }


def main(_) -> int:
    """Prints the table beside the one that train stored.

    Returns:
        0 if they agree, else 1.
    """
    if not FLAGS.run:
        raise RequestError("--run is missing: the run directory, such as --run=runs/aid")
    stored = RunDirectory(FLAGS.run).results()
    again = evaluate(FLAGS.run)
    rows = [("", "again", "stored")]
    for (what, value), (_, before) in zip(
        accuracy_rows(again), accuracy_rows({"accuracy": stored["accuracy"]}), strict=True
    ):
        rows.append((what, value, before))
    merged = f"{100 * stored['accuracy']['merged']:.2f} %"
    rows.append(("head.keras", f"{100 * again['head_keras']:.2f} %", merged))
    print(f"Test accuracy ({again['test_size']:,} images)")
    print(format_table(rows))
    same = again["accuracy"] == stored["accuracy"]
    print("The same as stored." if same else "NOT the same as stored.")
    return 0 if same else 1


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Run directory of a finished training.")
    run(main)
