"""Labels pictures with an exported classifier, through LiteRT.

    python -m sparse_ist_tf.classify classifier_head_int8.tflite cat.jpg dog.png
    python -m sparse_ist_tf.classify classifier_head_int8.tflite photos/ --format=csv --output=a.csv

Takes a `classifier`, `classifier_sensor` or `classifier_patches` file of `python -m
sparse_ist_tf.export`; a folder stands for the pictures in it and below. Pictures of any size are
scaled as the training's were, those for a `classifier_sensor` cell by cell to the pixels that it
takes. What can't be read is named and left out, and the exit status is then 1.

ai-edge-litert, NumPy and Pillow are all that it imports.
"""

import argparse
import codecs
import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sparse_ist_tf.errors import RequestError, RunError, printable, say, warn
from sparse_ist_tf.export.files import metadata
from sparse_ist_tf.export.files.flatbuffer import read_file
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.files import write_atomically
from sparse_ist_tf.inputs.pictures import EXTENSIONS, read_picture
from sparse_ist_tf.masks import MaskOptions, Scaling, select_patches

FORMATS = ("text", "csv", "jsonl")


class Classifier:
    """An exported classifier as a function of pictures.

    Args:
        path: of the .tflite file.
        threads: of LiteRT, at least 1.
        delegate: library of a LiteRT delegate, such as libedgetpu.so.1; none where empty.

    Raises:
        RequestError: if the file is missing, damaged or no classifier of images, or the delegate
            can't be loaded.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, delegate: str = ""):
        if threads < 1:
            raise RequestError(f"threads={threads}: must be at least 1")
        name = Path(path).name
        content = read_file(path)
        self.labels, self.run = metadata.read(content, name)
        try:
            kind, encoder = self.run["artefact"]["kind"], self.run["encoder"]
            size, patch_size = encoder["image_size"], encoder["patch_size"]
            mask = self.run["mask"]
            grid, resize = mask.get("grid", "scaled"), mask.get("resize", "antialias")
            self._scaling = Scaling(size, patch_size, grid, resize)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise RequestError(
                f"{name}: lacks what this version of the library writes; export it again"
            ) from None
        if kind not in ("classifier", "classifier_sensor", "classifier_patches"):
            raise RequestError(f"{name}: is a {kind}; only classifiers take pictures")
        self._runtime = LiteRT(content, name, threads=threads, delegate=delegate)
        if len(self.labels) != self._runtime.output.shape[-1]:
            raise RequestError(f"{name}: has {len(self.labels)} labels for its outputs")
        self._kind = kind
        self.image_shape: tuple[int, ...] = (size, size)
        if kind == "classifier_sensor":
            self.image_shape = self._runtime.inputs[0].shape[1:3]

    def scale(self, image: np.ndarray, name: str = "an image") -> np.ndarray:
        """A picture of any size as the file takes it.

        Args:
            image: uint8[height, width, 3].
            name: what errors call it.

        Returns:
            uint8[*image_shape, 3].

        Raises:
            RunError: as Scaling.sent.
        """
        if self._kind != "classifier_sensor":
            return self._scaling(image, name)
        height, width = (length // self._scaling.side for length in self.image_shape)
        return self._scaling.resampled(image, (height, width), name)

    def probabilities(self, image: np.ndarray, index: int = 0) -> np.ndarray:
        """The probability of each label.

        Args:
            image: uint8[*image_shape, 3], as scale() makes it.
            index: of the picture, which draws its mask where masks differ from image to image.

        Returns:
            float32[classes].

        Raises:
            RequestError: if the image has another size or type.
        """
        image, wanted = np.asarray(image), [*self.image_shape, 3]
        if list(image.shape) != wanted or image.dtype != np.uint8:
            raise RequestError(f"image: is {image.dtype}{list(image.shape)}, must be uint8{wanted}")
        example = {"image": image}
        if self._kind == "classifier_patches":
            mask = self.run["mask"]
            masks = MaskOptions(mask["kind"], mask["ratio"], mask["pattern"], mask["seed"])
            positions = masks.positions([index], self._scaling.num_patches)
            seen = select_patches(image[None], positions, self._scaling.patch_size)
            example = {"patches": seen[0], "positions": positions[0]}
        logits = self._runtime.run(example)
        if self._runtime.output.name == "probabilities":
            return logits
        grown = np.exp(logits - logits.max())
        return grown / grown.sum()


def find_pictures(paths: Sequence[str]) -> list[str]:
    """Picture files, folders replaced by those in them and below, sorted, without hidden ones.

    Raises:
        RequestError: if a path isn't there or a folder has no pictures.
    """
    out = []
    for path in map(Path, paths):
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS)
            shown = [p for p in below if "/." not in f"/{p.relative_to(path).as_posix()}"]
            found = [str(p) for p in shown if p.is_file() or p.is_symlink()]  # a broken one, too
            if not found:
                raise RequestError(f"{path}: has no pictures")
            out += found
        elif path.exists():
            out.append(str(path))
        else:
            raise RequestError(f"{path}: No such file or directory")
    return out


def classify(
    classifier: Classifier,
    pictures: Sequence[str],
    *,
    top: int = 1,
    progress: bool = False,
    on_unread: Callable[[RunError], None] | None = None,
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Labels picture files, in order.

    Args:
        classifier: an exported file.
        pictures: paths.
        top: labels for each picture, at least 1.
        progress: show a bar, where tqdm is installed.
        on_unread: is told of a picture that can't be labelled, which is then left out.

    Yields:
        (path, [(label, probability), ...]), as many as `top`, the likeliest first.

    Raises:
        RunError: if a file can't be read as an image, or has fewer pixels than patches, and
            on_unread isn't given.
    """
    for index, path in enumerate(_shown(pictures) if progress else pictures):
        try:
            image = classifier.scale(read_picture(path), path)
        except RunError as error:
            if on_unread is None:
                raise
            on_unread(error)
            continue
        found = classifier.probabilities(image, index)
        best = np.argsort(-found, kind="stable")[:top]
        yield path, [(classifier.labels[i], float(found[i])) for i in best]


