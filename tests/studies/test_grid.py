"""Grids: every training once, and bad axes named."""

import importlib

import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.studies.grid import cells_of
from sparse_ist_tf.study_config import get_config, validate


def _study(**grids):
    config = get_config()
    config.grids = grids
    config.seeds = (0, 1)
    return config


def test_the_same_training_in_two_grids_is_one():
    config = _study(
        a=(("masks.ratio", (0.0, 0.5)), ("ist.num_subnets", (2, 4))),
        b=(("ist.num_subnets", (4, 8)),),  # at the default ratio, 0.5
    )
    cells = cells_of(config)
    assert [len(some) for some in cells.values()] == [8, 4]
    names = {name: {cell.name for cell in some} for name, some in cells.items()}
    assert len(names["a"] | names["b"]) == 10
    assert len(names["a"] & names["b"]) == 2
    first = cells["a"][0]
    assert first.values == {"masks.ratio": 0.0, "ist.num_subnets": 2}
    assert (first.config.masks.ratio, first.config.ist.num_subnets, first.config.seed) == (0, 2, 0)
    assert config.base.ist.num_subnets == 4, "the base stays what it was"


def test_cells_that_can_share_features_say_so():
    config = _study(a=(("masks.ratio", (0.0, 0.5)), ("ist.num_subnets", (2, 4))))
    cells = cells_of(config)["a"]
    # Nothing hidden: one set for all seeds. Half hidden: one for each seed.
    assert len({cell.features for cell in cells}) == 3
    tested = cells_of(_study(a=(("masks.ratio", (0.5,)), ("masks.test_ratios", ((), (0.9,))))))["a"]
    assert len({cell.name for cell in tested}) == 4
    assert len({cell.features for cell in tested}) == 2, "training sees the same images"
    codecs = ("transport.codec", ("none", "raw", "jpeg", "patches"))
    more = (("transport.quality", (30, 75)), ("transport.features", ("float32", "int8")))
    sent = cells_of(_study(a=(("masks.ratio", (0.0,)), codecs, *more)))["a"]
    assert len({cell.features for cell in sent}) == 5, "one for all pixels that nothing changed"
    random = cells_of(_study(a=(("masks.kind", ("random",)),)))["a"]
    assert {cell.features for cell in random} == {""}


def test_workers_are_an_axis():
    cells = cells_of(_study(a=(("num_workers", (1, 2)),)))["a"]
    assert [cell.num_workers for cell in cells] == [1, 1, 2, 2]
    assert len({cell.name for cell in cells}) == 4


def test_a_training_keeps_to_the_keys_that_it_uses():
    """So that the base and other axes may say more, and a training is still there once."""
    config = _study(a=(("ist.algorithm", ("ist", "centralized")), ("ist.num_subnets", (2, 4))))
    config.base.ist.moments, config.seeds = "reset", (0,)
    two, four, *alone = cells_of(config)["a"]
    assert (two.config.ist.num_subnets, four.config.ist.moments) == (2, "reset")
    assert alone[0].name == alone[1].name
    assert alone[0].config.ist.moments == "carry"
    assert [cell.values["ist.num_subnets"] for cell in alone] == [2, 4]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ((("masks.pattern", ("uniform", "grid")),), "masks.pattern='grid' changes nothing"),
        ((("variant", ("wide",)),), "ist.capacities=(4, 2, 1, 1) changes nothing"),
    ],
)
def test_an_axis_that_changes_nothing_is_refused(axes, words):
    config = _study(a=axes)
    config.variants = (
        ("wide", (("ist.algorithm", "local_sgd"), ("ist.capacities", (4, 2, 1, 1)))),
    )
    with pytest.raises(RequestError) as caught:
        validate(config)
    assert words in str(caught.value)


