"""Pre-training an encoder on images whose patches are dropped at random.

Two objectives: supervised classification, and the masked autoencoder that fills in what is hidden.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sparse_ist_tf.encoder.augmentation import MIXES, draw_positions, make_augmentation
from sparse_ist_tf.encoder.bundle import architecture
from sparse_ist_tf.encoder.objectives import (
    Classifier,
    MaskedAutoencoder,
    draw_glorot,
    swap_neighbours,
)
from sparse_ist_tf.encoder.presets import create_encoder
from sparse_ist_tf.encoder.pretraining_data import Images, pretraining_batches
from sparse_ist_tf.encoder.pretraining_optimizers import learning_rate_at, make_optimizer
from sparse_ist_tf.encoder.probe import LinearProbe
from sparse_ist_tf.encoder.weights import load_encoder
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs.masks import select_patches
from sparse_ist_tf.inputs.tracing import traced
from sparse_ist_tf.reports.files import replacing
from sparse_ist_tf.reports.run_directory import RunDirectory, writing


class Pretraining:
    """A resumable pre-training run, of one worker or of several that average their gradients.

    Batches, masks, crops, flips, mixes and rates are functions of (seed, step): a run that is
    killed and goes on, and one of another number of workers, ends with the same weights up to
    round-off. What KerasCV changes in images is drawn anew.

    Args:
        config: as sparse_ist_tf.pretrain_config makes it.
        images: the data.
        workdir: the run directory, of the chief; checkpoint.safetensors and metrics.jsonl.
        link: to the other workers (ist.link.Link); None for a single one.

    Raises:
        RequestError: if the run directory holds another run's checkpoint, config.weights are not
            those of config.preset, or Keras refuses config.optimizer.kwargs.

    Example:
        See configs/pretrain_mae.py, and `python -m sparse_ist_tf.pretrain --help`.
    """

    def __init__(self, config, images: Images, workdir: str | Path, link=None):
        self.config, self.images = config, images
        self.directory, self.link = RunDirectory(workdir), link
        self.num_workers = link.num_workers if link else 1
        self.worker = link.worker if link else 0
        keras.utils.set_random_seed(config.seed)
        policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[config.dtype]
        self.encoder = create_encoder(config.preset, dtype=policy)
        if config.weights:
            self._start_from(config.weights)
        elif config.objective == "mae":
            draw_glorot(self.encoder.blocks)
        self.model = self._make_model()
        self.optimizer = make_optimizer(config)
        self.optimizer.build(self.model.trainable_variables)
        seed = 1000 * (config.seed + 1) + self.worker
        self.augment = make_augmentation(config.augment, self.encoder.image_size, seed)
        probe = config.probe
        self.probe = LinearProbe(self.encoder, config.mean, config.std, probe.images, config.seed)
        self.step = 0
        self._gradients = traced(self._gradients_eager, reduce_retracing=False)
        self._apply = traced(self._apply_eager, reduce_retracing=False)
        size = self.encoder.image_size
        kinds = ((None, size, size, 3), tf.uint8), ((None,), tf.int32), ((None, None), tf.int32)
        signature = [tf.TensorSpec(*kind) for kind in kinds]
        self._eval_step = traced(self._eval_step_eager, input_signature=signature)
        self._restore()

    @property
    def chief(self) -> bool:
        """Whether this worker evaluates and writes."""
        return self.worker == 0

    @property
    def checkpoint_path(self) -> Path:
        """Where the run's state is kept."""
        return self.directory.path / "checkpoint.safetensors"

    def _start_from(self, weights):
        given = load_encoder(weights).model
        wanted, found = architecture(self.encoder), architecture(given)
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
        if config.objective == "supervised":
            return Classifier(
                self.encoder,
                self.images.num_classes,
                label_smoothing=config.label_smoothing,
                distillation=config.distillation,
                projector=config.projector,
            )
        return MaskedAutoencoder(self.encoder, **config.decoder)

    def _views(self, images, positions, shares=None):
        """Visible and all patches of images in [0, 255], normalised and mixed."""
        mean, std = tf.constant(self.config.mean), tf.constant(self.config.std)
        images = (tf.cast(images, tf.float32) / 255.0 - mean) / std
        every = tf.tile(tf.range(self.encoder.num_patches)[None], (tf.shape(images)[0], 1))
        whole = select_patches(images, every, self.encoder.patch_size)
        if shares is not None:
            whole += shares[:, :, None] * (swap_neighbours(whole) - whole)
        return tf.gather(whole, positions, batch_dims=1), whole

    def _gradients_eager(self, images, labels, positions, shares):
        if not set(MIXES).intersection(self.config.augment):
            shares = None
        patches, whole = self._views(images, positions, shares)
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss, metric = self.model.loss_of(patches, positions, labels, whole, shares)
        return tape.gradient(loss, variables), tf.stack([loss, metric])

    def _apply_eager(self, gradients):
        self.optimizer.apply(gradients, self.model.trainable_variables)

    def _eval_step_eager(self, images, labels, positions):
        patches, whole = self._views(images, positions)
        _, metric = self.model.loss_of(patches, positions, labels, whole)
        return metric

    def train_step(self, images, labels, positions, shares):
        """One step on this worker's part of a batch; called by all workers.

        Args:
            images: float32[b, size, size, 3] in [0, 255], augmented.
            labels: int32[b].
            positions: int32[b, v], visible places.
            shares: float32[b, num_patches], what part of a patch is of the neighbour's image.

        Returns:
            float32[2], loss and metric over the batches of all workers.
        """
        self.optimizer.learning_rate.assign(learning_rate_at(self.step, self.config))
        gradients, report = self._mean(*self._gradients(images, labels, positions, shares))
        self._apply(gradients)
        self.step += 1
        return report

    def _mean(self, gradients, report):
        """Means over all workers, which have equal parts of a batch: one all-reduce."""
        if self.num_workers == 1:
            return gradients, report
        parts = [*gradients, report]
        flat = tf.concat([tf.reshape(part, (-1,)) for part in parts], axis=0)
        args = (flat, self.link.next_key())
        flat = self.link.strategy.run(traced(self.link.all_reduce), args) / self.num_workers
        sizes = [int(np.prod(part.shape)) for part in parts]
        pieces = zip(tf.split(flat, sizes), parts, strict=True)
        *gradients, report = (tf.reshape(piece, part.shape) for piece, part in pieces)
        return gradients, report

    def batches(self):
        """What train_step takes: this worker's parts from the current step on, for ever."""
        size, patch = self.encoder.image_size, self.encoder.patch_size
        return pretraining_batches(
            self.images, self.config, size // patch, self.augment, self.step, self._mine()
        )

    def _mine(self) -> slice:
        part = self.config.batch_size // self.num_workers
        return slice(self.worker * part, (self.worker + 1) * part)

    def train(self, report: Callable[[dict], None] = print) -> dict:
        """Runs to config.total_steps, with evaluations and checkpoints on the way.

        Called by all workers; the chief alone evaluates, probes, reports and writes.

        Args:
            report: called with every record.

        Returns:
            The last record; on the chief alone, {} elsewhere.

        Raises:
            RunError: if the loss is not finite, or a file can't be written.
        """
        config = self.config
        reports, started, first = [], time.perf_counter(), self.step
        if self.chief and self.step == 0 and config.probe.every:
            self._log({"step": 0, "epoch": 0.0} | self.evaluate() | self._probe(), report)
        for batch in self.batches():
            if self.step >= config.total_steps:
                break
            reports.append(self.train_step(*batch))
            last = self.step == config.total_steps
            if last or self.step % config.log_every == 0:
                record = self._record(reports, started, first)
                if self.chief:
                    self._log(record | self._measure(last), report)
                reports, started, first = [], time.perf_counter(), self.step
            if self.chief and (last or self.step % config.checkpoint_every == 0):
                self.save()
        return self.directory.metrics()[-1] if self.chief else {}

    def _record(self, reports, started, first):
        loss, metric = np.mean([np.asarray(part) for part in reports], axis=0)
        if not math.isfinite(loss):
            raise RunError(f"step {self.step}: the loss is {loss}; lower config.learning_rate")
        size = self.config.batch_size
        rate = (self.step - first) * size / (time.perf_counter() - started)
        return {
            "step": self.step,
            "epoch": round(self.step * size / len(self.images.train_labels), 3),
            "loss": round(float(loss), 4),
            f"train_{self.model.metric}": round(float(metric), 4),
            "learning_rate": learning_rate_at(self.step - 1, self.config),
            "images_per_s": round(rate),
        }

    def _measure(self, last: bool) -> dict:
        """What is due at this step; all of the test images at the last."""
        config, found = self.config, {}
        if last or self.step % config.eval_every == 0:
            found |= self.evaluate(None if last else config.eval_images)
        if config.probe.every and (last or self.step % config.probe.every == 0):
            found |= self._probe()
        return found

    def evaluate(self, limit: int | None = None) -> dict:
        """The metric on test images, at every ratio of config.eval_mask_ratios.

        Args:
            limit: how many images, evenly spaced; all where None.

        Returns:
            test_accuracy@RATIO, or test_loss@RATIO for the masked autoencoder.
        """
        labels, size = self.images.test_labels, self.config.batch_size
        limit = len(labels) if limit is None else min(limit, len(labels))
        chosen = np.linspace(0, len(labels) - 1, limit).astype(np.int64)
        out = {}
        for ratio in self.config.eval_mask_ratios:
            rng = np.random.default_rng((self.config.seed, 2))
            total = 0.0
            for start in range(0, len(chosen), size):
                rows = chosen[start : start + size]
                places = draw_positions(rng, len(rows), self.encoder.num_patches, ratio)
                metric = self._eval_step(self.images.test[rows], labels[rows], places)
                total += float(metric) * len(rows)
            out[f"test_{self.model.metric}@{ratio}"] = round(total / len(chosen), 4)
        return out

    def _probe(self) -> dict:
        return {
            f"linear_accuracy@{ratio}": round(self.probe.accuracy(self.images, ratio), 4)
            for ratio in self.config.probe.mask_ratios
        }

    def _log(self, record, report):
        self.directory.append_metrics(record)
        report(record)

    def save(self) -> None:
        """Writes checkpoint.safetensors, atomically.

        Raises:
            RunError: if it can't be written.
        """
        arrays = {f"model/{i}": np.asarray(v) for i, v in enumerate(self.model.variables)}
        arrays |= {f"optimizer/{i}": np.asarray(v) for i, v in enumerate(self.optimizer.variables)}
        metadata = {"step": str(self.step), "preset": self.config.preset}
        path = self.checkpoint_path
        with writing(path), replacing(path) as temporary:
            save_file(arrays, temporary, metadata=metadata)

    def _restore(self):
        """Goes on from the chief's checkpoint where it has one; called by all workers."""
        if self.chief:
            self.directory.path.mkdir(parents=True, exist_ok=True)
            if self.checkpoint_path.exists():
                self._read_checkpoint()
            if self.directory.metrics():
                self.directory.rewind_metrics(self.step or -1)
        if self.num_workers == 1:
            return
        self.step = int(self.link.broadcast(np.array([self.step], np.float32), (1,))[0])
        if not self.step:
            return
        variables = [*self.model.variables, *self.optimizer.variables]
        sizes = [int(np.prod(variable.shape)) for variable in variables]
        mine = np.concatenate([np.ravel(np.asarray(v)).astype(np.float32) for v in variables])
        whole = self.link.broadcast(mine, mine.shape)
        for variable, part in zip(variables, np.split(whole, np.cumsum(sizes)[:-1]), strict=True):
            variable.assign(part.reshape(variable.shape).astype(variable.dtype))

    def _read_checkpoint(self):
        path = self.checkpoint_path
        try:
            with safe_open(path, "np") as file:
                metadata = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.step = int(metadata["step"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            raise RunError(f"{path} is damaged; remove it to begin anew") from None
        for name, variables in (
            ("model", self.model.variables),
            ("optimizer", self.optimizer.variables),
        ):
            for i, variable in enumerate(variables):
                value = arrays.get(f"{name}/{i}")
                if value is None or value.shape != tuple(variable.shape):
                    raise RequestError(
                        f"{path}: made by another configuration ({metadata.get('preset')}); give "
                        "--workdir another folder"
                    )
                variable.assign(value)
