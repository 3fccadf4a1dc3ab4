"""How a camera's image becomes a file's input, in words: for metadata, model cards, C++ bundles."""

from collections.abc import Collection

from sparse_ist_tf.masks import Scaling
from sparse_ist_tf.runs.finished_run import FinishedRun

# How pixels become fewer, by Scaling.resize.
_FILTERS = {
    "antialias": "bilinear, antialiased where that reduces it",
    "bilinear": "bilinear, where that reduces it plain, as MediaPipe: of n pixels that become "
    "m, pixel i is blended of those on either side of i n / m",
    "area": "bilinear, where that reduces it the mean of the pixels that are covered",
}


def rule(scaling: Scaling) -> str:
    """Where the mask falls and of which pixels a patch is made, in two sentences."""
    side, size = scaling.side, scaling.image_size
    if scaling.grid == "scaled":
        return (
            f"The mask falls on the image after it was scaled as a whole to {size} x {size} "
            f"pixels, {_whole(scaling)}, and cut into {side} x {side} patches. Where that "
            "enlarges an image, visible patches hold blends of hidden pixels."
        )
    return (
        f"The mask falls on a camera's own pixels: along a side of n pixels, at least {side}, cell "
        f"k of {side} has those from floor(k n / {side}) up to, not with, floor((k + 1) n / {side})"
        ". A patch is made of its own cell alone."
    )


def _whole(scaling: Scaling) -> str:
    antialiased = scaling.resize == "antialias"
    return "bilinear with antialiasing" if antialiased else _FILTERS[scaling.resize]


def describe_input(scaling: Scaling, cell: tuple[int, int] | None = None) -> str:
    """What an input `image` holds: cells of so many pixels, or where None whole patches."""
    if cell:
        return f"Cells of {cell[0]} x {cell[1]} pixels, as a camera has them. {rule(scaling)}"
    if scaling.grid == "scaled":
        return rule(scaling)
    size = scaling.patch_size
    return f"Cells scaled each by itself to {size} x {size} pixels. {rule(scaling)}"


def card_lines(run: FinishedRun, kinds: Collection[str]) -> list[str]:
    """What a model card says of it, a line for each paragraph and between them.

    Args:
        run: whose files the card is of.
        kinds: of the files, of interface.KINDS.
    """
    paragraphs = [rule(run.scaling)]
    if run.scaling.grid == "sensor":
        paragraphs[0] += " " + _of_this_run(run)
        scaled = [f"`{kind}`" for kind in kinds if kind not in ("head", "classifier_sensor")]
        if scaled:
            paragraphs.append(f"{', '.join(scaled)}: {_scaled_by_cell(run.scaling)}")
        if "classifier_sensor" in kinds:
            paragraphs.append(f"`classifier_sensor`: {_as_it_is(run)}")
    if run.config.masks.kind == "shared":
        positions = ", ".join(map(str, run.shared_positions()))
        paragraphs.append(f"Visible in every image, counted row by row from 0: {positions}.")
    return [line for paragraph in paragraphs for line in (paragraph, "")]


def _of_this_run(run: FinishedRun) -> str:
    side, shape = run.scaling.side, run.sensor_shape
    cell = " x ".join(_between(length // side, -(-length // side)) for length in shape)
    return f"An image of {shape[0]} x {shape[1]} pixels, as this run's first, has cells of {cell}."


def _between(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _scaled_by_cell(scaling: Scaling) -> str:
    size, patch = scaling.image_size, scaling.patch_size
    resize = "" if scaling.resize == "antialias" else f", resize={scaling.resize!r}"
    text = (
        f"every cell becomes {patch} x {patch} pixels by itself: {_FILTERS[scaling.resize]}, its "
        "own edge repeated, nothing from beyond that, rounded to uint8. (Cells smaller than a "
        "patch, of which some have a pixel more than others, become as large as the larger ones "
        f"first.) `sparse_ist_tf.masks.Scaling({size}, {patch}{resize})` does it, and `python -m "
        "sparse_ist_tf.classify`; its `matrix` gives the weights for a device's own code. Hidden "
        "cells are never read and needn't be sensed. "
    )
    if scaling.resize == "bilinear":
        return text + (
            f"MediaPipe makes the same of an image of at least {size} x {size} pixels, but for "
            "rounding; a smaller one it enlarges over the cells' edges, hidden pixels into visible "
            "patches."
        )
    return text + (
        "An image scaled as a whole, as phones and MediaPipe scale one of another size than the "
        "input, is not that: it blends over the cells' edges, hidden pixels into visible patches, "
        "and the accuracies above are not of it. `dataset.resize=bilinear` trains with the pixels "
        "that MediaPipe makes of larger images."
    )


def _as_it_is(run: FinishedRun) -> str:
    (height, width), cell = run.sensor_shape, run.sensor_cell()
    return (
        f"{height} x {width} pixels as a camera of that size has them, {cell[0]} x {cell[1]} for "
        "each cell. Nothing is to be scaled, and MediaPipe scales nothing: the enlargement is part "
        "of the file's first matrix, without the rounding in between. An image of another size is "
        "scaled cell by cell, never as a whole."
    )