def test_some_of_the_grids_can_be_run_alone():
    config = _study(a=(("masks.ratio", (0.0,)),), b=(("ist.num_subnets", (4, 8)),))
    everything = cells_of(config)
    config.only = ("b",)
    assert {name: [c.name for c in some] for name, some in cells_of(config).items()} == {
        "b": [cell.name for cell in everything["b"]]
    }
    config.only = ("b", "c")
    with pytest.raises(RequestError, match="there is no grid 'c', but a, b"):
        validate(config)


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        ({}, "at least one grid"),
        ({"a": ()}, "grids.a=()"),
        ({"a": (("masks.ratio", ()),)}, "each axis values"),
        ({"a": (("masks.ratoi", (0.5,)),)}, "no key 'masks.ratoi'"),
        ({"a": (("ratio", (0.5,)),)}, "no key 'ratio'"),
        ({"a": (("seed", (1,)),)}, "seeds in seeds"),
        ({"a": (("masks.ratio", (0.5, 1.0)),)}, "grids.a, masks.ratio=1.0: masks.ratio=1.0"),
        ({"a": (("num_workers", (8,)),)}, "num_workers=8"),
        ({"a": 5}, "grids.a=5: must be pairs of a key and its values"),
        ({"a": ("masks.ratio", (0.5,))}, "must be pairs of a key and its values"),
        ({"a": (("masks.ratio", 0.5),)}, "must be pairs of a key and its values"),
        (
            {"a": (("masks.ratio", (0.5, 0.5)),)},
            "masks.ratio=(0.5, 0.5): must have each value once",
        ),
        ({"a": (("masks.ratio", (0.5,)),) * 2}, "each axis once"),
        ({"a/b": (("masks.ratio", (0.5,)),)}, "'a/b' names files"),
    ],
)
def test_a_bad_grid_is_named(grids, words):
    config = _study(**grids)
    with pytest.raises(RequestError) as caught:
        validate(config)
    assert words in str(caught.value)


@pytest.mark.parametrize("seeds", [(), (-1,), (0.5,), ("a",), (True,), (0, 0)])
def test_bad_seeds_are_named(seeds):
    config = get_config()
    config.seeds = seeds
    with pytest.raises(RequestError, match="seeds="):
        validate(config)


@pytest.mark.parametrize("name", ["study_aid", "study_cifar10"])
def test_the_papers_studies_are_valid_and_as_long_as_they_say(name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    validate(config)
    cells = cells_of(config)
    assert (
        f"{len({cell.name for some in cells.values() for cell in some})} trainings"
        in module.__doc__
    )
    alone = {cell.name for cell in cells["1_table_4_and_figure_7"]}
    shared = [cell.name for cell in cells["2_figure_3"] if "resnet" not in cell.features]
    assert shared, "the same trainings as in table 4"
    assert set(shared) <= alone


@pytest.mark.parametrize("name", ["study_gap", "study_ablation_aid", "study_devices", "study_leak"])
def test_the_other_studies_are_as_long_as_they_say(name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    validate(config)
    cells = {cell.name for some in cells_of(config).values() for cell in some}
    assert f"{len(cells)} trainings" in " ".join(module.__doc__.split())


def test_the_study_of_leaks_compares_grids_of_equal_trainings():
    config = importlib.import_module("configs.study_leak").get_config()
    config.only = ()
    grids = cells_of(config)
    for name, cells in grids.items():
        masks = [cell.config.masks for cell in cells]
        if name.endswith("_known"):  # compared with the others' cells on the sensor's grid
            weights = {cell.config.encoder.weights for cell in cells}
            assert (weights, {m.grid for m in masks}) == ({"packaged:vit_micro_sensor"}, {"sensor"})
            continue
        pairs = {(m.ratio, cell.config.seed) for m, cell in zip(masks, cells, strict=True)}
        assert len(cells) == 2 * len(pairs), name
        assert {m.grid for m in masks} == {"sensor", "scaled"}
        assert len({cell.features for cell in cells if not cell.config.masks.ratio}) == 2
    assert {cell.config.encoder.image_size for cell in grids["8_large"]} == {224}


def test_a_variant_sets_several_keys():
    study = get_config()
    study.variants = (
        ("SGD", (("optimizer.name", "sgd"), ("learning_rate", 0.1))),
        ("wide", (("head.hidden", (2000, 2000)),)),
    )
    study.grids = {"one": (("variant", ("SGD", "wide")), ("ist.num_subnets", (2,)))}
    study.seeds = (0,)
    sgd, wide = cells_of(study)["one"]
    assert (sgd.config.optimizer.name, sgd.config.learning_rate) == ("sgd", 0.1)
    assert sgd.config.head.hidden == (1000, 1000)
    assert (wide.config.head.hidden, wide.config.ist.num_subnets) == ((2000, 2000), 2)
    assert wide.values == {"variant": "wide", "ist.num_subnets": 2}


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ((), "no variant 'wide'; there are: none"),
        ((("wide", (("head.width", 3),)),), "no key 'head.width'"),
        ((("wide", (("ist.local_steps", -1),)),), "ist.local_steps=-1: must be at least 0"),
        ((("wide", ("head.hidden",)),), "must be pairs of a name and its"),
    ],
)
def test_an_impossible_variant_is_one_line(variants, message):
    study = get_config()
    study.variants, study.grids = variants, {"one": (("variant", ("wide",)),)}
    with pytest.raises(RequestError, match=message):
        cells_of(study)
