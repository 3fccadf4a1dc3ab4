"""From the axes of a study to the trainings that it needs, each of them once."""

import dataclasses
import hashlib
import itertools
import json
import math
import re
from typing import Any

from ml_collections import ConfigDict

from sparse_ist_tf.config import identity, table, validate
from sparse_ist_tf.errors import RequestError, did_you_mean
from sparse_ist_tf.keys import Key, assign, reset_unused

# The two axes that are no key of train's configuration.
WORKERS = "num_workers"
VARIANT = "variant"  # by the names in study.variants, each of which sets several keys


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of a study.

    Args:
        values: what the grids say of it, by key; the same cell may be in several grids.
        config: of the training, whole.
        num_workers: P.
    """

    values: dict[str, Any]
    config: ConfigDict
    num_workers: int

    @property
    def name(self) -> str:
        """A file name: readable, and other for every other configuration."""
        whole = json.dumps([identity(self.config), self.num_workers], sort_keys=True)
        digest = hashlib.sha256(whole.encode()).hexdigest()[:10]
        ist, masks = self.config.ist, self.config.masks
        words = f"{ist.algorithm}_n{ist.num_subnets}_{masks.kind}_{masks.ratio}"
        return re.sub(r"[^\w.-]", "_", f"{words}_seed{self.config.seed}_{digest}")

    @property
    def features(self) -> str:
        """Cells of which this is equal share their features; empty where none can."""
        masks = self.config.masks.to_dict()
        if masks["kind"] == "random":
            return ""
        del masks["test_ratios"]
        seed = self.config.seed if masks["ratio"] else 0
        parts = [self.config[name].to_dict() for name in ("dataset", "encoder")]
        transport = self.config.transport  # numbers of features are made of those in the cache
        coded = transport.codec in ("jpeg", "patches")
        parts.append((transport.codec, transport.quality) if coded else None)
        return json.dumps([*parts, masks, seed], sort_keys=True)


def cells_of(study: ConfigDict) -> dict[str, list[Cell]]:
    """The cells of every grid of a study.

    Returns:
        Cells by the name of their grid, in the order of its axes, seeds innermost; the grids in the
        order of the numbers that their names begin with, or those in study.only alone.

    Raises:
        RequestError: if a grid is empty, an axis is unknown, or a training isn't possible.
    """
    if not study.grids:
        raise RequestError("grids: must hold at least one grid")
    names, only = sorted(study.grids, key=_place), tuple(study.only)
    for name in only:
        if name not in names:
            there = ", ".join(names)
            raise RequestError(f"only={only}: there is no grid {name!r}, but {there}")
    cells = {name: _cells(name, study) for name in names}
    return {name: cells[name] for name in names if name in (only or names)}


def _cells(grid: str, study: ConfigDict) -> list[Cell]:
    """The cells of a grid; what one of them doesn't use has its default there."""
    axes = study.grids[grid]
    names, cells = _checked_keys(grid, axes), []
    ignored: dict[tuple[str, str], Key | None] = {}  # settings that no cell of the grid uses
    for point in itertools.product(*(values for _, values in axes)):
        values = dict(zip(names, point, strict=True))
        settings = _settings(grid, study, values)
        config, num_workers = _configured(grid, study, settings)
        unused = {key.name: key for key in reset_unused(config, table())}
        for name, value in settings.items():
            found = (name, repr(value))
            ignored[found] = ignored.get(found, unused.get(name)) and unused.get(name)
        for seed in study.seeds:
            config = ConfigDict(config.to_dict() | {"seed": int(seed)})
            try:
                validate(config, num_workers)
            except RequestError as error:
                place = ", ".join(f"{key}={value}" for key, value in values.items())
                raise RequestError(f"grids.{grid}, {place}: {error}") from None
            cells.append(Cell(values, config, num_workers))
    for (name, value), key in ignored.items():
        if key:
            raise RequestError(
                f"grids.{grid}: {name}={value} changes nothing, it is used only where "
                f"{key.condition}"
            )
    return cells


def _place(name: str) -> tuple[float, str]:
    """Grids are in the order of the numbers in front of their names, the others behind."""
    number = re.match(r"\d+(?=_)", name)
    return (int(number.group()) if number else math.inf, name)


def _checked_keys(grid: str, axes) -> list[str]:
    """The keys of a grid's axes."""
    if not re.fullmatch(r"[\w-]+", grid):
        raise RequestError(f"grids: {grid!r} names files, it must be of letters, digits, _ and -")
    if not _are_pairs(axes) or not all(isinstance(values, tuple | list) for _, values in axes):
        raise RequestError(f"grids.{grid}={axes!r}: must be pairs of a key and its values")
    if not axes or not all(len(values) for _, values in axes):
        raise RequestError(f"grids.{grid}={axes}: must have axes, and each axis values")
    names = [key for key, _ in axes]
    if len(set(names)) < len(names) or "seed" in names:
        raise RequestError(f"grids.{grid}: must have each axis once, and seeds in seeds")
    for key, values in axes:
        if len({json.dumps(value) for value in values}) < len(values):
            raise RequestError(f"grids.{grid}, {key}={values}: must have each value once")
    return names


def _variant(grid: str, study: ConfigDict, name: str) -> dict[str, Any]:
    """The keys and values that a variant's name stands for."""
    variants = study.variants
    if not _are_pairs(variants) or not all(_are_pairs(pairs) for _, pairs in variants):
        raise RequestError(f"variants={variants}: must be pairs of a name and its (key, value)s")
    named = dict(variants)
    if name not in named:
        there = ", ".join(named) or "none"
        raise RequestError(f"grids.{grid}: there is no variant {name!r}; there are: {there}")
    return dict(named[name])


def _are_pairs(values) -> bool:
    """Whether these are pairs of a name and something."""
    return isinstance(values, tuple | list) and all(
        isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str)
        for value in values
    )


def _settings(grid: str, study: ConfigDict, values: dict[str, Any]) -> dict[str, Any]:
    """All keys that a point of a grid sets; a variant stands for several."""
    settings: dict[str, Any] = {}
    for key, value in values.items():
        settings |= _variant(grid, study, value) if key == VARIANT else {key: value}
    return settings


def _configured(grid: str, study: ConfigDict, settings: dict[str, Any]) -> tuple[ConfigDict, int]:
    """The configuration with these settings, and its number of workers."""
    config = ConfigDict(study.base.to_dict())
    for key, value in settings.items():
        try:
            if key != WORKERS:
                assign(config, key, value)
        except (KeyError, TypeError, AttributeError):
            near = did_you_mean(key, [known.name for known in table()])
            raise RequestError(
                f"grids.{grid}: there is no key {key!r} to be an axis{near}"
            ) from None
    return config, settings.get(WORKERS, study.num_workers)
