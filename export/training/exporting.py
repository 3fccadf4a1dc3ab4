"""From a finished run to files that train its subnets further, proven beside Keras' steps."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.config import ist_options
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.export.devices.targets import Target
from sparse_ist_tf.export.staging import staging
from sparse_ist_tf.export.training import bundle, micro
from sparse_ist_tf.export.training.files import make_trainable
from sparse_ist_tf.export.training.readme import readme
from sparse_ist_tf.export.training.recipe import STEP, Recipe
from sparse_ist_tf.export.training.reference import by_keras
from sparse_ist_tf.export.training.runtime import Trainable
from sparse_ist_tf.inputs.batches import BatchStream
from sparse_ist_tf.ist.head import accuracy, extract, logits
from sparse_ist_tf.reports.report import format_table
from sparse_ist_tf.runs.finished_run import FinishedRun
from sparse_ist_tf.runs.parts import optimizer_config

STEPS = 100  # that a file is compared over
MOST = {"litert": 1e-5, "micro": 1e-4}  # that a weight may be off behind them
BATCH_SIZE = {"litert": 16, "micro": 8}
_RATE = 1e-3


class Measured(NamedTuple):
    """What was measured of a file.

    Args:
        name: of the file.
        size: bytes.
        difference: the largest of a weight from Keras' behind STEPS steps.
        accuracy: on the test images before a step, in [0, 1].
        milliseconds: of a step, the median; 0 where it wasn't timed.
        arena: bytes of memory that TFLite Micro needs, 0 elsewhere.
        state: bytes of weights and moments.
    """

    name: str
    size: int
    difference: float
    accuracy: float
    milliseconds: float = 0.0
    arena: int = 0
    state: int = 0


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may ask for.

    Args:
        subnets: which; all where empty.
        batch_size: examples of a step; BATCH_SIZE where 0.
    """

    subnets: tuple[int, ...] = ()
    batch_size: int = 0


def check(config: ConfigDict) -> None:
    """Refuses a run whose subnets a file can't train as it did.

    Raises:
        RequestError: naming the key.
    """
    wanted = {"normalization": "none", "dropout": 0.0, "standardize": False}
    for key, value in wanted.items():
        if config.head[key] != value:
            raise RequestError(
                f"head.{key}={config.head[key]!r}: must be {value!r} for --trainable"
            )
    if config.ist.algorithm != "ist":
        raise RequestError(
            f"ist.algorithm={config.ist.algorithm!r}: must be 'ist' for --trainable, which trains "
            "subnets"
        )


def recipe_of(run: FinishedRun, subnet: int | None, batch_size: int) -> Recipe:
    """How a run trains a subnet.

    Args:
        run: finished.
        subnet: which; None where there is one alone.
        batch_size: of a step.

    Raises:
        RequestError: as Recipe.
    """
    config, hidden = run.config, tuple(run.spec.hidden)
    scales = (1.0,) * len(hidden)
    if run.partition and subnet is not None:
        sizes = tuple(len(layer[subnet]) for layer in run.partition.indices)
        if ist_options(config).scale_inputs:  # published code scales none
            scales = tuple(w / size for w, size in zip(hidden, sizes, strict=True))
        hidden = sizes
    return Recipe(
        run.spec.feature_dim,
        hidden,
        run.spec.num_classes,
        scales,
        optimizer_config(config),
        config.label_smoothing,
        batch_size,
    )


