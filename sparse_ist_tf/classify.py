"""Labels pictures with an exported classifier, through LiteRT.

    python -m sparse_ist_tf.classify classifier_head_int8.tflite cat.jpg dog.png
    python -m sparse_ist_tf.classify classifier_head_int8.tflite photos/ --format=csv --output=a.csv

Takes a `classifier` or a `classifier_patches` file of `python -m sparse_ist_tf.export`; a folder
stands for the pictures in it and below. Pictures of any size are scaled as the training's were.
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

import numpy as np

from sparse_ist_tf.commands import quiet, say
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.files import write_atomically

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
        if threads < 1:
            raise RequestError(f"threads={threads}: must be at least 1")
        name = Path(path).name
        content = read_file(path)
        self.labels, self.run = metadata.read(content, name)
        try:
            kind, encoder = self.run["artefact"]["kind"], self.run["encoder"]
            self.image_size, self._patch_size = encoder["image_size"], encoder["patch_size"]
        except (KeyError, TypeError):
            raise RequestError(
                f"{name}: lacks what this version of the library writes; export it again"
            ) from None
        if kind not in ("classifier", "classifier_patches"):
            raise RequestError(f"{name}: is a {kind}; only classifiers take pictures")
        self._runtime = LiteRT(content, name, threads=threads, delegate=delegate)

    def probabilities(self, image: np.ndarray, index: int = 0) -> np.ndarray:
        """The probability of each label.

        Args:
            image: uint8[image_size, image_size, 3].
            index: of the picture, which draws its mask where masks differ from image to image.

        Returns:
            float32[classes].

        Raises:
            RequestError: if the image has another size or type.
        """
        from sparse_ist_tf.masks import MaskOptions, select_patches

        image, side = np.asarray(image), self.image_size
        if image.shape != (side, side, 3) or image.dtype != np.uint8:
            raise RequestError(
                f"image: is {image.dtype}{list(image.shape)}, must be uint8[{side}, {side}, 3]"
            )
        example = {"image": image}
        if self.run["artefact"]["kind"] == "classifier_patches":
            mask = self.run["mask"]
            masks = MaskOptions(mask["kind"], mask["ratio"], mask["pattern"], mask["seed"])
            positions = masks.positions([index], (side // self._patch_size) ** 2)
            seen = select_patches(image[None], positions, self._patch_size)
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
        RunError: if a file can't be read as an image.
    """
    import tensorflow as tf
    from tqdm import tqdm

    from sparse_ist_tf.inputs.decoding import decode_file, image_errors
    from sparse_ist_tf.inputs.split import scale_image
    from sparse_ist_tf.tracing import as_written

    images = tf.data.Dataset.from_tensor_slices(tf.constant(list(pictures), tf.string))
    images = images.map(
        as_written(lambda path: scale_image(decode_file(path), classifier.image_size)),
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
