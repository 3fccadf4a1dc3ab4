"""A sheet of masked images, to look at masks."""

import os
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs.drawing import KINDS, PATTERNS, positions
from sparse_ist_tf.inputs.patches import visible_from_positions

_HIDDEN = 128  # grey
_PAIRS = 4  # in a row of the sheet


def write_mask_preview(
    path: str | os.PathLike, images: np.ndarray, positions: np.ndarray, patch_size: int
) -> None:
    """Writes a PNG with each image beside what is visible of it; hidden patches are grey.

    Four pairs to a row, every image at least 128 pixels wide. Written atomically.

    Args:
        path: of the PNG.
        images: uint8[n, height, width, 3], n at least 1, sides multiples of patch_size.
        positions: integers [n, v], the visible positions.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: if there are no images, or if positions are not one row per image.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.inputs.masks import write_mask_preview
        >>> write_mask_preview("/tmp/masks.png", np.zeros((2, 16, 16, 3), "uint8"),
        ...                    np.array([[0, 3], [1, 2]]), patch_size=8)
    """
    count, height, width, _ = images.shape
    if not count or len(positions) != count:
        raise ValueError(f"{count} images and {len(positions)} masks: must be one mask per image")
    grid = height // patch_size, width // patch_size
    visible = visible_from_positions(positions, grid[0] * grid[1]).reshape(count, *grid, 1)
    visible = visible.repeat(patch_size, axis=1).repeat(patch_size, axis=2)
    masked = np.where(visible, images, np.uint8(_HIDDEN))
    scale = -(-128 // width)
    height, width = height * scale, width * scale
    gap = max(2, width // 32)
    columns, rows = min(_PAIRS, count), -(-count // _PAIRS)
    pair = 2 * width + gap
    shape = (3 * gap * (rows + 1) + rows * height, 3 * gap * (columns + 1) + columns * pair, 3)
    sheet = np.full(shape, 255, np.uint8)
    for i in range(count):
        top = 3 * gap + i // _PAIRS * (height + 3 * gap)
        left = 3 * gap + i % _PAIRS * (pair + 3 * gap)
        for image in (images[i], masked[i]):
            large = image.repeat(scale, axis=0).repeat(scale, axis=1)
            sheet[top : top + height, left : left + width] = large
            left += width + gap
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        Image.fromarray(sheet).save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _define_flags():
    flags.DEFINE_string("dataset", "digits", "Data set: digits, cifar10, aid, folder:PATH, ...")
    flags.DEFINE_string("data_dir", "", "Where TFDS looks; its own default where empty.")
    flags.DEFINE_string("split", "test", "Part of the data set.")
    flags.DEFINE_enum("kind", "fixed", KINDS, "Kind of mask.")
    flags.DEFINE_enum("pattern", "uniform", PATTERNS, "Pattern of a shared mask.")
    flags.DEFINE_float("ratio", 0.5, "Hidden share of the patches, in [0, 1).")
    flags.DEFINE_integer("image_size", 64, "Side of the images in pixels.", lower_bound=1)
    flags.DEFINE_integer("patch_size", 8, "Side of a patch in pixels.", lower_bound=1)
    flags.DEFINE_integer("count", 16, "How many images.", lower_bound=1)
    flags.DEFINE_integer("epoch", 0, "Epoch of random masks.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Seed of the masks.")
    flags.DEFINE_string("output", "masks.png", "Where the PNG goes.")


def preview(args) -> None:
    """Draws the sheet that the flags of the command ask for.

    Args:
        args: the flags, by name.

    Raises:
        RequestError: if a flag isn't allowed.

    Example:
        >>> from absl import flags
        >>> from sparse_ist_tf.inputs.preview import preview
        >>> preview(flags.FLAGS)  # doctest: +SKIP
    """
    from sparse_ist_tf.inputs import datasets

    if args.image_size % args.patch_size:
        raise RequestError(
            f"--patch_size={args.patch_size}: must divide --image_size={args.image_size}"
        )
    if not Path(args.output).absolute().parent.is_dir():
        raise RequestError(f"--output={args.output}: must lie in a folder that exists")
    num_patches = (args.image_size // args.patch_size) ** 2
    try:  # before any image is read
        positions(args.kind, args.seed, [0], num_patches, args.ratio, args.epoch, args.pattern)
    except ValueError as error:
        raise RequestError(f"--ratio={args.ratio}: {error}") from error
    splits = datasets.load(args.dataset, data_dir=args.data_dir or None)
    if args.split not in splits:
        raise RequestError(f"--split={args.split}: must be one of {', '.join(splits)}")
    split = splits[args.split]
    count = min(args.count, split.size)
    chosen = np.linspace(0, split.size - 1, count).astype(np.int64)  # so that all classes show
    rows = [next(iter(split.dataset(args.image_size, start=i, stop=i + 1))) for i in chosen]
    images = np.stack([row["image"].numpy() for row in rows])
    places = positions(
        args.kind, args.seed, chosen, num_patches, args.ratio, args.epoch, args.pattern
    )
    write_mask_preview(args.output, images, places, args.patch_size)
    print(f"{args.output}: {count} images of {split.name}, {args.kind} masks at {args.ratio:g}")


def main() -> None:
    """Runs `python -m sparse_ist_tf.inputs.masks`; its --help says how.

    Example:
        >>> from sparse_ist_tf.inputs.preview import main  # doctest: +SKIP
        >>> main()  # doctest: +SKIP
    """
    from sparse_ist_tf.commands import run

    _define_flags()
    run(lambda argv: preview(flags.FLAGS))
