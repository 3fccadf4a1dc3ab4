"""How right and how small integer files are: our quantizer beside ai-edge-quantizer.

Both get the same float file of a whole classifier, folded and turned for integers, and the same
calibration images; every test image of the digits is then run in LiteRT.

With the digits, vit_micro and vit_pico, files of either are as large within 0.15 %. In int8 they
diverge alike from the float file (0.0084 and 0.0065 nats of vit_micro's, ours first, 0.0106 and
0.0230 of vit_pico's); in int16x8, which is there for accuracy, ours by less than 0.0001 nats and
theirs by 0.004 to 0.011.
"""

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.reports.report import format_table

if TYPE_CHECKING:
    from sparse_ist_tf.runs.finished_run import FinishedRun

PRESETS = ("vit_micro", "vit_pico")
QUANTIZATIONS = ("int8", "int16x8")
_CALIBRATION = 256  # images


def by_ai_edge(content: bytes, quantize: str, samples: Iterable[Mapping[str, np.ndarray]]) -> bytes:
    """A float file as integers by ai-edge-quantizer.

    Args:
        content: of a float .tflite file with the signature "serving_default".
        quantize: "int8" or "int16x8".
        samples: inputs of batch 1 by name, for the ranges.

    Returns:
        The file, its inputs and outputs integers too.
    """
    from ai_edge_quantizer import quantizer, recipe

    recipes = {"int8": recipe.static_wi8_ai8, "int16x8": recipe.static_wi8_ai16}
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        theirs = quantizer.Quantizer(content, recipes[quantize]())
        ranges = theirs.calibrate({"serving_default": list(samples)})
        return bytes(theirs.quantize(ranges, enable_progress_report=False).quantized_model)


def compare(
    presets: Sequence[str] = PRESETS, quantizations: Sequence[str] = QUANTIZATIONS
) -> list[dict]:
    """Trains a head on digits for each encoder and prints what quantizing the classifier costs.

    Args:
        presets: encoders, of those with packaged weights.
        quantizations: some of "int8", "int16x8".

    Returns:
        A dictionary for each file: preset, name, quantize, bytes, accuracy, agreement (share of
        the float file's answers) and divergence (mean Kullback-Leibler divergence of its
        probabilities from the float file's, in nats).

    Raises:
        RequestError: if ai-edge-quantizer isn't installed.
    """
    if importlib.util.find_spec("ai_edge_quantizer") is None:
        raise RequestError(
            "--only=quantize: ai-edge-quantizer is not installed; run `pip install "
            "ai-edge-quantizer`"
        )
    rows = []
    for preset in presets:
        with tempfile.TemporaryDirectory() as folder:
            measured = _measure(_train(preset, folder), quantizations)
        rows += [{"preset": preset, **row} for row in measured]
    table = [("encoder", "file", "quantize", "bytes", "accuracy", "as float", "divergence")]
    table += [
        (
            row["preset"],
            row["name"],
            row["quantize"],
            f"{row['bytes']:,}",
            f"{100 * row['accuracy']:.2f} %",
            f"{100 * row['agreement']:.2f} %",
            f"{row['divergence']:.5f}",
        )
        for row in rows
    ]
    print(f"Digits, classifiers of the merged head, {_CALIBRATION} images for the ranges")
    print(format_table(table))
    return rows


def _train(preset: str, folder: str) -> "FinishedRun":
    from sparse_ist_tf.config import get_config
    from sparse_ist_tf.runs.finished_run import FinishedRun
    from sparse_ist_tf.runs.training import train_and_evaluate
    from sparse_ist_tf.workers.cluster import Cluster

    config = get_config()
    config.encoder.weights = f"packaged:{preset}"
    config.dataset.name, config.total_epochs = "digits", 40.0
    config.masks.kind, config.masks.grid = "shared", "scaled"
    config.centralized_baseline = False
    train_and_evaluate(config, Path(folder), Cluster(0, ()))
    return FinishedRun.for_export(folder)


def _measure(run: "FinishedRun", quantizations: Sequence[str]) -> list[dict]:
    from sparse_ist_tf.encoder.bundle import vit_encoder
    from sparse_ist_tf.export.files.runtimes import LiteRT
    from sparse_ist_tf.export.graphs.convert import Interface, convert, for_integers
    from sparse_ist_tf.export.graphs.folding import fold
    from sparse_ist_tf.export.graphs.forms import Network, layers_of
    from sparse_ist_tf.ist.head import accuracy

    encoder = vit_encoder(run.encoder, "benchmark")
    vit = fold(encoder.model, encoder.mean, encoder.std)
    network = Network("classifier", layers_of(run.head()), vit, run.shared_positions())
    images = [{"image": one["image"][None]} for one in run.calibration(_CALIBRATION)]
    tests = [{"image": one["image"][None]} for one in run.images.examples("test")]
    content, centred = for_integers(network, Interface(), lambda: images)
    _, inputs = for_integers(network, Interface(), lambda: tests)

    def logits(file, examples):
        runtime = LiteRT(file)
        return np.array([runtime.run(example) for example in examples()])

    exact = logits(content, inputs)
    files = [("float", "float32", content, exact)]
    for quantize in quantizations:
        ours = convert(network, quantize, samples=lambda: images)
        files.append(("ours", quantize, ours, logits(ours, lambda: tests)))
        theirs = by_ai_edge(content, quantize, centred())
        files.append(("ai-edge-quantizer", quantize, theirs, logits(theirs, inputs)))
    labels = run.images.splits["test"].labels
    return [
        {
            "name": name,
            "quantize": quantize,
            "bytes": len(file),
            "accuracy": accuracy(found, labels),
            "agreement": accuracy(found, exact.argmax(axis=1)),
            "divergence": _divergence(exact, found),
        }
        for name, quantize, file, found in files
    ]


def _divergence(exact: np.ndarray, found: np.ndarray) -> float:
    logs = [x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (exact, found)]
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())
