"""Proof of a .tflite file: what it holds, how right and how fast it is, in its own runtime."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.devices import edge_tpu
from sparse_ist_tf.export.devices.checks import check, problem, unmapped
from sparse_ist_tf.export.devices.targets import Target
from sparse_ist_tf.export.files import metadata, micro, tasks
from sparse_ist_tf.export.files.flatbuffer import read_file
from sparse_ist_tf.export.files.operators import operators, peak_bytes
from sparse_ist_tf.export.files.runtimes import LiteRT, run_all
from sparse_ist_tf.export.graphs.interface import OF_IMAGES, example_for
from sparse_ist_tf.export.results import Accuracy, Comparison, Micro, Result
from sparse_ist_tf.ist.head import accuracy

if TYPE_CHECKING:
    from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class File:
    """A file to prove: kind is of interface.KINDS, quantize of interface.QUANTIZATIONS."""

    name: str
    kind: str
    quantize: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class Reference:
    """The test images by input name, and what the Keras model makes of them."""

    examples: Callable[[], Iterable[Mapping[str, np.ndarray]]]
    logits: np.ndarray  # float32[n, classes], of the Keras model
    labels: np.ndarray  # int[n]
    # What makes logits of a file's outputs, for an encoder the head.
    to_logits: Callable[[np.ndarray], np.ndarray] = np.asarray


def verify(
    file: File,
    target: Target,
    reference: Reference,
    *,
    bound: float = 1.5,
    micro_images: int = 64,
    progress: bool = True,
) -> tuple[Result, np.ndarray]:
    """Checks a file against its target's conditions and against the Keras model.

    At most `bound` points of accuracy may be lost. As many as `micro_images`, spread over the
    split, are run in TFLite Micro too, for its targets.

    Returns:
        (what was measured, the file's logits float32[n, classes]).

    Raises:
        RequestError: if the file is damaged.
        RunError: if a runtime fails.
    """
    from tqdm import tqdm

    name, content = file.name, file.content
    runtime, size = LiteRT(content, name), len(content)
    counts = dict(Counter(op.name for op in operators(content, name)))
    result = Result(name, file.kind, file.quantize, size, counts, peak_bytes(content))
    result.problems += check(content, target, file.quantize, file.kind)
    bar = tqdm(
        reference.examples(),
        total=len(reference.labels),
        desc=name,
        unit=" images",
        disable=None if progress else True,  # None: where there is no terminal
        leave=False,
    )
    found = reference.to_logits(run_all(content, bar, name))
    result.comparison = _compare(found, reference)
    result.problems += _lost(result.comparison, bound, "of accuracy")
    first = next(iter(reference.examples()))
    repeats = 100 if size < 1 << 25 else 20
    result.latency["1 thread"] = runtime.latency(first, repeats)
    result.latency["all threads"] = LiteRT(content, name, threads=None).latency(first, repeats)
    if target.partial:
        result.mapping = edge_tpu.mapping(content, lambda op: problem(op, target))
        result.notes += [f"{line}: on the host" for line in unmapped(content, target)]
    if target.interpreter == "micro":
        if result.good:
            result.micro = _measure_micro(file, reference, micro_images)
            result.problems += _over_budget(result.micro, target)
            if result.micro.images == len(reference.labels):
                result.problems += _lost(result.micro, bound, "of accuracy in TFLite Micro")
    elif result.good and 0 < target.flash < size:
        result.problems.append(f"has {size:,} bytes, {target.flash:,} are allowed")
    return result, found


def _compare(found: np.ndarray, reference: Reference) -> Comparison:
    difference = np.abs(found - reference.logits)
    return Comparison(
        images=len(reference.labels),
        accuracy=accuracy(found, reference.labels),
        float_accuracy=accuracy(reference.logits, reference.labels),
        agreement=accuracy(found, reference.logits.argmax(axis=1)),
        mean_difference=float(difference.mean()),
        largest_difference=float(difference.max()),
    )


def _measure_micro(file: File, reference: Reference, count: int) -> Micro:
    """Runs as many images as count, spread over the split, in TFLite Micro."""
    images = len(reference.labels)
    rows = np.linspace(0, images - 1, min(count, images)).round().astype(int)
    some = list(itertools.compress(reference.examples(), np.isin(np.arange(images), rows)))
    bare = metadata.strip(file.content)
    done = micro.run(bare, some).outputs
    kernels = LiteRT(bare, file.name, reference=True)
    expected = np.array([kernels.run_raw(example) for example in some])
    labels = np.asarray(reference.labels)[rows]
    return Micro(
        images=len(some),
        accuracy=accuracy(reference.to_logits(kernels.output.decode(done)), labels),
        float_accuracy=accuracy(reference.logits[rows], labels),
        flash=len(bare),
        arena=micro.needed_arena(bare, some[0]),
        difference=int(np.abs(done.astype(np.int64) - expected.astype(np.int64)).max()),
        agreement=accuracy(done, expected.argmax(axis=1)),
    )


def _lost(found: Accuracy, bound: float, of: str) -> list[str]:
    if found.drop <= bound:
        return []
    line = f"loses {found.drop:.2f} points {of}, at most {bound:g} may be"
    one = 100 / found.images
    if bound < one:
        line += f"; one of {found.images:,} test images is {one:.2f}, --bound allows more"
    return [line]


def _over_budget(found: Micro, target: Target) -> list[str]:
    budgets = (("flash", found.flash, target.flash), ("sram", found.arena, target.sram))
    return [
        f"needs {need:,} bytes of {what}, {need - limit:,} more than --{what}={limit}"
        for what, need, limit in budgets
        if limit and need > limit
    ]


def evaluate_tflite(
    path: str | Path,
    config: "ConfigDict | None" = None,
    *,
    threads: int = 1,
    delegate: str = "",
    mediapipe: bool = False,
) -> dict:
    """Measures any exported file again on the test split of its data set.

    Args:
        path: of a .tflite file that export wrote.
        config: of the data set, masks and encoder; those in the file where None.
        threads: of LiteRT.
        delegate: library of a LiteRT delegate.
        mediapipe: give the images, as they are, to MediaPipe's ImageClassifier too.

    Returns:
        {"file", "artefact", "images", "accuracy", "expected" (what export measured), "latency_ms":
        (median, 95th percentile)}; an encoder gives "mean_difference" from the Keras encoder's
        features in place of the accuracies. With mediapipe also "mediapipe_accuracy", and
        "mediapipe_same", the share of images with the same answer.

    Raises:
        RequestError: if the file is damaged or not one of export's, the config doesn't fit it, or
            the data set is no longer what it was; if MediaPipe isn't installed or can't take it.
    """
    from sparse_ist_tf.checkpoints.loading import load_configured
    from sparse_ist_tf.codec.few_bits import Channels
    from sparse_ist_tf.config import completed
    from sparse_ist_tf.inputs.decoding import image_errors
    from sparse_ist_tf.reports.data_record import DataRecord
    from sparse_ist_tf.runs.images import Images

    path = Path(path)
    content = read_file(path)
    runtime = LiteRT(content, path.name, threads=threads, delegate=delegate)
    labels, run = metadata.read(content, path.name)
    kind = run["artefact"]["kind"]
    if mediapipe:
        tasks.require()
        if kind not in OF_IMAGES:
            raise RequestError(f"{path.name}: is a {kind}; MediaPipe takes classifiers of images")
    known = DataRecord.of_dict(run["data"]) if config is None and "data" in run else None
    config = completed(run["config"]) if config is None else config
    encoder = load_configured({**config.encoder, "dtype": "float32"})
    if encoder.digest != run["encoder"]["digest"]:
        raise RequestError(
            f"{path.name}: was made with another encoder than encoder.weights="
            f"{config.encoder.weights!r}"
        )
    channels = Channels.of_dict(run["channels"]) if "channels" in run else None
    images = Images(config, encoder, known, channels)
    split = images.splits["test"]
    if kind in OF_IMAGES:
        grid = run["mask"].get("grid", "scaled")
        resize = run["mask"].get("resize", "antialias")
        same = images.masks.kind == "shared" and images.masks.grid == grid
        same = same and images.masks.resize == resize
        positions = images.masks.positions([0], encoder.num_patches)[0].tolist()
        if not same or positions != run["mask"]["positions"]:
            raise RequestError(f"{path.name}: holds another mask than the config's")
    if labels and tuple(labels) != tuple(split.class_names):
        raise RequestError(f"{path.name}: has other labels than {split.name}")
    features = images.features("test") if kind in ("head", "encoder") else None
    outputs, example = [], {}
    for i, example in enumerate(images.examples("test")):
        if kind == "head":
            example = {"feature": features[i]}
        example = example_for(kind, example)
        outputs.append(runtime.run(example))
    outputs = np.array(outputs)
    out = {"file": path.name, "artefact": kind, "images": split.size}
    if kind == "encoder":
        out["mean_difference"] = float(np.abs(outputs - features).mean())
    else:
        out["accuracy"] = accuracy(outputs, split.labels)
        out["expected"] = run["measured"]["accuracy"]
    out["latency_ms"] = runtime.latency(example)
    if mediapipe:
        with image_errors():
            whole = (row["image"] for row in split.dataset(_whole).as_numpy_iterator())
            answers = tasks.answers(path, whole)
        out["mediapipe_accuracy"] = float(np.mean(answers == split.labels))
        out["mediapipe_same"] = float(np.mean(answers == outputs.argmax(axis=1)))
    return out


def _whole(image, _):
    return image
