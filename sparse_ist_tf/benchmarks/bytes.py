"""What an image costs on a link in each form, on real images, by grid."""

import itertools
from collections.abc import Iterable, Sequence

from sparse_ist_tf.codec.transport import Transport
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs import datasets
from sparse_ist_tf.masks import GRIDS, MaskOptions
from sparse_ist_tf.reports.report import format_table

_FORMS = {
    "image_jpeg": "whole, JPEG file",
    "image_jpeg_message": "whole, JPEG",
    "patches_raw": "visible, raw",
    "patches_jpeg": "visible, JPEG",
}


def compare(
    names: Sequence[str],
    sizes: Iterable[int] = (64,),
    ratios: Sequence[float] = (0.0, 0.5, 0.75),
    *,
    patch_size: int = 8,
    quality: int = 75,
    data_dir: str | None = None,
) -> list[dict]:
    """Prints what images of data sets cost under fixed masks, means of 256 test images.

    Args:
        names: of data sets.
        sizes: of the encoder's images in pixels.
        ratios: hidden shares of the patches, in [0, 1).
        patch_size: of the encoder in pixels.
        quality: of JPEGs, 1 to 100.
        data_dir: as datasets.load.

    Returns:
        A dictionary for each row: dataset, size, ratio, grid, bytes.

    Raises:
        RequestError: if a data set, a size or a ratio can't be used.
        RunError: if an image can't be read, or has fewer pixels than patches along a side.
    """
    rows: list[dict] = []
    for name in names:
        test = datasets.load(name, data_dir=data_dir)["test"]
        for size, ratio, grid in itertools.product(sizes, ratios, GRIDS):
            masks = MaskOptions("fixed", ratio, grid=grid)
            try:
                scaling = masks.scaling(size, patch_size)
            except ValueError as error:
                raise RequestError(str(error)) from None
            found = Transport(quality=quality).bytes_per_image(test, masks, scaling)
            rows.append({"dataset": name, "size": size, "ratio": ratio, "grid": grid} | found)
    print(f"Bytes of an image, means of at most 256 test images; JPEGs of quality {quality}, as")
    print("messages but for the file, which has the header that all such files have")
    table = [("data", "scaled to", "hidden", "grid", *_FORMS.values())]
    for row in rows:
        sizes_of_forms = (f"{row[form]:,.0f}" for form in _FORMS)
        hidden = f"{100 * row['ratio']:g} %"
        table.append((row["dataset"], str(row["size"]), hidden, row["grid"], *sizes_of_forms))
    print(format_table(table), flush=True)
    return rows
