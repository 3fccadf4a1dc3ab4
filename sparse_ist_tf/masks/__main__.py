"""Draws a few masked images into a PNG: `python -m sparse_ist_tf.masks --output=masks.png`."""

from pathlib import Path

import numpy as np
from absl import flags

from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.masks.cells import GRIDS
from sparse_ist_tf.masks.drawing import KINDS, PATTERNS
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.masks.preview import write_mask_preview


def _define_flags() -> None:
    flags.DEFINE_string("dataset", "mnist5k", "Data set: mnist5k, cifar10, aid, folder:PATH, ...")
    flags.DEFINE_string("data_dir", "", "Where TFDS looks; its own default where empty.")
    flags.DEFINE_string("split", "test", "Part of the data set.")
    flags.DEFINE_enum("kind", "fixed", KINDS, "Kind of mask.")
    flags.DEFINE_enum("pattern", "uniform", PATTERNS, "Pattern of a shared mask.")
    flags.DEFINE_float("ratio", 0.5, "Hidden share of the patches, in [0, 1).")
    flags.DEFINE_enum("grid", "sensor", GRIDS, "Where the grid of patches lies.")
    flags.DEFINE_integer("image_size", 64, "Side of the images in pixels.", lower_bound=1)
    flags.DEFINE_integer("patch_size", 8, "Side of a patch in pixels.", lower_bound=1)
    flags.DEFINE_integer("count", 16, "How many images.", lower_bound=1)
    flags.DEFINE_integer("epoch", 0, "Epoch of random masks.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Seed of the masks.")
    flags.DEFINE_string("output", "masks.png", "Where the PNG goes.")


def preview(args: flags.FlagValues) -> None:
    """Draws the sheet that the flags of the command ask for.

    Raises:
        RequestError: if a flag isn't allowed.
    """
    if args.image_size % args.patch_size:
        raise RequestError(
            f"--patch_size={args.patch_size}: must divide --image_size={args.image_size}"
        )
    if not Path(args.output).absolute().parent.is_dir():
        raise RequestError(f"--output={args.output}: must lie in a folder that exists")
    num_patches = (args.image_size // args.patch_size) ** 2
    masks = MaskOptions(args.kind, args.ratio, args.pattern, args.seed, args.grid)
    try:  # before any image is read
        masks.positions(np.zeros(1, np.int64), num_patches, args.epoch)
    except ValueError as error:
        raise RequestError(f"--ratio={args.ratio}: {error}") from error
    with quiet():
        from sparse_ist_tf.inputs import datasets
        from sparse_ist_tf.inputs.decoding import image_errors
    splits = datasets.load(args.dataset, data_dir=args.data_dir or None)
    if args.split not in splits:
        raise RequestError(f"--split={args.split}: must be one of {', '.join(splits)}")
    split = splits[args.split]
    count = min(args.count, split.size)
    chosen = np.linspace(0, split.size - 1, count).astype(np.int64)  # so that all classes show
    rows = split.pick(masks.scaling(args.image_size, args.patch_size), chosen)
    with image_errors():
        images = np.stack([row["image"] for row in rows.as_numpy_iterator()])
    visible = masks.positions(chosen, num_patches, args.epoch)
    write_mask_preview(args.output, images, visible, args.patch_size)
    print(f"{args.output}: {count} images of {split.name}, {args.kind} masks at {args.ratio:g}")


def main() -> None:
    """Runs `python -m sparse_ist_tf.masks`; its --help says how."""
    _define_flags()
    run(lambda argv: preview(flags.FLAGS))


if __name__ == "__main__":
    main()