def _shown(pictures: Sequence[str]) -> Iterator[str]:
    """The pictures behind a bar."""
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(pictures)
    return iter(tqdm(pictures, unit=" images", leave=False, dynamic_ncols=True))


def _line(form: str, in_ascii: bool, path: str, answers: Sequence[tuple[str, float]]) -> str:
    if form == "jsonl":
        parts = [{"label": label, "probability": round(p, 6)} for label, p in answers]
        return json.dumps({"image": path, "answers": parts}, ensure_ascii=in_ascii)
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for rank, (label, p) in enumerate(answers, start=1):
            writer.writerow([path, rank, label, f"{p:.6f}"])
        return text.getvalue().rstrip("\n")
    said = (f"{printable(label)} ({100 * p:.1f} %)" for label, p in answers)
    return f"{printable(path)}: {', '.join(said)}"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise RequestError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with the process's arguments where none are given."""
    parser = _Parser(
        prog="python -m sparse_ist_tf.classify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="an exported classifier, .tflite")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="pictures, or folders of them")
    parser.add_argument("--format", choices=FORMATS, default="text", help="of the answers")
    parser.add_argument("--output", default="", help="a file for the answers, in place of stdout")
    parser.add_argument("--top", type=int, default=1, help="labels for each picture")
    parser.add_argument("--threads", type=int, default=1, help="of LiteRT")
    parser.add_argument("--delegate", default="", help="a LiteRT delegate, such as libedgetpu.so.1")
    try:
        options = parser.parse_args(argv)
        if options.top < 1:
            raise RequestError(f"top={options.top}: must be at least 1")
        if Path(options.output or "-").is_dir():
            raise RequestError(f"output={options.output}: is a folder")
        classifier = Classifier(options.file, threads=options.threads, delegate=options.delegate)
        pictures = find_pictures(options.images)
        return _label(classifier, pictures, options)
    except (RequestError, RunError, OSError) as error:
        return say(error)
    except KeyboardInterrupt:
        return 130


def _label(classifier: Classifier, pictures: Sequence[str], options: argparse.Namespace) -> int:
    """Writes the answers where the options say; 1 where a picture has none, else 0."""
    unread: list[RunError] = []

    def on_unread(error):
        unread.append(error)
        warn(str(error))

    progress = sys.stderr.isatty() and (bool(options.output) or not sys.stdout.isatty())
    answers = classify(
        classifier, pictures, top=options.top, progress=progress, on_unread=on_unread
    )
    encoding = "utf-8" if options.output else sys.stdout.encoding or "utf-8"
    in_ascii = codecs.lookup(encoding).name != "utf-8"
    lines = (_line(options.format, in_ascii, *answer) for answer in answers)
    if options.format == "csv":
        lines = itertools.chain(["image,rank,label,probability"], lines)
    if options.output:
        text = "".join(f"{line}\n" for line in lines)
        if len(unread) < len(pictures):
            write_atomically(options.output, text.encode(errors="backslashreplace"))
            print(f"{options.output}: {len(pictures) - len(unread):,} pictures")
    else:
        _print(lines)
    if unread:
        warn(f"{len(unread):,} of {len(pictures):,} pictures couldn't be labelled")
    return 1 if unread else 0


def _print(lines: Iterable[str]) -> None:
    """Prints lines on any terminal, until nobody reads them."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush


if __name__ == "__main__":
    raise SystemExit(main())
