"""What the loops of pre-training share: model, teacher, evaluation, records and checkpoints."""

import abc
import collections
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.checkpoints.loading import load_encoder
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.pretraining.augmentation import draw_positions
from sparse_ist_tf.pretraining.data import Images, grid_shares
from sparse_ist_tf.pretraining.objectives import Classifier, MaskedAutoencoder, draw_glorot
from sparse_ist_tf.pretraining.optimizers import learning_rate_at, make_optimizer
from sparse_ist_tf.pretraining.resolution import Resolution, resolutions
from sparse_ist_tf.reports.checkpoint_file import read_checkpoint, write_checkpoint
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.streams import Stream

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


class PretrainingRun(abc.ABC):
    """A resumable pre-training run, on any backend of Keras; a subclass has the loop.

    Batches, ratios and rates are functions of (seed, step): a run that is killed and goes on ends
    with the same weights up to round-off.

    Args:
        config: as sparse_ist_tf.pretrain_config makes it.
        images: the data.
        workdir: the run directory; checkpoint.safetensors and metrics.jsonl.

    Raises:
        RequestError: if config.weights are not those of config.preset, config.teacher is no run
            whose outputs these images have, or Keras refuses config.optimizer.kwargs.
    """

    def __init__(self, config: ConfigDict, images: Images, workdir: str | Path):
        self.config, self.images = config, images
        self.directory = RunDirectory(workdir)
        self.checkpoint_path = self.directory.path / "checkpoint.safetensors"
        keras.utils.set_random_seed(config.seed)
        self.encoder = create_encoder(config.preset, dtype=_POLICIES[config.dtype])
        if config.weights:
            self._start_from(config.weights)
        elif config.objective == "mae":
            draw_glorot(self.encoder.blocks)
        kept = self.encoder.trainable_variables if config.start_share else ()
        self._start = [np.array(variable) for variable in kept]
        self.model = self._make_model()
        self.teacher = self._read_teacher(Path(config.teacher)) if config.teacher else None
        self.optimizer = make_optimizer(config)
        self.optimizer.build(self.model.trainable_variables)
        self.resolutions = self._resolutions(config.image_sizes)
        self.step = 0

    def _resolutions(self, sizes):
        """These sizes, or the encoder's where there are none, with every sensor."""
        stored, patch_size = self.encoder.image_size, self.encoder.patch_size
        config = self.config
        grids = grid_shares(config)
        return resolutions(sizes, config.sensor_sizes, stored, patch_size, tuple(grids))

    def _start_from(self, weights):
        given = load_encoder(weights).model
        wanted, found = asdict(self.encoder.spec), asdict(given.spec)
        unlike = [key for key in wanted if wanted[key] != found.get(key)]
        if unlike:
            raise RequestError(
                f"weights={weights!r}: not those of a {self.config.preset}: "
                + ", ".join(f"{key} is {found.get(key)}, not {wanted[key]}" for key in unlike)
            )
        for mine, theirs in zip(self.encoder.weights, given.weights, strict=True):
            mine.assign(theirs)

    def _make_model(self):
        config = self.config
        if config.objective == "mae":
            return MaskedAutoencoder(self.encoder, **config.decoder)
        options = {key: config[key] for key in ("label_smoothing", "distillation", "projector")}
        return Classifier(self.encoder, self.images.num_classes, **options)

    def _read_teacher(self, folder: Path) -> Classifier:
        """The classifier that a run directory of pre-training holds."""
        told = RunDirectory(folder).config()
        path = folder / "checkpoint.safetensors"
        if not path.exists() or told.get("objective") != "supervised":
            raise RequestError(f"teacher={str(folder)!r}: no supervised run of pretrain")
        encoder = create_encoder(told["preset"], dtype=_POLICIES[told["dtype"]])
        teacher = Classifier(encoder, self.images.num_classes, projector=told.get("projector", 0))
        sizes = [(vit.image_size, vit.patch_size) for vit in (encoder, self.encoder)]
        if sizes[0] != sizes[1] or not assign_state(self._read(path)[0], named_variables(teacher)):
            raise RequestError(
                f"teacher={str(folder)!r}: must be a classifier of {self.images.num_classes} "
                f"classes on images of {self.encoder.image_size} px in patches of "
                f"{self.encoder.patch_size}"
            )
        return teacher

    @abc.abstractmethod
    def _metric_of(self, rows: np.ndarray, positions: np.ndarray, resolution: Resolution) -> float:
        """The mean metric of test images at a resolution, seen at positions."""

    def _record(self, reports, started, first):
        loss, metric = np.mean([np.asarray(part) for part in reports], axis=0)
        if not math.isfinite(loss):
            raise RunError(f"step {self.step}: the loss is {loss}; lower config.learning_rate")
        size = self.config.batch_size
        rate = (self.step - first) * size / (time.perf_counter() - started)
        return self._progress() | {
            "loss": round(float(loss), 4),
            f"train_{self.model.metric}": round(float(metric), 4),
            "learning_rate": learning_rate_at(self.step - 1, self.config),
            "images_per_s": round(rate),
        }

    def evaluate(self, limit: int | None = None) -> dict:
        """The metric on `limit` test images, evenly spaced, at every resolution and ratio.

        Masks fall on config.masks.grid.

        Returns:
            test_accuracy@RATIO, or test_loss@RATIO for the masked autoencoder; at other sizes
            than the preset's test_accuracy_SIZEpx@RATIO, from sensors with fewer pixels
            test_accuracy_sensorSIDEpx@RATIO.
        """
        count = len(self.images.test_labels)
        chosen = np.linspace(0, count - 1, min(limit or count, count)).astype(np.int64)
        out, grid = {}, self.config.masks.grid
        tested = [seen for seen in self.resolutions if seen.scaling.grid == grid]
        for seen, ratio in itertools.product(tested, self.config.eval_mask_ratios):
            name = f"test_{self.model.metric}{seen.suffix}@{ratio}"
            out[name] = round(self._mean_metric(chosen, seen, ratio), 4)
        return out

    def _mean_metric(self, chosen, resolution, ratio):
        rng, batch = Stream.PRETRAINING_EVALUATION.rng(self.config.seed), self.config.batch_size
        num_patches, total = resolution.scaling.num_patches, 0.0
        for start in range(0, len(chosen), batch):
            rows = chosen[start : start + batch]
            positions = draw_positions(rng, len(rows), num_patches, ratio)
            total += self._metric_of(rows, positions, resolution) * len(rows)
        return total / len(chosen)

    def average(self, report: Callable[[dict], None] = print) -> None:
        """Moves the trained encoder config.start_share of the way back to where it started.

        Called once, after training; the checkpoint keeps what was trained, and the accuracy is that
        of the trained classifier.

        Source: "Robust Fine-tuning of Zero-shot Models" (Wortsman et al., 2022), section 3.
        """
        share = self.config.start_share
        for variable, start in zip(self.encoder.trainable_variables, self._start, strict=True):
            variable.assign((1 - share) * np.asarray(variable) + share * start)
        self._take_variables()
        record = self._progress() | {"start_share": share} | self.evaluate()
        if "start_share" in self.directory.last_metrics():
            report(record)  # of a run that was finished already
        else:
            self._log(record, report)

    @abc.abstractmethod
    def _take_variables(self):
        """Goes on with what the model's variables are now."""

    def _progress(self):
        epochs = self.step * self.config.batch_size / len(self.images.train_labels)
        return {"step": self.step, "epoch": round(epochs, 3)}

    def _log(self, record, report):
        self.directory.append_metrics(record)
        report(record)

    def save(self) -> None:
        """Writes checkpoint.safetensors, atomically.

        Raises:
            RunError: if it can't be written.
        """
        named = named_variables(self.model, self.optimizer)
        state = {name: np.asarray(variable) for name, variable in named.items()}
        progress = {"step": self.step, "preset": self.config.preset}
        progress["images"] = self.images.fingerprint
        write_checkpoint(self.checkpoint_path, state, progress)

    def _go_on(self) -> None:
        """Makes the run directory, or goes on from the checkpoint in it."""
        self.directory.path.mkdir(parents=True, exist_ok=True)
        if self.checkpoint_path.exists():
            state, progress = self._read(self.checkpoint_path)
            if not assign_state(state, named_variables(self.model, self.optimizer)):
                raise RequestError(
                    f"{self.checkpoint_path}: made by another configuration "
                    f"({progress['preset']}); give --workdir another folder"
                )
            images = self.images.fingerprint
            if progress.get("images", images) != images:  # versions up to 0.2.0 don't say
                raise RequestError(
                    f"{self.checkpoint_path}: made of other images; give --workdir another folder"
                )
            self.step = progress["step"]
        if (self.directory.path / "metrics.jsonl").exists():
            self.directory.rewind_metrics(self.step or -1)

    @staticmethod
    def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
        try:
            return read_checkpoint(path)
        except RunError as error:
            raise RunError(f"{error}; remove it to begin anew") from None


