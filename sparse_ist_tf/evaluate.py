"""Recomputes every accuracy of a finished run from what it stored.

python -m sparse_ist_tf.evaluate --run=runs/aid
"""

from absl import flags
from ml_collections import ConfigDict

from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.reports.report import accuracy_rows, format_table
from sparse_ist_tf.reports.run_directory import RunDirectory

FLAGS = flags.FLAGS


def evaluate(path: str) -> dict:
    """The accuracies of a run, from its last checkpoint, head.keras and the test images.

    Args:
        path: the run directory.

    Returns:
        {"accuracy": and "centralized_accuracy": as results.json has them, "head_keras": accuracy
        of head.keras, "test_size": int}.

    Raises:
        RequestError: if there is no finished run, or its data is gone.
        RunError: if a file is damaged.

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
    with quiet():
        import tensorflow as tf

        from sparse_ist_tf.encoder.features import shared_features
        from sparse_ist_tf.encoder.weights import load_encoder
        from sparse_ist_tf.ist.exchange import Link
        from sparse_ist_tf.ist.head import HeadSpec, accuracy
        from sparse_ist_tf.ist.setup import accuracies, load_splits, mask_options
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
    state, progress = found
    table = accuracies(config, spec, state, progress["round"], features, test.labels)
    outputs = directory.head()(features).numpy()
    return {
        "accuracy": {k: v for k, v in table.items() if k != "centralized"},
        "centralized_accuracy": table["centralized"],
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
    again, stored = evaluate(FLAGS.run), RunDirectory(FLAGS.run).results()
    keys = ("accuracy", "centralized_accuracy")
    before = accuracy_rows({key: stored[key] for key in keys})
    rows = [("", "again", "stored")]
    for (what, value), (_, old) in zip(accuracy_rows(again), before, strict=True):
        rows.append((what, value, old))
    merged = f"{100 * stored['accuracy']['merged']:.2f} %"
    rows.append(("head.keras", f"{100 * again['head_keras']:.2f} %", merged))
    print(f"Test accuracy ({again['test_size']:,} images)")
    print(format_table(rows))
    same = all(again[key] == stored[key] for key in keys)
    print("The same as stored." if same else "NOT the same as stored.")
    return 0 if same else 1


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run", None, "Run directory of a finished training.")


if __name__ == "__main__":
    run(main, define_flags)
