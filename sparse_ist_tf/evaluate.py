"""Recomputes every accuracy of a finished run from what it stored.

    python -m sparse_ist_tf.evaluate --run=runs/aid

or measures an exported file again, on the test images of the run that its metadata tells of:

    python -m sparse_ist_tf.evaluate --tflite=runs/aid/export/phone/FILE.tflite
"""

from absl import flags
from ml_collections import config_flags

from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.config import completed
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.reports.report import accuracy_rows, format_table, missing_rows
from sparse_ist_tf.reports.run_directory import RunDirectory

FLAGS = flags.FLAGS


def evaluate(path: str) -> dict:
    """The accuracies of a run, from its last checkpoint, head.keras and the test images.

    Args:
        path: the run directory.

    Returns:
        {"accuracy":, "centralized_accuracy":, "accuracy_at": and "missing_workers": as results.json
        has them, "head_keras": accuracy of head.keras, "test_size": int}.

    Raises:
        RequestError: if there is no finished run, or its data is gone.
        RunError: if a file is damaged.
    """
    directory = RunDirectory(path)
    config, results = completed(directory.config()), directory.results()
    found = directory.checkpoint()
    if results is None or found is None:
        raise RequestError(f"{path}: the run is not finished; train with its command goes on")
    with quiet():
        import tensorflow as tf

        from sparse_ist_tf.checkpoints.loading import load_configured
        from sparse_ist_tf.encoder.features import shared_features
        from sparse_ist_tf.ist.head import accuracy
        from sparse_ist_tf.runs.finished import finished_accuracies
        from sparse_ist_tf.runs.parts import (
            accuracies,
            head_spec,
            load_splits,
            mask_options,
            thin_link,
            with_tuned_encoder,
        )
        from sparse_ist_tf.workers.ledger import Ledger
        from sparse_ist_tf.workers.link import Link

    config = with_tuned_encoder(config, path)
    test, encoder = load_splits(config)["test"], load_configured(config.encoder)
    features = shared_features(
        encoder,
        test,
        mask_options(config),
        Link(tf.distribute.get_strategy(), 0, 1),
        Ledger(),
        dtype=config.encoder.dtype,
        cache_dir=config.features.cache_dir,
        batch_size=config.encoder.batch_size,
        thin_link=thin_link(config),
    )
    spec = head_spec(config, features.shape[1], test.num_classes)
    state, progress = found
    table = accuracies(config, spec, state, progress["round"], features, test.labels)
    outputs = directory.head()(features).numpy()
    return {
        "accuracy": {k: v for k, v in table.items() if k != "centralized"},
        "centralized_accuracy": table["centralized"],
        "head_keras": accuracy(outputs, test.labels),
        "test_size": test.size,
        **finished_accuracies(config, encoder, test, spec, state, progress["round"], features),
    }


def _evaluate_file(path: str) -> int:
    with quiet():
        from sparse_ist_tf.export.verify import evaluate_tflite

    found = evaluate_tflite(path, FLAGS.config)
    print(f"{found['file']}: {found['artefact']}, {found['images']:,} test images")
    for what in ("accuracy", "expected"):
        if found.get(what) is not None:
            print(f"  {what:<9} {100 * found[what]:.2f} %")
    if found.get("mean_difference") is not None:
        print(f"  mean difference from the encoder's features {found['mean_difference']:.4g}")
    median, slow = found["latency_ms"]
    print(f"  {median:.3f} ms an image on one thread, 95th percentile {slow:.3f}")
    return 0


def main(_) -> int:
    """Prints the table beside the one that train stored, or what an exported file does.

    Returns:
        0, or 1 if the tables differ.
    """
    if bool(FLAGS.run) == bool(FLAGS.tflite):
        raise RequestError(
            "must have one of --run, a run directory such as --run=runs/aid, and --tflite, a file"
        )
    if FLAGS.tflite:
        return _evaluate_file(FLAGS.tflite)
    again, stored = evaluate(FLAGS.run), RunDirectory(FLAGS.run).results()
    keys = ("accuracy", "centralized_accuracy", "accuracy_at", "missing_workers")
    before = {key: stored[key] for key in keys}
    rows = [("", "again", "stored")]
    for make in (accuracy_rows, missing_rows):
        for (what, value), (_, old) in zip(make(again), make(before), strict=True):
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
    flags.DEFINE_string("tflite", None, "Exported file.")
    config_flags.DEFINE_config_file(
        "config", None, "Configuration to measure a file with, its own where not given."
    )


if __name__ == "__main__":
    run(main, define_flags)
