"""Exports a finished run as .tflite files for a kind of device, and proves them.

    python -m sparse_ist_tf.export --run=runs/digits --target=phone
    python -m sparse_ist_tf.export --run=runs/aid --target=phone --quantize=float16,int8 --qat
    python -m sparse_ist_tf.export --run=runs/aid --target=coral
    python -m sparse_ist_tf.export --run=runs/aid --target=micro --flash=1048576 --sram=262144
    python -m sparse_ist_tf.export --run=runs/digits --target=web
    python -m sparse_ist_tf.export --run=runs/digits --target=phone --trainable

Ends with status 0 if every file meets its target's conditions and its accuracy's bound; a file
that doesn't is not kept, and the status is 1.
"""

import dataclasses
from pathlib import Path

from absl import flags

from sparse_ist_tf import plugins
from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.compress import Compression
from sparse_ist_tf.export.devices import targets
from sparse_ist_tf.export.plan import BY_KIND, Options, check
from sparse_ist_tf.export.staging import ended_by_signals
from sparse_ist_tf.export.web import page, runtime

FLAGS = flags.FLAGS


def main(argv: list[str]) -> int:
    """Exports; 0 if all files are good, else 1."""
    for name in ("run", "target"):
        if not getattr(FLAGS, name):
            raise RequestError(f"--{name} is missing")
    if not all(text.isdecimal() for text in FLAGS.subnets):
        raise RequestError(f"subnets={','.join(FLAGS.subnets)}: must be numbers such as 0,1")
    plugins.load_plugins()
    if FLAGS.target_table:
        targets.add_rows(FLAGS.target_table)
    target = targets.find_target(FLAGS.target)
    if FLAGS.wasm and not target.page:
        raise RequestError(f"wasm={FLAGS.wasm!r}: target {target.name} has no page, web has")
    for name in ("flash", "sram"):
        value = getattr(FLAGS, name)
        if value is None:
            continue
        if value < 1:
            raise RequestError(f"{name}={value}: must be at least 1 byte")
        target = dataclasses.replace(target, **{name: value})
    if FLAGS.softmax is not None:
        interface = dataclasses.replace(target.interface, softmax=FLAGS.softmax)
        target = dataclasses.replace(target, interface=interface)
    options = Options(
        artefacts=tuple(FLAGS.artefacts),
        subnets=tuple(map(int, FLAGS.subnets)),
        quantize=target.quantize if FLAGS.quantize == ["all"] else tuple(FLAGS.quantize),
        calibration=FLAGS.calibration,
        bound=BY_KIND if FLAGS.bound is None else FLAGS.bound,
        micro_images=FLAGS.micro_images,
        wasm=FLAGS.wasm,
        compression=Compression(
            qat=FLAGS.qat, prune=FLAGS.prune, cluster=FLAGS.cluster, epochs=FLAGS.epochs
        ),
    )
    output = Path(FLAGS.output or Path(FLAGS.run) / "export" / target.name)
    if output.exists() and not output.is_dir():
        raise RequestError(f"output={output}: is no folder")
    if FLAGS.trainable:
        return _export_training(target, options, output)
    if FLAGS.batch_size is not None:
        raise RequestError("batch_size: is of --trainable alone")
    if target.page:
        page.check(output)
        runtime.require(FLAGS.wasm)
    check(FLAGS.run, target, options)
    with ended_by_signals():
        with quiet():
            from sparse_ist_tf.export.pipeline import Exporter
            from sparse_ist_tf.runs.finished_run import FinishedRun
        exporter = Exporter(FinishedRun.for_export(FLAGS.run), target, options, output)
        return 0 if exporter.export() else 1


def _export_training(target: targets.Target, options: Options, output: Path) -> int:
    """Files that train subnets; 0 if all are good, else 1."""
    if target.name not in ("phone", "micro"):
        raise RequestError(f"target={target.name!r}: must be phone or micro for --trainable")
    asked = {
        "artefacts": options.artefacts,
        "quantize": options.quantize,
        "qat": options.compression.qat,
        "prune": options.compression.prune,
        "cluster": options.compression.cluster,
    }
    for name, value in asked.items():
        if value:
            raise RequestError(f"{name}: isn't for --trainable, whose files train subnets in float")
    rows = FLAGS.batch_size
    if rows is not None and rows < 1:
        raise RequestError(f"batch_size={rows}: must be at least 1")
    check(FLAGS.run, target, options)
    with ended_by_signals():
        with quiet():
            from sparse_ist_tf.export.training import exporting
            from sparse_ist_tf.runs.finished_run import FinishedRun
        wanted = exporting.Options(options.subnets, rows or 0)
        finished = FinishedRun.for_export(FLAGS.run)
        return 0 if exporting.TrainingExporter(finished, target, wanted, output).export() else 1


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("run", None, "Run directory of a finished training.")
    flags.DEFINE_string("target", None, "phone, coral, micro, web, or a row that the next two add.")
    plugins.define_flag()
    flags.DEFINE_string("target_table", "", "JSON file with more targets; see targets.py.")
    flags.DEFINE_string("output", "", "Folder for the files; RUN/export/TARGET where not given.")
    flags.DEFINE_list(
        "quantize", [], "float32, float16, dynamic, int8, int16x8, several, or all; the target's "
        "first where not given.",
    )  # fmt: skip
    flags.DEFINE_list(
        "artefacts", [], "subnet, head, encoder, classifier, classifier_sensor, "
        "classifier_patches; those that fit the run's masks and images where not given.",
    )  # fmt: skip
    flags.DEFINE_list("subnets", [], "Which subnets, such as 0,1; all where not given.")
    flags.DEFINE_bool(
        "trainable", False, "Files that train subnets further, of phone and micro, instead."
    )
    flags.DEFINE_integer("batch_size", None, "Of --trainable: examples of a step; 16, micro 8.")
    flags.DEFINE_integer("calibration", 256, "Training images that set the ranges of integers.")
    flags.DEFINE_float(
        "bound", None, "Points of accuracy that a file may lose; by kind where not given."
    )
    flags.DEFINE_bool(
        "softmax",
        None,
        "Whether classifiers give probabilities, as MediaPipe shows them, or logits; as the target "
        "has it where not given: phone's do.",
    )
    flags.DEFINE_bool(
        "qat", False, "Fine-tune heads under simulated int8, in classifiers on int8 features."
    )
    flags.DEFINE_string("prune", "", "2:4, or a share of zeros such as 0.8, for heads.")
    flags.DEFINE_integer("cluster", 0, "Distinct values of each kernel of heads; 0 for any.")
    flags.DEFINE_integer("epochs", 3, "Of each fine-tuning.")
    flags.DEFINE_integer("micro_images", 64, "Test images that TFLite Micro runs too.")
    flags.DEFINE_string(
        "wasm", "", "Of target web: a folder with what `npm pack` of LiteRT.js wrote, or with "
        "node_modules; npm is asked where not given.",
    )  # fmt: skip
    flags.DEFINE_integer("flash", None, "Bytes of flash that a microcontroller has.")
    flags.DEFINE_integer("sram", None, "Bytes of memory that its arena may take.")


if __name__ == "__main__":
    run(main, define_flags)
