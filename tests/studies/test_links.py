"""Bytes of an image, and accuracy against them, from the rows of a study."""

import importlib
import re

import pytest

from sparse_ist_tf.studies.grid import cells_of
from sparse_ist_tf.studies.links import AccuracyOfLinks, BytesOfImages, link_sections
from sparse_ist_tf.study_config import validate

AXES = ["transport.codec", "transport.quality", "masks.ratio", "transport.features"]


def _row(codec, quality, ratio, accuracy, features="float32", seed=0, **more):
    """A finished training; its bytes follow from quality and ratio."""
    kept = 1 - ratio
    sizes = {
        "quality": quality,
        "images": 256,
        "image_jpeg": 600 + 10.0 * quality,
        "image_jpeg_message": 10.0 * quality,
        "patches_raw": 12_288 * kept,
        "patches_jpeg": 10 * quality * kept,
        "feature_float32": 778.0,
        "feature_float16": 394.0,
        "feature_int8": 206.0,
    }
    row = {
        "cell": f"{codec}{quality}{ratio}{features}{seed}{sorted(more.items())}",
        "status": "finished",
        "dataset": "aid",
        "encoder": "packaged:vit_micro",
        "seed": seed,
        "accuracy": accuracy,
        "best_accuracy": accuracy,
        **dict(zip(AXES, (codec, quality, ratio, features), strict=True)),
        **{f"bytes_per_image.{name}": size for name, size in sizes.items()},
    }
    return row | more


ROWS = [
    _row("jpeg", 10, 0.0, 0.70),
    _row("jpeg", 50, 0.0, 0.76),
    _row("patches", 10, 0.5, 0.60),
    _row("patches", 50, 0.5, 0.72),
    _row("patches", 50, 0.8, 0.58),  # twice the bytes of the first, and worse
    _row("raw", 50, 0.5, 0.74),
    _row("none", 50, 0.0, 0.77),
    _row("none", 50, 0.0, 0.78, features="int8"),
]


def test_bytes_are_those_of_what_crosses():
    links = AccuracyOfLinks({"a": (AXES, ROWS)})
    head, *rows = links.table()
    found = {(row[0], row[1], row[2]): row[head.index("bytes")] for row in rows}
    assert found == {
        ("whole image, JPEG", "10", "0"): "100",
        ("whole image, JPEG", "50", "0"): "500",
        ("visible patches, JPEG", "10", "0.5"): "50",
        ("visible patches, JPEG", "50", "0.5"): "250",
        ("visible patches, JPEG", "50", "0.8"): "100",
        ("visible patches, raw", "", "0.5"): "6,144",
        ("feature, float32", "", "0"): "778",
        ("feature, int8", "", "0"): "206",
    }
    assert [int(row[4].replace(",", "")) for row in rows] == sorted(
        int(size.replace(",", "")) for size in found.values()
    )


def test_the_best_for_their_bytes_are_marked():
    head, *rows = AccuracyOfLinks({"a": (AXES, ROWS)}).table()
    best = [(row[0], row[1]) for row in rows if row[head.index("most accurate for its bytes")]]
    jpegs = [(f"{what}, JPEG", "10") for what in ("visible patches", "whole image")]
    assert best == [*jpegs, ("feature, int8", "")]


def test_the_figure_has_a_line_for_each_codec():
    [(_, svg, caption)] = AccuracyOfLinks({"a": (AXES, ROWS)}).figures()
    for name in ("whole image, JPEG", "visible patches, JPEG", "visible patches, raw", "feature"):
        assert re.search(rf">\s*{name}\s*<", svg)
    assert "bytes of an image on the link" in svg
    assert "test accuracy (%)" in svg
    assert "standard deviation" in caption


def test_seeds_are_means_and_a_training_of_two_grids_counts_once():
    rows = [_row("raw", 75, 0.5, 0.5 + 0.2 * seed, seed=seed) for seed in (0, 1)]
    links = AccuracyOfLinks({"a": (AXES, rows), "b": (AXES, rows[:1])})
    [point] = links.points
    assert point["seeds"] == 2
    assert point["accuracy"][0] == pytest.approx(0.6)


def test_other_axes_make_lines_of_their_own():
    rows = [_row("raw", 75, r, 0.5, **{"ist.num_subnets": n}) for r in (0.0, 0.5) for n in (1, 4)]
    links = AccuracyOfLinks({"a": ([*AXES, "ist.num_subnets"], rows)})
    names = {row[0] for row in links.table()[1:]}
    assert names == {"visible patches, raw, 1 subnet", "visible patches, raw, 4 subnets"}


def test_trainings_that_are_not_finished_have_no_point():
    missing = {**_row("jpeg", 10, 0.0, None), "status": "missing"}
    bare = {key: v for key, v in missing.items() if not key.startswith("bytes_per_image")}
    assert AccuracyOfLinks({"a": (AXES, [missing, bare])}).points == []
    assert BytesOfImages([bare]).sizes == {}
    assert link_sections({"a": (AXES, [bare])}) == {}


def test_bytes_by_mask_ratio_are_of_the_quality_that_most_ratios_have():
    images = BytesOfImages(ROWS)
    assert images.quality == 50
    assert list(images.sizes) == [0.0, 0.5, 0.8]
    head, *rows = images.table()
    assert head[1:4] == ("whole image, JPEG file", "whole image, JPEG", "visible patches, raw")
    assert rows[1] == ("0.5", "1,100", "500", "6,144", "250", "778", "394", "206")
    [(_, svg, caption)] = images.figures()
    assert "mask ratio (hidden share of the patches)" in svg
    assert "bytes of an image" in svg
    assert "quality 50" in caption


def test_a_study_has_the_parts_that_its_grids_have_numbers_for():
    both = link_sections({"a": (AXES, ROWS)})
    assert list(both) == ["accuracy_and_bytes_of_an_image", "bytes_of_an_image"]
    only_ratios = link_sections({"a": (["masks.ratio"], ROWS)})
    assert list(only_ratios) == ["bytes_of_an_image"]
    others = [{**row, "dataset": "cifar10", "cell": row["cell"] + "x"} for row in ROWS]
    two = link_sections({"a": (["masks.ratio", "dataset.name"], ROWS + others)})
    assert list(two) == ["bytes_of_an_image_1", "bytes_of_an_image_2"]
    assert "cifar10" in two["bytes_of_an_image_2"].intro()


def test_the_study_of_links_is_as_large_as_it_says():
    module = importlib.import_module("configs.study_link_aid")
    config = module.get_config()
    validate(config)
    cells = {cell.name for some in cells_of(config).values() for cell in some}
    assert f"{len(cells)} trainings" in module.__doc__


def test_bytes_of_both_grids_are_not_mixed():
    rows = [
        {**_row("none", 50, ratio, 0.7, grid=grid), "masks.grid": grid}
        for grid in ("sensor", "scaled")
        for ratio in (0.0, 0.5)
    ]
    for row in rows[2:]:
        row["bytes_per_image.patches_raw"] *= 4
    sections = link_sections({"a": (["masks.ratio", "masks.grid"], rows)})
    scaled, sensor = sections.values()
    assert list(sections) == ["bytes_of_an_image_1", "bytes_of_an_image_2"]
    assert "masks.grid=scaled" in scaled.intro()
    assert "masks.grid=sensor" in sensor.intro()
    assert scaled.sizes[0.5]["patches_raw"] == 4 * sensor.sizes[0.5]["patches_raw"]