class TrainingExporter:
    """Makes and proves the files that train a run's subnets.

    Args:
        run: finished.
        target: whose interpreter they are for.
        options: what is asked for.
        output: the folder that good files go to.
        report: takes lines for the user.

    Raises:
        RequestError: if the run's subnets can't be trained by a file.
    """

    def __init__(
        self,
        run: FinishedRun,
        target: Target,
        options: Options,
        output: Path,
        report: Callable[[str], None] = print,
    ):
        check(run.config)
        self.run, self.target, self.options = run, target, options
        self.output, self.report = Path(output), report
        self.rows = options.batch_size or BATCH_SIZE[target.interpreter]
        self.subnets: Sequence[int | None] = options.subnets or range(run.num_subnets) or (None,)
        for subnet in self.subnets:
            if subnet is not None and subnet >= run.num_subnets:
                raise RequestError(f"subnets={subnet}: must be below {run.num_subnets}")
            recipe_of(run, subnet, self.rows)  # refuses what can't be
        if target.interpreter == "micro":
            micro.require()

    def export(self) -> bool:
        """Makes everything; True if all files are good.

        Raises:
            RunError: if the run's head isn't worth what it was, or a file can't be made.
        """
        self.run.confirm()
        make = self._micro if self.target.interpreter == "micro" else self._phone
        most, measured = MOST[self.target.interpreter], []
        with staging(self.output) as stage:
            for subnet in self.subnets:
                self.report(f"{self._name(subnet)} ...")
                measured.append(make(subnet, stage))
            good = [row for row in measured if row.difference <= most and not self._over(row)]
            self.output.mkdir(parents=True, exist_ok=True)
            for row in good:
                self._deliver(stage, row.name)
        self._tell(measured, most)
        return len(good) == len(measured)

    def _deliver(self, stage: Path, name: str) -> None:
        for path in sorted(stage.glob(f"{Path(name).stem}*")):
            _replace(path, self.output / path.name)

    def _over(self, row: Measured) -> list[str]:
        """What of the target's memory a file needs too much of."""
        budgets = (("flash", row.size, self.target.flash), ("sram", row.arena, self.target.sram))
        return [
            f"{row.name}: needs {need:,} bytes of {what}, {need - limit:,} more than "
            f"--{what}={limit}"
            for what, need, limit in budgets
            if 0 < limit < need
        ]

    def _tell(self, measured: Sequence[Measured], most: float) -> None:
        rows = [("file", "bytes", "accuracy", "off", "ms", "state", "arena")]
        for row in measured:
            rows.append(
                (
                    row.name,
                    f"{row.size:,}",
                    f"{100 * row.accuracy:.2f} %",
                    f"{row.difference:.1e}" + ("" if row.difference <= most else ", too far"),
                    f"{row.milliseconds:.2f}" if row.milliseconds else "",
                    f"{row.state:,}",
                    f"{row.arena:,}" if row.arena else "",
                )
            )
        self.report(format_table(rows))
        self.report(
            f"off: the largest difference of a weight from Keras' behind {STEPS} steps on the same "
            f"batches,\nat most {most:g} may be; ms: of a step on one thread; state: bytes of "
            "weights and moments"
        )
        for line in (line for row in measured for line in self._over(row)):
            self.report(line)
        kept = sum(row.difference <= most and not self._over(row) for row in measured)
        self.report(f"Kept in {self.output}: {kept} files that train")

    def _name(self, subnet: int | None) -> str:
        part = "head" if subnet is None else f"subnet{subnet}of{self.run.num_subnets}"
        return f"{self.run.prefix}_{part}_trainable.tflite"

    def _state(self, recipe: Recipe, subnet: int | None) -> dict[str, np.ndarray]:
        """The subnet as the run left it, with moments at their beginning."""
        run, found = self.run, self.run.parameters
        if subnet is not None:
            found = extract(run.parameters, run.spec, run.partition, subnet, scale_inputs=False)
        state = {name: np.zeros(shape, np.float32) for name, shape in recipe.shapes.items()}
        weights = {
            name.replace("/", "_"): np.asarray(value, np.float32) for name, value in found.items()
        }
        return {**state, **weights, STEP: np.zeros((), np.int32)}

    def _batches(self, recipe: Recipe, subnet: int | None) -> dict[str, np.ndarray]:
        """Batches of the run's training images, as its subnet draws them."""
        features = self.run.images.features("train")
        labels = self.run.images.splits["train"].labels
        stream = BatchStream(np.arange(len(labels)), recipe.batch_size, 0, subnet or 0)
        rows = stream.rows(0, STEPS)
        rates = np.full(STEPS, _RATE, np.float32)
        return {"features": features[rows], "labels": labels[rows], "rates": rates}

    def _phone(self, subnet: int | None, stage: Path) -> Measured:
        recipe, name = recipe_of(self.run, subnet, self.rows), self._name(subnet)
        state, batches = self._state(recipe, subnet), self._batches(recipe, subnet)
        content = make_trainable(recipe, state)
        trained = Trainable(content, name)
        found = trained.infer(self.run.test_features)
        wanted = logits(self.run.head(subnet), self.run.test_features)
        if not np.allclose(found, wanted, atol=1e-3 * max(1.0, np.abs(wanted).max())):
            raise RunError(f"{name}: gives other logits than the run's subnet")
        times = []
        for row in zip(*batches.values(), strict=True):
            started = time.perf_counter()
            trained.train(*row)
            times.append(1e3 * (time.perf_counter() - started))
        difference = _difference(by_keras(recipe, state, batches).state, trained.read())
        (stage / name).write_bytes(content)
        card = readme(recipe, name, self.run)
        (stage / f"{Path(name).stem}.md").write_text(card, encoding="utf-8")
        labels = self.run.images.splits["test"].labels
        right = accuracy(found, labels)
        return Measured(
            name, len(content), difference, right, float(np.median(times)), state=_bytes(state)
        )

    def _micro(self, subnet: int | None, stage: Path) -> Measured:
        recipe, name = recipe_of(self.run, subnet, self.rows), self._name(subnet)
        state, batches = self._state(recipe, subnet), self._batches(recipe, subnet)
        content = micro.make_step(recipe)
        trained = micro.run(recipe, content, state, batches)
        difference = _difference(by_keras(recipe, state, batches).state, trained.state)
        arena = micro.needed_arena(recipe, content, state)
        (stage / name).write_bytes(content)
        folder = stage / f"{Path(name).stem}_bundle"
        bundle.write(
            folder, bundle.Training(Path(name).stem, recipe, content, state, arena), batches
        )
        features, labels = self.run.test_features, self.run.images.splits["test"].labels
        right = accuracy(logits(self.run.head(subnet), features), labels)
        return Measured(name, len(content), difference, right, arena=arena, state=_bytes(state))


def _difference(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(found[name] - value).max()) for name, value in wanted.items())


def _bytes(state: dict[str, np.ndarray]) -> int:
    return sum(value.nbytes for value in state.values())


def _replace(path: Path, place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    path.replace(place)
