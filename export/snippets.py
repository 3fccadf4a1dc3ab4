"""A few lines of Python for a model card that label a picture without this library.

ai-edge-litert, NumPy and Pillow are all that they import. They scale as masks/resampling.py does,
with Pillow's filter of the same name, whose pixels may differ by 1.
"""

from collections.abc import Sequence
from pathlib import Path

from sparse_ist_tf.export.files.runtimes import Port, ports
from sparse_ist_tf.export.graphs.interface import OF_IMAGES
from sparse_ist_tf.export.results import Result
from sparse_ist_tf.runs.finished_run import FinishedRun

PICTURE = "picture.jpg"


def snippets(run: FinishedRun, results: Sequence[Result], folder: Path) -> dict[str, str]:
    """Programs by what they use, each for one of the good files.

    Args:
        run: whose files they are.
        results: of these files.
        folder: that holds them.

    Returns:
        Title to Python, which opens PICTURE, labels.txt and the files in its working directory.
    """
    best = {}
    for result in results:
        if result.good and ("subnet" not in result.name or result.kind not in best):
            best[result.kind] = result.name
    out = {}
    for kind in ("classifier", "classifier_sensor", "classifier_patches"):
        if kind in best:
            out[f"`{kind}`"] = _program(run, [folder / best[kind]], kind)
    if "encoder" in best and "head" in best:
        paths = [folder / best["encoder"], folder / best["head"]]
        out["`encoder` and `head`"] = _program(run, paths, "encoder")
    return out


def _program(run: FinishedRun, paths: Sequence[Path], kind: str) -> str:
    lines = [
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter",
        "from PIL import Image, ImageOps",
        "",
        'labels = open("labels.txt", encoding="utf-8").read().split("\\n")',
        f'image = ImageOps.exif_transpose(Image.open("{PICTURE}")).convert("RGB")',
    ]
    *before, last = pixels = _pixels(run, kind)
    inputs, output = ports(paths[0].read_bytes())
    by_name = {port.name: port for port in inputs}
    if kind in OF_IMAGES:
        image = _bytes(f"{last.removeprefix('image = ')}[None]", inputs[0])
        lines += [*before, f"image = {image}"]
        value = _called(paths[0], output, "image=image")
    else:
        lines += _patches(run, by_name, pixels)
        value = _called(paths[0], output, "patches=patches, positions=positions")
    if len(paths) > 1:
        [feature], output = ports(paths[1].read_bytes())
        lines.append(f"feature = {_integers(value, feature)}")
        value = _called(paths[1], output, "feature=feature")
    lines.append(f"{output.name} = {value}[0]")
    if output.name == "logits":
        lines += [
            "probabilities = np.exp(logits - logits.max())",
            "probabilities /= probabilities.sum()",
        ]
    lines.append("print(labels[probabilities.argmax()], probabilities.max())")
    return "\n".join(lines)


def _pixels(run: FinishedRun, kind: str) -> list[str]:
    """From a Pillow image to its pixels as the encoder sees them, uint8[height, width, 3]."""
    scaling = run.scaling
    size, side = scaling.image_size, scaling.side
    if scaling.resize == "bilinear" and kind != "classifier_sensor":
        # Pillow counts from pixels' centres, MediaPipe from their corners.
        return [
            f"x, y = image.width / {size}, image.height / {size}  # at least 1",
            "places = x, 0, (1 - x) / 2, 0, y, (1 - y) / 2",
            f"image = image.transform(({size}, {size}), Image.Transform.AFFINE, places, "
            "Image.Resampling.BILINEAR)",
            "image = np.asarray(image)",
        ]
    reduced = "BOX" if scaling.resize == "area" else "BILINEAR"
    if scaling.grid == "scaled":
        return [
            f"image = np.asarray(image.resize(({size}, {size}), Image.Resampling.{reduced}))",
        ]
    height, width = run.sensor_cell() if kind == "classifier_sensor" else (scaling.patch_size,) * 2
    lines = [
        f"x, y = (np.arange({side + 1}) * length // {side} for length in image.size)",
        f"cells = np.zeros(({side}, {side}, {height}, {width}, 3), np.uint8)  # of patches",
        f"for row, column in np.ndindex({side}, {side}):",
        "    box = x[column], y[row], x[column + 1], y[row + 1]",
    ]
    cell = "image.crop(box)"
    if kind != "classifier_sensor":
        # What is sent of cells of different sizes: all as large as the largest, or as a patch.
        lines.append(f"    sent = [min({width}, -(-length // {side})) for length in image.size]")
        cell += f".resize(sent, Image.Resampling.{reduced})"
    lines += [
        f"    cells[row, column] = {cell}.resize(({width}, {height}), Image.Resampling.BILINEAR)",
        f"image = cells.swapaxes(1, 2).reshape({side * height}, {side * width}, 3)",
    ]
    return lines


def _patches(run: FinishedRun, by_name: dict[str, Port], pixels: list[str]) -> list[str]:
    """The visible patches, and where they are, in place of the whole image's last line."""
    side, patch = run.scaling.side, run.scaling.patch_size
    positions = run.images.masks.positions([0], run.encoder.num_patches)[0].tolist()
    *before, cells = pixels
    if not cells.startswith("image = cells"):
        before.append(cells)
        cut = f"image.reshape({side}, {patch}, {side}, {patch}, 3).swapaxes(1, 2)"
    else:
        cut = "cells"
    port = by_name["positions"]
    places = f"np.array([{positions}], np.int32)"
    if port.dtype != "int32":
        before.append(f"places = {places}")
        places = _integers(f"np.eye({side**2}, dtype=np.float32)[places]", port)
    chosen = "positions" if port.dtype == "int32" else "places"
    seen = f"{cut}.reshape({side**2}, {3 * patch**2})[{chosen}]"
    return [
        *before,
        f"positions = {places}",
        f"patches = {_bytes(seen, by_name['patches'])}",
    ]


def _called(path: Path, output: Port, arguments: str) -> str:
    """What a file gives, as floats."""
    call = f'Interpreter("{path.name}").get_signature_runner()({arguments})["{output.name}"]'
    if not output.scale:
        return call
    return f"(({call}.astype(np.float32) - {output.zero}) * {output.scale!r})"


def _bytes(pixels: str, port: Port) -> str:
    """Pixels as an input's type: an int8 pixel is its byte less 128."""
    return pixels if port.dtype == "uint8" else f"({pixels}.astype(np.int16) - 128).astype(np.int8)"


def _integers(value: str, port: Port) -> str:
    """A float as an input takes it."""
    if not port.scale:
        return f"{value}.astype(np.{port.dtype})" if port.dtype != "float32" else value
    integers = f"np.round({value} / {port.scale!r}) + {port.zero}"
    return f"np.clip({integers}, -128, 127).astype(np.{port.dtype})"
