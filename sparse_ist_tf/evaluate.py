"""Recomputes every accuracy of a finished run from what it stored.

    python -m sparse_ist_tf.evaluate --run=runs/aid

or measures an exported file again, on the test images of the run that its metadata tells of:

    python -m sparse_ist_tf.evaluate --tflite=runs/aid/export/phone/FILE.tflite

and with --mediapipe in MediaPipe's own ImageClassifier too, which scales the images itself.
"""

from absl import flags
from ml_collections import config_flags

from sparse_ist_tf import plugins
from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.reports.report import accuracy_rows, format_table, missing_rows
from sparse_ist_tf.reports.run_directory import RunDirectory

FLAGS = flags.FLAGS


def evaluate(path: str) -> dict:
    """The accuracies of a run, from its last checkpoint, head.keras and the test images.

    Returns:
        {"accuracy":, "centralized_accuracy":, "accuracy_at": and "missing_workers": as results.json
        has them, "head_keras": accuracy of head.keras, "test_size": int}.

    Raises:
        RequestError: if there is no finished run, or its data is gone.
        RunError: if a file is damaged.
    """
    RunDirectory(path).config()  # raises before TensorFlow is imported
    with quiet():
        from sparse_ist_tf.ist.head import accuracy
        from sparse_ist_tf.runs.finished_run import FinishedRun

    run = FinishedRun(path)
    table, test = run.accuracies(), run.images.splits["test"]
    return {
        "accuracy": {name: table[name] for name in ("merged", "subnets", "ensembles")},
        "centralized_accuracy": table["centralized"],
        "head_keras": accuracy(run.directory.head()(run.test_features).numpy(), test.labels),
        "test_size": test.size,
        "accuracy_at": table["accuracy_at"],
        "missing_workers": table["missing_workers"],
    }


def _evaluate_file(path: str) -> int:
    with quiet():
        from sparse_ist_tf.export.verify import evaluate_tflite

    found = evaluate_tflite(path, FLAGS.config, mediapipe=FLAGS.mediapipe)
    print(f"{found['file']}: {found['artefact']}, {found['images']:,} test images")
    for what in ("accuracy", "expected"):
        if found.get(what) is not None:
            print(f"  {what:<9} {100 * found[what]:.2f} %")
    if found.get("mediapipe_accuracy") is not None:
        right, other = found["mediapipe_accuracy"], 1 - found["mediapipe_same"]
        print(f"  MediaPipe, which scales the images itself, {100 * right:.2f} %")
        print(f"  {100 * other:.2f} % of its answers are others")
    if found.get("mean_difference") is not None:
        print(f"  mean difference from the encoder's features {found['mean_difference']:.4g}")
    median, slow = found["latency_ms"]
    print(f"  {median:.3f} ms an image on one thread, 95th percentile {slow:.3f}")
    return 0


def main(_: list[str]) -> int:
    """Prints the table beside the one that train stored, or what an exported file does.

    Returns:
        0, or 1 if the tables differ.
    """
    plugins.load_plugins()
    if bool(FLAGS.run) == bool(FLAGS.tflite):
        raise RequestError(
            "must have one of --run, a run directory such as --run=runs/aid, and --tflite, a file"
        )
    if FLAGS.mediapipe and not FLAGS.tflite:
        raise RequestError("--mediapipe: measures a file, --tflite names it")
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
    plugins.define_flag()
    flags.DEFINE_string("run", None, "Run directory of a finished training.")
    flags.DEFINE_string("tflite", None, "Exported file.")
    flags.DEFINE_bool("mediapipe", False, "Run the file in MediaPipe, too, on whole images.")
    config_flags.DEFINE_config_file(
        "config", None, "Configuration to measure a file with, its own where not given."
    )


if __name__ == "__main__":
    run(main, define_flags)
