"""What to export of a run, and what it may lose; nothing here imports TensorFlow."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_ist_tf.config import completed
from sparse_ist_tf.errors import RequestError, did_you_mean
from sparse_ist_tf.export import compress
from sparse_ist_tf.export.devices.targets import Target
from sparse_ist_tf.export.files import micro
from sparse_ist_tf.export.graphs.interface import OF_IMAGES, QUANTIZATIONS
from sparse_ist_tf.reports.run_directory import RunDirectory

if TYPE_CHECKING:
    from sparse_ist_tf.runs.finished_run import FinishedRun

ARTEFACTS = (
    "subnet", "head", "encoder", "classifier", "classifier_sensor", "classifier_patches"
)  # fmt: skip
BY_KIND = -1.0  # a bound as BOUNDS has it
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
        quantize: of interface.QUANTIZATIONS; the target's first where empty.
        calibration: training images that set the ranges of integers.
        bound: points of accuracy that may be lost, in [0, 100]; BOUNDS where below 0.
        compression: of heads and subnets.
        micro_images: test images that TFLite Micro runs too, for its targets.
        progress: show bars.
    """

    artefacts: tuple[str, ...] = ()
    subnets: tuple[int, ...] = ()
    quantize: tuple[str, ...] = ()
    calibration: int = 256
    bound: float = BY_KIND
    compression: compress.Compression = compress.Compression()  # noqa: RUF009
    micro_images: int = 64
    progress: bool = True


@dataclasses.dataclass(frozen=True)
class Job:
    """One artefact to export."""

    name: str  # as in file names
    kind: str  # of interface.KINDS
    subnet: int | None = None  # whose layers it has; None for the merged head's


def check(path: str | Path, target: Target, options: Options) -> None:
    """Refuses what its configuration alone tells can't be made of a run; takes no time.

    Args:
        path: the run directory.
        target: the device.
        options: what is asked for.

    Raises:
        RequestError: if there is no finished run, something asked for can't be made of it or for
            this target, or what that needs isn't installed.
        RunError: if the run directory is damaged.
    """
    check_options(target, options)
    require(target, options)
    directory = RunDirectory(path)
    config = completed(directory.config())
    if directory.results() is None or directory.newest_checkpoint() is None:
        raise RequestError(f"{path}: the run is not finished; train with its command goes on")
    if config.encoder.weights.startswith("resnet50:"):
        raise RequestError(f"{path}: its encoder is a ResNet-50, only those with a ViT export")
    for name in options.artefacts:
        if name in OF_IMAGES and config.masks.kind != "shared":
            raise RequestError(
                f"artefacts={name}: it holds one mask for all images, the run has "
                f"{config.masks.kind} masks; classifier_patches takes those, or train with "
                "--config.masks.kind=shared"
            )
        if name == "classifier_sensor" and config.masks.grid == "scaled":
            raise RequestError(
                f"artefacts={name}: masks.grid=scaled cuts patches from the scaled image; "
                "classifier takes that"
            )
    if config.ist.algorithm == "ist":
        count = config.ist.num_subnets
        _check_subnets(options, 0 if count == 1 else count)


def require(target: Target, options: Options) -> None:
    """Makes sure that what a target and the options need is installed.

    Raises:
        RequestError: if not, with the command that brings it.
    """
    if target.interpreter == "micro":
        micro.require()
    compress.require(options.compression)


def check_options(target: Target, options: Options) -> None:
    """Refuses what no run can be exported with.

    Raises:
        RequestError: naming the option, its value and what is allowed.
    """
    for quantize in options.quantize:
        _check_name("quantize", quantize, QUANTIZATIONS)
        if quantize not in target.quantize:
            allowed = ", ".join(target.quantize)
            raise RequestError(f"quantize={quantize!r}: target {target.name} takes {allowed}")
    for name in options.artefacts:
        _check_name("artefacts", name, ARTEFACTS)
    for name in ("calibration", "micro_images"):
        if getattr(options, name) < 1:
            raise RequestError(f"{name}={getattr(options, name)}: must be at least 1 image")
    if not (options.bound == BY_KIND or 0 <= options.bound <= 100):
        raise RequestError(
            f"bound={options.bound:g}: must be points of accuracy from 0 to 100, or left out"
        )


def _check_name(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise RequestError(
            f"{option}={value!r}: must be one of {', '.join(allowed)}{did_you_mean(value, allowed)}"
        )


def _check_subnets(options: Options, count: int) -> None:
    if "subnet" in options.artefacts and not count:
        raise RequestError("artefacts=subnet: the run's head has no subnets")
    for subnet in options.subnets:
        if not 0 <= subnet < count:
            allowed = f" from 0 to {count - 1}" if count else ""
            raise RequestError(f"subnets={subnet}: the run has {count} subnets{allowed}")


def plan(run: "FinishedRun", target: Target, options: Options) -> list[Job]:
    """What to export.

    Raises:
        RequestError: if something asked for can't be made of this run or for this target.
    """
    check_options(target, options)
    artefacts = options.artefacts or _called_for(run, target)
    if "classifier" in artefacts:
        run.shared_positions()
    if "classifier_sensor" in artefacts:
        run.sensor_cell()
    _check_subnets(options, run.num_subnets)
    chosen = options.subnets or tuple(range(run.num_subnets))
    merged = target.interpreter != "micro" or not run.num_subnets or "head" in options.artefacts
    heads: list[int | None] = [*chosen, *([None] if merged else [])]
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


def _called_for(run: "FinishedRun", target: Target) -> tuple[str, ...]:
    """The artefacts that a run's masks and a target call for."""
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
