"""What to export of a run, and what it may lose."""

import dataclasses

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export import compress
from sparse_ist_tf.export.devices.targets import Target
from sparse_ist_tf.export.graphs.convert import QUANTIZATIONS
from sparse_ist_tf.runs.finished_run import FinishedRun

ARTEFACTS = (
    "subnet", "head", "encoder", "classifier", "classifier_sensor", "classifier_patches"
)  # fmt: skip
# Points of accuracy that a file may lose, for heads and for what holds an encoder.
BOUNDS = {
    "float32": (0.1, 0.1),
    "float16": (0.1, 0.1),
    "dynamic": (1.0, 1.5),
    "int8": (0.5, 1.5),
    "int16x8": (0.3, 0.3),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may ask for.

    Args:
        artefacts: of ARTEFACTS; those that the run's masks and the target call for where empty.
        subnets: which; all where empty.
        quantize: of convert.QUANTIZATIONS; the target's first where empty.
        calibration: training images that set the ranges of integers.
        bound: points of accuracy that may be lost; BOUNDS where below 0.
        compression: of heads and subnets.
        micro_images: test images that TFLite Micro runs too, for its targets.
        progress: show bars.
        wasm: for a target with a page, where the runtime is, as web.runtime.load().
    """

    artefacts: tuple[str, ...] = ()
    subnets: tuple[int, ...] = ()
    quantize: tuple[str, ...] = ()
    calibration: int = 256
    bound: float = -1.0
    compression: compress.Compression = compress.Compression()  # noqa: RUF009
    micro_images: int = 64
    progress: bool = True
    wasm: str = ""


@dataclasses.dataclass(frozen=True)
class Job:
    """One artefact to export."""

    name: str  # as in file names
    kind: str  # of forms.KINDS
    subnet: int | None = None  # whose layers it has; None for the merged head's


def plan(run: FinishedRun, target: Target, options: Options) -> list[Job]:
    """What to export.

    Raises:
        RequestError: if something asked for can't be made of this run or for this target.
    """
    for quantize in options.quantize:
        if quantize not in QUANTIZATIONS:
            raise RequestError(f"quantize={quantize!r}: must be one of {', '.join(QUANTIZATIONS)}")
        if quantize not in target.quantize:
            allowed = ", ".join(target.quantize)
            raise RequestError(f"quantize={quantize!r}: target {target.name} takes {allowed}")
    for name in ("calibration", "micro_images"):
        if getattr(options, name) < 1:
            raise RequestError(f"{name}={getattr(options, name)}: must be at least 1 image")
    artefacts = options.artefacts or _called_for(run, target)
    for name in artefacts:
        if name not in ARTEFACTS:
            raise RequestError(f"artefacts={name!r}: must be one of {', '.join(ARTEFACTS)}")
        if target.page and not name.startswith("classifier"):
            raise RequestError(f"artefacts={name}: target {target.name} takes classifiers alone")
    if "classifier" in artefacts:
        run.shared_positions()
    if "classifier_sensor" in artefacts:
        run.sensor_cell()
    if "subnet" in options.artefacts and not run.num_subnets:
        raise RequestError("artefacts=subnet: the run's head has no subnets")
    for subnet in options.subnets:
        if not 0 <= subnet < run.num_subnets:
            raise RequestError(f"subnets={subnet}: the run has {run.num_subnets} subnets")
    # A page begins with the merged head; it has subnets where they are asked for.
    chosen = options.subnets or (() if target.page else tuple(range(run.num_subnets)))
    merged = target.interpreter != "micro" or not run.num_subnets or "head" in options.artefacts
    heads: list[int | None] = [*chosen, *([None] if merged else [])]
    if target.page:
        heads.reverse()
    names = {n: f"subnet{n}of{run.num_subnets}" for n in chosen} | {None: "head"}
    jobs = []
    for name in artefacts:
        if name == "subnet":
            jobs += [Job(names[n], "head", n) for n in chosen]
        elif name == "head":
            jobs.append(Job("head", "head"))
        elif name == "encoder":
            jobs.append(Job(f"encoder{run.num_visible}", "encoder"))
        else:
            suffix = name.removeprefix("classifier")
            jobs += [Job(f"classifier_{names[n]}{suffix}", name, n) for n in heads]
    return jobs


def _called_for(run: FinishedRun, target: Target) -> tuple[str, ...]:
    """The artefacts that a run's masks and a target call for."""
    if target.page:
        return ("classifier" if run.config.masks.kind == "shared" else "classifier_patches",)
    parts = ("subnet",)
    if target.interpreter != "micro" or not run.num_subnets:
        parts += ("head", "encoder")
    if run.config.masks.kind != "shared":
        return (*parts, "classifier_patches")
    try:
        run.sensor_cell()
    except RequestError:
        return (*parts, "classifier")
    return (*parts, "classifier", "classifier_sensor")