def named_variables(
    model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None
) -> dict[str, keras.Variable]:
    """Variables by names that are alike in every process and on every backend.

    Returns:
        "model/block_0/qkv/kernel" and the like, in the model's order, then the optimizer's:
        "optimizer/block_0/qkv/kernel/momentum", "optimizer/learning_rate".
    """
    prefix = f"{model.encoder.name}/"
    owners = {v.path.replace("/", "_"): v.path.removeprefix(prefix) for v in model.variables}
    named = {f"model/{name}": v for name, v in zip(owners.values(), model.variables, strict=True)}
    for variable in optimizer.variables if optimizer else ():
        _, _, text = variable.path.partition("/")  # that of its weight, joined by _, and the slot
        owner = max((name for name in owners if text.startswith(f"{name}_")), key=len, default="")
        name = f"{owners[owner]}/{text[len(owner) + 1 :]}" if owner else text
        named[f"optimizer/{name}"] = variable
    return named


def assign_state(state: dict[str, np.ndarray], named: dict[str, keras.Variable]) -> bool:
    """Gives variables of named_variables the values of a checkpoint.

    Without an optimizer's, its part of the state is not looked at. Version 0.1.0 numbered the names
    ("model/17"), in the same order.

    Returns:
        False where the names, or the shapes, aren't the same; nothing is assigned then.
    """
    groups = [name.partition("/")[0] for name in named]
    state = {name: array for name, array in state.items() if name.partition("/")[0] in groups}
    if "model/0" in state:
        counts = collections.defaultdict(itertools.count)
        numbered = [f"{group}/{next(counts[group])}" for group in groups]
        if state.keys() != set(numbered):
            return False
        state = {name: state[number] for name, number in zip(named, numbered, strict=True)}
    if state.keys() != named.keys() or any(
        state[name].shape != tuple(variable.shape) for name, variable in named.items()
    ):
        return False
    for name, variable in named.items():
        variable.assign(state[name])
    return True
