"""How fast int8 files are on one thread of LiteRT, beside the same model from timm by litert-torch.

    python -m sparse_ist_tf.benchmarks.export PRESET FOLDER

writes timm's files; it runs in a process of its own, so that torch and TensorFlow don't meet. All
files then take turns in one process, so that a busy machine slows them alike.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.reports.report import format_table

CLASSES = 10
_NEEDED = ("litert_torch", "ai_edge_quantizer", "timm")
_TURNS = 7
_QUANTIZATIONS = ("float32", "int8")


def compare(preset: str = "vit_micro", ratios: Sequence[float] = (0.0, 0.5, 0.75)) -> list[dict]:
    """Prints milliseconds an image at several mask ratios, and of timm's model where it is there.

    Ours are classifiers of the phone's target with a linear head of 10 classes, a shared mask and
    ranges measured on digits; random weights, which don't change the time. timm's model has the
    same sizes and head, takes normalised pixels and gets its int8 numbers by ai-edge-quantizer.

    Args:
        preset: a key of PRESETS.
        ratios: hidden shares of the patches, 0 among them.

    Returns:
        A dictionary for each file: name, quantize, ratio, ms (the least of seven medians), bytes,
        and for ours in int8 where TFLite Micro is installed arena, in bytes.

    Raises:
        RequestError: if there is no such preset.
        RunError: if litert-torch is installed and fails.
    """
    from sparse_ist_tf.encoder.presets import PRESETS
    from sparse_ist_tf.export.files import micro
    from sparse_ist_tf.export.files.runtimes import LiteRT

    if preset not in PRESETS:
        raise RequestError(f"encoder preset {preset!r}: there is none such")
    rows: list[dict[str, Any]] = []
    runs = []
    for (quantize, ratio), (content, example, arena) in _ours(preset, ratios).items():
        about = {"name": f"ours, {preset}", "quantize": quantize, "ratio": ratio}
        rows.append(about | {"bytes": len(content), "arena": arena, "ms": np.inf})
        runs.append((LiteRT(content), example))
    for quantize, content in _theirs(preset).items():
        about = {"name": "timm by litert-torch", "quantize": quantize, "ratio": 0.0}
        rows.append(about | {"bytes": len(content), "arena": None, "ms": np.inf})
        runtime = LiteRT(content)
        pixels = np.zeros(runtime.inputs[0].shape, np.float32)
        runs.append((runtime, {runtime.inputs[0].name: pixels}))
    for _ in range(_TURNS):
        for row, (runtime, example) in zip(rows, runs, strict=True):
            row["ms"] = min(row["ms"], runtime.latency(example, 20)[0])
    _print(preset, rows, micro.available())
    return rows


def _print(preset: str, rows: Sequence[Mapping], with_arena: bool) -> None:
    whole = {(row["name"], row["quantize"]): row["ms"] for row in rows if not row["ratio"]}
    timm = {row["quantize"]: row["ms"] for row in rows if row["name"].startswith("timm")}
    table = [("file", "quantize", "hidden", "bytes", "ms", "x whole", "x timm", "arena")]
    for row in rows:
        at = whole.get((row["name"], row["quantize"]))
        theirs = timm.get(row["quantize"])
        table.append(
            (
                row["name"],
                row["quantize"],
                f"{100 * row['ratio']:g} %",
                f"{row['bytes']:,}",
                f"{row['ms']:.3f}",
                f"{at / row['ms']:.2f}" if at else "",
                f"{theirs / row['ms']:.2f}" if theirs else "",
                f"{row['arena']:,}" if row["arena"] else "",
            )
        )
    print(f"One image of {preset} on one LiteRT thread, the least of {_TURNS} medians")
    print(format_table(table))
    if not timm:
        print(f"Not compared with timm by litert-torch: {', '.join(_missing())} missing")
    if not with_arena:
        print("Arena not measured: tflite_micro is not installed")


def _ours(preset: str, ratios: Sequence[float]) -> dict:
    """(quantize, ratio) to (content, example, arena or None)."""
    from sparse_ist_tf.checkpoints.loading import load_encoder
    from sparse_ist_tf.config import get_config
    from sparse_ist_tf.encoder.bundle import vit_encoder
    from sparse_ist_tf.export.files import micro
    from sparse_ist_tf.export.graphs.convert import Interface, convert
    from sparse_ist_tf.export.graphs.folding import Affine, fold
    from sparse_ist_tf.export.graphs.forms import Network
    from sparse_ist_tf.masks import shared_positions
    from sparse_ist_tf.runs.images import Images

    encoder = vit_encoder(load_encoder(f"random:{preset}"), f"preset={preset}")
    images = [{"image": one["image"][None]} for one in Images(get_config(), encoder).drawn(16)]
    vit = fold(encoder.model, encoder.mean, encoder.std)
    kernel = np.random.default_rng(0).standard_normal((vit.spec.width, CLASSES))
    head = (Affine(kernel / vit.spec.width**0.5, np.zeros(CLASSES)),)
    out = {}
    for quantize in _QUANTIZATIONS:
        for ratio in ratios:
            positions = shared_positions(0, vit.spec.num_patches, ratio)
            network = Network("classifier", head, vit, tuple(map(int, positions)))
            arena = None
            if quantize == "int8" and micro.available():
                whole = convert(network, quantize, Interface(whole_integer=True), lambda: images)
                arena = micro.needed_arena(whole, images[0])
            content = convert(network, quantize, samples=lambda: images)
            out[quantize, ratio] = content, images[0], arena
    return out


def _missing() -> list[str]:
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def _theirs(preset: str) -> dict[str, bytes]:
    """Files of timm's model by quantization; none where what makes them isn't installed."""
    if _missing():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, preset, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        paths = {quantize: Path(folder, f"{quantize}.tflite") for quantize in _QUANTIZATIONS}
        if done.returncode or not all(path.exists() for path in paths.values()):
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise RunError(f"litert-torch failed: {lines[-1][:300]}")
        return {quantize: path.read_bytes() for quantize, path in paths.items()}


def _main(argv: Sequence[str]) -> None:
    import litert_torch
    import torch

    from sparse_ist_tf.benchmarks.encoding_worker import timm_model
    from sparse_ist_tf.benchmarks.quantize import by_ai_edge

    preset, folder = argv
    model = timm_model(preset, num_classes=CLASSES).eval()
    size = model.patch_embed.img_size
    path = Path(folder, "float32.tflite")
    litert_torch.convert(model, (torch.zeros(1, 3, *size),)).export(str(path))
    # Noise does for ranges that only the time depends on, which is that of any.
    rng = np.random.default_rng(0)
    pixels = [rng.standard_normal((1, 3, *size)).astype(np.float32) for _ in range(4)]
    int8 = by_ai_edge(path.read_bytes(), "int8", [{"args_0": value} for value in pixels])
    Path(folder, "int8.tflite").write_bytes(int8)


if __name__ == "__main__":
    _main(sys.argv[1:])
