"""Labels pictures with an exported classifier, through LiteRT.

    python -m sparse_ist_tf.classify classifier_head_int8.tflite cat.jpg dog.png
    python -m sparse_ist_tf.classify classifier_head_int8.tflite photos/ --format=csv --output=a.csv

Takes a `classifier`, `classifier_sensor` or `classifier_patches` file of `python -m
sparse_ist_tf.export`; a folder stands for the pictures in it and below. Pictures of any size are
scaled as the training's were, those for a `classifier_sensor` cell by cell to the pixels that it
takes.
"""

import argparse
import contextlib
import csv
import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparse_ist_tf.commands import quiet, say
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.files import write_atomically

if TYPE_CHECKING:
    import tensorflow as tf

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
        with quiet():
            from sparse_ist_tf.export.files import metadata
            from sparse_ist_tf.export.files.flatbuffer import read_file
            from sparse_ist_tf.export.files.runtimes import LiteRT
            from sparse_ist_tf.masks import Scaling
        if threads < 1:
            raise RequestError(f"threads={threads}: must be at least 1")
        name = Path(path).name
        content = read_file(path)
        self.labels, self.run = metadata.read(content, name)
        try:
            kind, encoder = self.run["artefact"]["kind"], self.run["encoder"]
            size, patch_size = encoder["image_size"], encoder["patch_size"]
            self._scaling = Scaling(size, patch_size, self.run["mask"].get("grid", "scaled"))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise RequestError(
                f"{name}: lacks what this version of the library writes; export it again"
            ) from None
        if kind not in ("classifier", "classifier_sensor", "classifier_patches"):
            raise RequestError(f"{name}: is a {kind}; only classifiers take pictures")
        self._runtime = LiteRT(content, name, threads=threads, delegate=delegate)
        self._kind = kind
        self.image_shape: tuple[int, ...] = (size, size)
        if kind == "classifier_sensor":
            self.image_shape = self._runtime.inputs[0].shape[1:3]

    def scale(self, image: "tf.Tensor", name: "tf.Tensor | str" = "an image") -> "tf.Tensor":
        """A picture of any size as the file takes it; runs in a graph.

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
        from sparse_ist_tf.masks import MaskOptions, select_patches

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
        grown = np.exp(logits - logits.max())
        return grown / grown.sum()


def find_pictures(paths: Sequence[str]) -> list[str]:
    """Picture files, folders replaced by those in them and below, sorted, without hidden ones.

    Raises:
        RequestError: if a path isn't there or a folder has no pictures.
    """
    from sparse_ist_tf.inputs.decoding import EXTENSIONS

    out = []
    for path in map(Path, paths):
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS)
            shown = [p for p in below if "/." not in f"/{p.relative_to(path).as_posix()}"]
            found = [str(p) for p in shown if p.is_file()]
            if not found:
                raise RequestError(f"{path}: has no pictures")
            out += found
        elif path.exists():
            out.append(str(path))
        else:
            raise RequestError(f"{path}: No such file or directory")
    return out


def classify(
    classifier: Classifier, pictures: Sequence[str], *, top: int = 1, progress: bool = False
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Labels picture files, in order.

    Yields:
        (path, [(label, probability), ...]), as many as `top`, the likeliest first.

    Raises:
        RunError: if a file can't be read as an image, or has fewer pixels than patches.
    """
    import tensorflow as tf
    from tqdm import tqdm

    from sparse_ist_tf.inputs.decoding import decode_file, image_errors
    from sparse_ist_tf.tracing import as_written

    images = tf.data.Dataset.from_tensor_slices(tf.constant(list(pictures), tf.string))
    images = images.map(
        as_written(lambda path: classifier.scale(decode_file(path), path)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    bar = tqdm(total=len(pictures), unit=" images", disable=not progress, leave=False)
    with bar, image_errors():
        for index, image in enumerate(images.as_numpy_iterator()):
            found = classifier.probabilities(image, index)
            best = np.argsort(-found, kind="stable")[:top]
            yield pictures[index], [(classifier.labels[i], float(found[i])) for i in best]
            bar.update()


def _line(form: str, path: str, answers: Sequence[tuple[str, float]]) -> str:
    if form == "jsonl":
        parts = [{"label": label, "probability": round(p, 6)} for label, p in answers]
        return json.dumps({"image": path, "answers": parts}, ensure_ascii=False)
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for rank, (label, p) in enumerate(answers, start=1):
            writer.writerow([path, rank, label, f"{p:.6f}"])
        return text.getvalue().rstrip("\n")
    return f"{path}: " + ", ".join(f"{label} ({100 * p:.1f} %)" for label, p in answers)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise RequestError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with the process's arguments where none are given."""
    parser = _Parser(prog="python -m sparse_ist_tf.classify", description=__doc__)
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
        classifier = Classifier(options.file, threads=options.threads, delegate=options.delegate)
        pictures = find_pictures(options.images)
        progress = sys.stderr.isatty() and (bool(options.output) or not sys.stdout.isatty())
        answers = classify(classifier, pictures, top=options.top, progress=progress)
        lines: Iterable[str] = (_line(options.format, *answer) for answer in answers)
        if options.format == "csv":
            lines = itertools.chain(["image,rank,label,probability"], lines)
        if options.output:
            write_atomically(options.output, "".join(f"{line}\n" for line in lines))
            print(f"{options.output}: {len(pictures):,} pictures")
            return 0
        with contextlib.suppress(BrokenPipeError):
            for line in lines:
                print(line, flush=True)
    except (RequestError, RunError, OSError) as error:
        return say(error)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
