"""Proof of a .tflite file: what it holds, how right and how fast it is, in its own runtime."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices import edge_tpu
from sparse_ist_tf.export.devices.targets import Target, check, problem, unmapped
from sparse_ist_tf.export.files import metadata, micro
from sparse_ist_tf.export.files.flatbuffer import read_file
from sparse_ist_tf.export.files.operators import operators, peak_bytes
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.reports.report import format_table


@dataclasses.dataclass
class Result:
    """What was measured of one file.

    Args:
        name: of the file.
        kind: of the artefact, as graphs.KINDS.
        quantize: as convert.QUANTIZATIONS.
        size: bytes of the file.
        operators: how many of each.
        peak: most bytes of tensors that are alive at once, weights apart: the least arena.
        problems: conditions missed; empty for a good file.
        notes: what else is worth saying.
        images: how many were run.
        accuracy: in [0, 1].
        float_accuracy: of the Keras model.
        agreement: share of images with the same answer as the Keras model's.
        mean_difference: of logits from the Keras model's.
        largest_difference: likewise.
        latency: {"1 thread": (median, 95th percentile) in ms, "all threads": ...}.
        mapping: what share an Edge TPU runs, for its targets.
        arena: bytes that TFLite Micro needs, for its targets.
        flash: bytes that a microcontroller stores, for its targets.
        micro_difference: largest step between LiteRT's reference kernels and TFLite Micro.
        micro_agreement: share of the same answers.
        micro_accuracy: in TFLite Micro, on the images that it ran.
        micro_float_accuracy: of the Keras model on those.
        micro_images: how many they were.
    """

    name: str
    kind: str
    quantize: str
    size: int
    operators: dict[str, int] = dataclasses.field(default_factory=dict)
    peak: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    images: int = 0
    accuracy: float = 0.0
    float_accuracy: float = 0.0
    agreement: float = 0.0
    mean_difference: float = 0.0
    largest_difference: float = 0.0
    latency: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    mapping: edge_tpu.Mapping | None = None
    arena: int | None = None
    flash: int | None = None
    micro_difference: int | None = None
    micro_agreement: float | None = None
    micro_accuracy: float | None = None
    micro_float_accuracy: float | None = None
    micro_images: int = 0

    @property
    def good(self) -> bool:
        """Whether no condition is missed."""
        return not self.problems

    @property
    def drop(self) -> float:
        """Accuracy lost to conversion, in points."""
        return 100 * (self.float_accuracy - self.accuracy)

    def as_dict(self) -> dict:
        """For JSON."""
        return {**dataclasses.asdict(self), "good": self.good}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Result":
        """What as_dict() was of."""
        values = {key: value for key, value in values.items() if key != "good"}
        values.setdefault("quantize", values.pop("numbers", None))  # its name in version 0.1.0
        if values["mapping"]:
            values["mapping"] = edge_tpu.Mapping(**values["mapping"])
        return cls(**values)


def verify(
    content: bytes,
    name: str,
    kind: str,
    quantize: str,
    target: Target,
    *,
    examples: Callable[[], Iterable[Mapping[str, np.ndarray]]],
    reference: np.ndarray,
    labels: np.ndarray,
    to_logits: Callable[[np.ndarray], np.ndarray] = lambda outputs: outputs,
    bound: float = 1.5,
    micro_images: int = 64,
    progress: bool = True,
) -> tuple[Result, np.ndarray]:
    """Checks a file against its target's conditions and against the Keras model.

    Args:
        content: of the .tflite file.
        name: of the file.
        kind: of the artefact.
        quantize: as convert.QUANTIZATIONS.
        target: a row of TARGETS.
        examples: makes an iterator of the test examples, by input name.
        reference: float32[n, classes], logits of the Keras model.
        labels: int[n].
        to_logits: what makes logits of the file's outputs, for an encoder the head.
        bound: points of accuracy that may be lost.
        micro_images: how many, spread over the split, TFLite Micro runs too, for its targets.
        progress: show a bar.

    Returns:
        (what was measured, the file's logits float32[n, classes]).

    Raises:
        RequestError: if the file is damaged.
        RunError: if a runtime fails.
    """
    from tqdm import tqdm

    runtime = LiteRT(content, name)
    result = Result(name, kind, quantize, len(content), peak=peak_bytes(content))
    result.operators = dict(Counter(op.name for op in operators(content, name)))
    result.problems += check(content, target, quantize, kind)
    bar = tqdm(
        examples(),
        total=len(labels),
        desc=name,
        unit=" images",
        disable=None if progress else True,  # None: where there is no terminal
        leave=False,
    )
    outputs = np.array([runtime.run(example) for example in bar])
    found = to_logits(outputs)
    _compare(result, found, reference, labels)
    if result.drop > bound:
        result.problems.append(
            f"loses {result.drop:.2f} points of accuracy, at most {bound} may be"
        )
    first = next(iter(examples()))
    repeats = 100 if len(content) < 1 << 25 else 20
    result.latency["1 thread"] = runtime.latency(first, repeats)
    result.latency["all threads"] = LiteRT(content, name, threads=None).latency(first, repeats)
    if target.partial:
        result.mapping = edge_tpu.mapping(content, lambda op: problem(op, target))
        result.notes += [
            f"{u.operator} x{u.count} {u.reason}: on the host" for u in unmapped(content, target)
        ]
    if target.interpreter == "micro" and result.good:
        rows = np.linspace(0, len(labels) - 1, min(micro_images, len(labels))).round().astype(int)
        _measure_micro(result, content, examples, rows, to_logits, reference, labels)
        _check_budget(result, target)
        lost = 100 * (result.micro_float_accuracy - result.micro_accuracy)
        if len(rows) == len(labels) and lost > bound:
            result.problems.append(
                f"loses {lost:.2f} points of accuracy in TFLite Micro, at most {bound} may be"
            )
    if (
        result.good
        and target.flash
        and target.interpreter != "micro"
        and target.flash < len(content)
    ):
        result.problems.append(f"has {len(content):,} bytes, {target.flash:,} are allowed")
    return result, found


def _compare(result, found, reference, labels):
    labels = np.asarray(labels)
    result.images = len(labels)
    answers, expected = found.argmax(axis=1), reference.argmax(axis=1)
    result.accuracy = float(np.mean(answers == labels))
    result.float_accuracy = float(np.mean(expected == labels))
    result.agreement = float(np.mean(answers == expected))
    difference = np.abs(found - reference)
    result.mean_difference = float(difference.mean())
    result.largest_difference = float(difference.max())


def _measure_micro(result, content, examples, rows, to_logits, reference, labels):
    bare = metadata.strip(content)
    wanted = set(rows.tolist())
    some = [example for row, example in enumerate(examples()) if row in wanted]
    done = micro.run(bare, some)
    kernels = LiteRT(bare, result.name, reference=True)
    expected = np.array([kernels.run_raw(example) for example in some])
    steps = np.abs(done.outputs.astype(np.int64) - expected.astype(np.int64))
    result.micro_images, result.micro_difference = len(some), int(steps.max())
    same = done.outputs.argmax(axis=1) == expected.argmax(axis=1)
    result.micro_agreement = float(np.mean(same))
    labels, found = np.asarray(labels)[rows], to_logits(kernels.output.decode(done.outputs))
    result.micro_accuracy = float(np.mean(found.argmax(axis=1) == labels))
    result.micro_float_accuracy = float(np.mean(reference[rows].argmax(axis=1) == labels))
    result.flash, result.arena = len(bare), micro.needed_arena(bare, some[0])


def _check_budget(result, target):
    for what, need, limit in (
        ("flash", result.flash, target.flash),
        ("sram", result.arena, target.sram),
    ):
        if limit and need > limit:
            result.problems.append(
                f"needs {need:,} bytes of {what}, {need - limit:,} more than --{what}={limit}"
            )


def table(results: Sequence[Result]) -> str:
    """The table that export prints.

    Args:
        results: one per file.

    Returns:
        Lines.
    """
    rows = [
        ("file", "bytes", "ops", "accuracy", "float", "agree", "mean |d|", "max |d|", "ms p50",
         "p95", "ms all", "p95", "peak RAM", "")
    ]  # fmt: skip
    for r in results:
        single = r.latency.get("1 thread", (0.0, 0.0))
        every = r.latency.get("all threads", (0.0, 0.0))
        rows.append(
            (
                r.name,
                f"{r.size:,}",
                str(sum(r.operators.values())),
                f"{100 * r.accuracy:.2f} %",
                f"{100 * r.float_accuracy:.2f} %",
                f"{100 * r.agreement:.1f} %",
                f"{r.mean_difference:.4f}",
                f"{r.largest_difference:.3f}",
                *(f"{ms:.3f}" for ms in (*single, *every)),
                f"{r.arena if r.arena is not None else r.peak:,}",
                "ok" if r.good else "FAILED",
            )
        )
    lines = [format_table(rows)]
    for r in results:
        if r.mapping:
            lines.append(f"  {r.name}: Edge TPU runs {r.mapping.sentence()}")
        if r.micro_difference is not None:
            equal = (
                "bit for bit" if not r.micro_difference else f"within {r.micro_difference} steps"
            )
            lines.append(
                f"  {r.name}: flash {r.flash:,}, arena {r.arena:,} bytes; TFLite Micro equals "
                f"LiteRT's reference kernels {equal} on {r.micro_images} images, "
                f"{100 * r.micro_agreement:.1f} % same answers, accuracy there "
                f"{100 * r.micro_accuracy:.2f} % (float {100 * r.micro_float_accuracy:.2f} %)"
            )
        lines += [f"  {r.name}: {note}" for note in r.notes]
        lines += [f"  {r.name}: FAILED: {line}" for line in r.problems]
    return "\n".join(lines)


def evaluate_tflite(path: str | Path, config=None, *, threads: int = 1, delegate: str = "") -> dict:
    """Measures any exported file again on the test split of its data set.

    Args:
        path: of a .tflite file that export wrote.
        config: of the data set, masks and encoder; those in the file where None.
        threads: of LiteRT.
        delegate: library of a LiteRT delegate.

    Returns:
        {"file", "artefact", "images", "accuracy", "expected" (what export measured), "latency_ms":
        (median, 95th percentile)}; an encoder gives "mean_difference" from the Keras encoder's
        features in place of the accuracies.

    Raises:
        RequestError: if the file is damaged or not one of export's, or the config doesn't fit it.
    """
    from sparse_ist_tf.checkpoints.loading import load_configured
    from sparse_ist_tf.config import completed
    from sparse_ist_tf.runs.images import Images

    path = Path(path)
    content = read_file(path)
    runtime = LiteRT(content, path.name, threads=threads, delegate=delegate)
    labels, run = metadata.read(content, path.name)
    config = completed(run["config"]) if config is None else config
    encoder = load_configured({**config.encoder, "dtype": "float32"})
    if encoder.digest != run["encoder"]["digest"]:
        raise RequestError(
            f"{path.name}: was made with another encoder than encoder.weights="
            f"{config.encoder.weights!r}"
        )
    images = Images(config, encoder)
    split = images.splits["test"]
    kind = run["artefact"]["kind"]
    if kind == "classifier":
        same = images.masks.kind == "shared"
        positions = images.masks.positions([0], encoder.num_patches)[0].tolist()
        if not same or positions != run["mask"]["positions"]:
            raise RequestError(f"{path.name}: holds another mask than the config's")
    if labels and tuple(labels) != tuple(split.class_names):
        raise RequestError(f"{path.name}: has other labels than {split.name}")
    features = images.features("test") if kind in ("head", "encoder") else None
    outputs, first = [], None
    for i, example in enumerate(images.examples("test")):
        if kind == "head":
            example = {"feature": features[i]}
        first = first or example
        outputs.append(runtime.run(example))
    outputs = np.array(outputs)
    out = {"file": path.name, "artefact": kind, "images": split.size}
    if kind == "encoder":
        out["mean_difference"] = float(np.abs(outputs - features).mean())
    else:
        out["accuracy"] = float(np.mean(outputs.argmax(axis=1) == split.labels))
        out["expected"] = run["measured"]["accuracy"]
    out["latency_ms"] = runtime.latency(first)
    return out
