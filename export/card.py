"""What is said of exported files: inside each as metadata, and beside them in the model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import sparse_ist_tf
from sparse_ist_tf.export import camera
from sparse_ist_tf.export.devices.targets import Target
from sparse_ist_tf.export.files.metadata import Metadata
from sparse_ist_tf.export.files.runtimes import ports
from sparse_ist_tf.export.graphs.interface import OF_IMAGES
from sparse_ist_tf.export.plan import Job
from sparse_ist_tf.export.results import Result
from sparse_ist_tf.export.snippets import PICTURE, snippets
from sparse_ist_tf.runs.finished_run import FinishedRun

_TAKES = {
    "head": "`feature`: the encoder's feature of an image.",
    "encoder": "`patches`: the visible patches' pixels; `positions`: their row-major indices.",
    "classifier": "`image`: an RGB image's pixels; hidden patches are never read.",
    "classifier_sensor": "`image`: the same, of a camera's own pixels.",
    "classifier_patches": "`patches` and `positions`, as the encoder.",
}


def describe(run: FinishedRun, name: str, job: Job, target: Target, about: Mapping) -> Metadata:
    """What a file, of this name without its ending, says of itself; about is for its JSON."""
    encoder, masks = run.encoder, run.config.masks
    mask = {"kind": masks.kind, "ratio": masks.ratio, "pattern": masks.pattern}
    mask |= {"seed": run.config.seed, "visible": run.num_visible}
    side = run.scaling.side
    mask |= {"grid": masks.grid, "cells": [side, side], "rule": camera.rule(run.scaling)}
    mask["resize"] = run.scaling.resize
    cell = None
    if job.kind in OF_IMAGES:
        mask["positions"] = list(run.shared_positions())
    if job.kind == "classifier_sensor":
        cell = run.sensor_cell()
        mask["cell"] = list(cell)
    few = run.images.transport.needs_channels
    about = {
        "format": "sparse_ist_tf.export/1",
        "target": target.name,
        "artefact": {"name": job.name, "kind": job.kind, "subnet": job.subnet},
        "mask": mask,
        "output": target.interface.output(job.kind),
        "encoder": {
            key: getattr(encoder, key) for key in ("name", "digest", "image_size", "patch_size")
        },
        "normalisation": {"mean": list(encoder.mean), "std": list(encoder.std)},
        "config": run.config.to_dict(),
        **({"channels": run.images.transport.channels.as_dict()} if few else {}),
        "data": run.data.without_files().as_dict(),
        "digest": run.digest,
        **about,
    }
    description = (
        f"{job.name} of a head trained by Independent Subnetwork Training on "
        f"{run.config.dataset.name}; {100 * masks.ratio:g} % of the patches hidden."
    )
    labels = () if job.kind == "encoder" else run.labels
    image = camera.describe_input(run.scaling, cell)
    return Metadata(name, description, labels, about, image, version=sparse_ist_tf.__version__)


def model_card(
    run: FinishedRun,
    target: Target,
    results: Sequence[Result],
    lines: Sequence[str],
    folder: Path,
) -> str:
    """Writes a model card.

    Args:
        run: that was exported.
        target: for what.
        results: of all files, those that aren't kept too.
        lines: what was found besides.
        folder: that holds the good files.
    """
    good = [result for result in results if result.good]
    masks, encoder = run.config.masks, run.encoder
    pixels = (
        "int8, a pixel's byte less 128" if target.interface.whole_integer else "uint8, as they are"
    )
    rows = [
        f"| `{r.name}` | {r.quantize} | {r.size:,} | {100 * r.comparison.accuracy:.2f} % | "
        f"{100 * r.comparison.float_accuracy:.2f} % | {100 * r.comparison.agreement:.1f} % | "
        f"{r.latency['1 thread'][0]:.3f} |"
        for r in good
    ]
    memory = [
        f"- `{r.name}`: {r.micro.flash:,} bytes of flash, {r.micro.arena:,} bytes of arena."
        for r in good
        if r.micro
    ]
    mapping = [
        f"- `{r.name}`: the Edge TPU runs {r.mapping.sentence()}." for r in good if r.mapping
    ]
    found = list(dict.fromkeys(r.kind for r in good))
    kinds = [f"- {kind}: {_TAKES[kind]}" for kind in found]
    programs = snippets(run, good, folder)
    parts = [
        f"# {run.prefix} for {target.name}",
        "",
        f"Image classifiers for {len(run.labels)} classes of `{run.config.dataset.name}`: a frozen "
        f"ViT (`{encoder.name}`, {encoder.image_size} px, patches of {encoder.patch_size} px) on "
        f"the {run.num_visible} visible of {encoder.num_patches} patches ({masks.kind} masks, "
        f"ratio {masks.ratio:g}), and a head of {run.spec.hidden} neurons trained by "
        f"`{run.config.ist.algorithm}`"
        + (f" as {run.num_subnets} subnets." if run.num_subnets else "."),
        "",
        f"Accuracy was measured on all {good[0].comparison.images:,} test images through LiteRT; "
        "`in float` is the Keras model's.",
        "",
        "| file | quantize | bytes | accuracy | in float | same answers | ms, one thread |",
        "|---|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
        "## Inputs and outputs",
        "",
        *kinds,
        "",
        f"Pixels are {pixels}, red, green, blue, of an image that is upright (a photo is turned as "
        "its EXIF orientation says): rows from top to bottom, in a row from left to right, in a "
        f"pixel the three colours. The encoder's mean {list(encoder.mean)} and std "
        f"{list(encoder.std)} are part of the files: nothing is subtracted or divided outside.",
        "",
        f"A patch is {encoder.patch_size} x {encoder.patch_size} pixels, "
        f"{3 * encoder.patch_size**2} numbers in that same order. Positions count patches row by "
        f"row from 0 to {encoder.num_patches - 1}, {run.scaling.side} to a row; `patches` come in "
        "the order of `positions`, which ascends.",
        "",
        "`logits` and `probabilities` stand in the order of `labels.txt`. `probabilities` are the "
        "softmax of the logits, whose sum is 1; of `logits` it is still to be taken. A number of "
        "an integer tensor stands for scale * (number - zero).",
        "",
        "| file | tensor | shape | type | scale | zero |",
        "|---|---|---|---|---:|---:|",
        *(row for result in good for row in _ports(result.name, folder)),
        "",
        "## From a camera's image to the input",
        "",
        *camera.card_lines(run, found),
        "## In Python",
        "",
        f"Each labels `{PICTURE}` from this folder, with ai-edge-litert, NumPy and Pillow alone.",
        "",
        *(line for title, text in programs.items() for line in _program(title, text)),
        *([*lines, ""] if lines else []),
        *(["## Memory", "", *memory, ""] if memory else []),
        *(["## Mapping", "", *mapping, ""] if mapping else []),
        "## Limits",
        "",
        "The files answer with one of their labels whatever the picture shows. Accuracy on "
        "pictures unlike the training set's was not measured.",
        "",
        f"Labels, from 0: {', '.join(run.labels)}.",
        "",
        f"Licence: Apache License 2.0. Run digest: `{run.digest}`.",
        "",
    ]
    return "\n".join(parts)


def _ports(name: str, folder: Path) -> list[str]:
    """The rows of a file's inputs and output."""
    inputs, output = ports((folder / name).read_bytes(), name)
    return [
        f"| `{name}` | {'gives' if port is output else 'takes'} `{port.name}` | "
        f"{' x '.join(map(str, port.shape))} | {port.dtype} | "
        + (f"{port.scale:.9g} | {port.zero} |" if port.scale else "| |")
        for port in (*inputs, output)
    ]


def _program(title: str, text: str) -> list[str]:
    return [f"{title}:", "", "```python", text, "```", ""]
