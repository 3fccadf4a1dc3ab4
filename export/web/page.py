"""The folder that a browser opens: a page, its runtime, and what it knows of the classifiers there.

The page's own files lie in static/ as they are delivered. What it is told is page.json, made of
what each .tflite file says of itself.
"""

import json
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files import metadata, runtimes
from sparse_ist_tf.masks import MaskOptions

FORMAT = "sparse_ist_tf.export.web/1"
SETTINGS, RUNTIME, LICENCE = "page.json", "runtime", "LICENSE.runtime"
MASKS = 16  # that take turns where every picture has another


def write(folder: Path, files: Mapping[str, bytes], runtime: Mapping[str, bytes]) -> None:
    """Writes a page, but for the .tflite files themselves, labels and the model card.

    Args:
        folder: which is there.
        files: the classifiers by name, the first is what the page begins with.
        runtime: of runtime.load().
    """
    own = resources.files(__package__) / "static"
    (folder / RUNTIME).mkdir()
    for entry in own.iterdir():
        name = f"{RUNTIME}/LICENSE" if entry.name == LICENCE else entry.name
        (folder / name).write_bytes(entry.read_bytes())
    for name, content in runtime.items():
        (folder / RUNTIME / name).write_bytes(content)
    text = json.dumps(settings(files), ensure_ascii=False) + "\n"
    (folder / SETTINGS).write_text(text, encoding="utf-8")


def check(folder: Path) -> None:
    """Checks that a page written to a folder replaces no one else's.

    Raises:
        RequestError: if one of its names is taken there, and not by an earlier page.
    """
    if _is_ours(folder):
        return
    own = (resources.files(__package__) / "static").iterdir()
    for name in (SETTINGS, RUNTIME, *(entry.name for entry in own)):
        if (folder / name).exists():
            raise RequestError(
                f"output={str(folder)!r}: has a {name} of another kind; a page needs a folder of "
                "its own"
            )


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, TypeError, KeyError):
        return False


def remove(folder: Path) -> None:
    """Removes an earlier page, if there is one."""
    if not _is_ours(folder):
        return
    for entry in (resources.files(__package__) / "static").iterdir():
        (folder / entry.name).unlink(missing_ok=True)
    shutil.rmtree(folder / RUNTIME, ignore_errors=True)
    (folder / SETTINGS).unlink(missing_ok=True)


def settings(files: Mapping[str, bytes]) -> dict:
    """What a page has to know of its classifiers.

    Args:
        files: as write().

    Returns:
        {"format", "title", "classifiers": [{"file", "summary", "kind", "labels", "outputs"
        ("logits" or "probabilities"), "image_size", "patch_size", "grid", "resize",
        "input" [height, width] of what it is given, "masks" [[visible positions], ...]}, ...]}.

    Raises:
        RequestError: if a file isn't one of export's.
    """
    classifiers = [_describe(name, content) for name, content in files.items()]
    _, run = metadata.read(next(iter(files.values())))
    data = Path(run["config"]["dataset"]["name"].removeprefix("folder:")).name
    return {"format": FORMAT, "title": data, "classifiers": classifiers}


def _describe(name: str, content: bytes) -> dict:
    labels, run = metadata.read(content, name)
    encoder, mask = run["encoder"], run["mask"]
    size, kind = encoder["image_size"], run["artefact"]["kind"]
    inputs, output = runtimes.ports(content, name)
    shape = {port.name: port.shape for port in inputs}
    masks = [mask["positions"]] if "positions" in mask else _masks(mask, size, encoder)
    accuracy = run["measured"]["accuracy"]
    hidden = f"{100 * mask['ratio']:g} % of a picture" if mask["ratio"] else "nothing"
    return {
        "file": name,
        "summary": (
            f"{len(labels)} labels; {hidden} hidden; {run['numbers']}, {len(content) / 1e6:.1f} "
            f"MB; {100 * accuracy:.1f} % of the test images right"
        ),
        "kind": kind,
        "labels": list(labels),
        "outputs": run.get("output", output.name),
        "image_size": size,
        "patch_size": encoder["patch_size"],
        "grid": mask["grid"],
        "resize": mask.get("resize", "antialias"),
        "input": list(shape["image"][1:3]) if "image" in shape else [size, size],
        "masks": masks,
    }


def _masks(mask: Mapping, size: int, encoder: Mapping) -> list[list[int]]:
    """The masks of the first pictures, as `classify` draws them."""
    options = MaskOptions(mask["kind"], mask["ratio"], mask["pattern"], mask["seed"])
    positions = options.positions(range(MASKS), (size // encoder["patch_size"]) ** 2)
    return positions.tolist()
