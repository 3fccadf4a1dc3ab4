"""Pre-training on one accelerator, under Keras' JAX backend.

All images lie on the device, where they are cropped, mixed and masked, and config.log_every steps
are one program: nothing waits for the host.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.masks.drawing import num_visible
from sparse_ist_tf.pretraining.augmentation import MIXES, check_augment
from sparse_ist_tf.pretraining.augmentation_jax import (
    JAX_AUGMENTATIONS,
    augmented,
    draw_positions,
    draw_shares,
)
from sparse_ist_tf.pretraining.data import Images, draw_ratio, draw_resolution, draw_rows
from sparse_ist_tf.pretraining.objectives import swap_neighbours
from sparse_ist_tf.pretraining.optimizers import learning_rate_at
from sparse_ist_tf.pretraining.resolution import Resolution, resampled
from sparse_ist_tf.pretraining.run import PretrainingRun
from sparse_ist_tf.workers.stopping import Stop


class JaxPretraining(PretrainingRun):
    """The run of tensorflow_run.Pretraining, of one process, as one program on a device.

    Batches, mask ratios and rates are those of Pretraining; masks, crops, flips, colours and mixes
    are functions of (seed, step) too, but other ones. It has no linear probe.

    Args:
        config: as PretrainingRun.
        images: as PretrainingRun; the device must have memory for them.
        workdir: as PretrainingRun.

    Raises:
        RequestError: as PretrainingRun, or if config.augment has a name that isn't known here, or
            the run directory holds another run's checkpoint.
    """

    def __init__(self, config: ConfigDict, images: Images, workdir: str | Path):
        check_augment(config.augment, JAX_AUGMENTATIONS)
        super().__init__(config, images, workdir)
        train = images.train, np.asarray(images.train_labels, np.int32)
        self._data = jax.device_put(train)
        slots = self.optimizer.variables
        self._rate_slot = next(i for i, v in enumerate(slots) if "learning_rate" in v.path)
        self._run_steps = jax.jit(self._run_steps_eager, donate_argnums=(0,))
        self._metric = jax.jit(self._metric_eager)
        self._groups = group_by_size(self.resolutions)
        self._go_on()
        self._take_variables()

    def _take_variables(self):
        groups = self._variables()
        self._state = tuple([jnp.array(v.value) for v in group] for group in groups)

    def _variables(self):
        model = self.model
        return model.trainable_variables, model.non_trainable_variables, self.optimizer.variables

    def save(self) -> None:
        """Writes checkpoint.safetensors, atomically; the model then has the newest weights too.

        Raises:
            RunError: if it can't be written.
        """
        for variables, values in zip(self._variables(), self._state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(jnp.array(value))  # a copy: the next steps take this memory
        super().save()

    def _whole(self, images):
        """Every patch, normalised, of images float32[b, size, size, 3] in [0, 1]."""
        config, patch = self.config, self.encoder.patch_size
        images = (images - jnp.array(config.mean)) / jnp.array(config.std)
        count, side = len(images), images.shape[1] // patch
        rows = images.reshape(count, side, patch, side, patch * 3)
        return rows.transpose(0, 1, 3, 2, 4).reshape(count, side * side, -1)

    def _loss(self, trainable, fixed, *args):
        model = self.model
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        with _valued(variables, [*trainable, *fixed]):
            return model.loss_of(*args)

    def _metric_eager(self, state, images, labels, positions, matrix):
        whole = self._whole(resampled(images.astype(jnp.float32) / 255, matrix))
        seen = jnp.take_along_axis(whole, positions[:, :, None], axis=1)
        return self._loss(*state[:2], seen, positions, labels, whole)[1]

    def _metric_of(self, rows: np.ndarray, positions: np.ndarray, resolution: Resolution) -> float:
        images = self.images
        labels = np.asarray(images.test_labels[rows], np.int32)
        args = images.test[rows], labels, positions, resolution.matrix
        return float(self._metric(self._state, *args))

    def _run_steps_eager(self, state, data, taught, key, steps):
        """Some steps: (state after them, float32[count, 2] losses and metrics)."""
        step = functools.partial(self._step, data, taught, key)
        return jax.lax.scan(step, state, steps)

    def _step(self, data, taught, key, state, given):
        config, (index, rows, branch, place, rate) = self.config, given
        trainable, fixed, slots = state
        images, labels = data[0][rows], data[1][rows]
        keys = jax.random.split(jax.random.fold_in(key, index), 3)
        images = augmented(keys[0], images, config.augment, config.crop_area)
        args = fixed, (images, labels, place), taught, keys[1:]
        branches = [  # few: each is compiled
            functools.partial(self._gradients, view)
            for view in itertools.product(self._groups, config.mask_ratios)
        ]
        report, gradients = jax.lax.switch(branch, branches, trainable, *args)
        slots = [rate if i == self._rate_slot else slot for i, slot in enumerate(slots)]
        trainable, slots = self.optimizer.stateless_apply(slots, gradients, trainable)
        return (trainable, fixed, slots), jnp.stack(report)

    def _gradients(self, view, trainable, fixed, examples, taught, keys):
        """((loss, metric), gradients) of images at a resolution, with a share of patches hidden."""
        (group, ratio), (images, labels, place) = view, examples
        config, count, grid = self.config, len(labels), group[0].scaling.side
        matrix = jnp.stack([resolution.matrix for resolution in group])[place]
        whole = self._whole(resampled(images, matrix))
        shares = soft = None
        if set(MIXES).intersection(config.augment):
            shares = draw_shares(keys[0], count, grid, config.augment, config.mix_probability)
            whole += shares[:, :, None] * (swap_neighbours(whole) - whole)
        if self.teacher is not None:
            with _valued(self.teacher.variables, taught):
                soft = jax.nn.softmax(self.teacher.of_whole(whole))
        positions = draw_positions(keys[1], count, grid * grid, num_visible(grid * grid, ratio))
        seen = jnp.take_along_axis(whole, positions[:, :, None], axis=1)
        args = fixed, seen, positions, labels, whole, shares, soft
        return jax.value_and_grad(self._loss, has_aux=True)(trainable, *args)

    def _next_steps(self, count):
        """What _step is given for the next steps, each array's first axis over the steps."""
        config = self.config
        steps = range(self.step, self.step + count)
        rows = [draw_rows(config, len(self.images.train_labels), step) for step in steps]
        ratios, each = len(config.mask_ratios), len(self._groups[0])
        groups, places = np.divmod([draw_resolution(config, i) for i in steps], each)
        branches = [
            group * ratios + draw_ratio(config, step)[0]
            for group, step in zip(groups, steps, strict=True)
        ]
        rates = [learning_rate_at(step, config) for step in steps]
        whole = (steps, np.int32), (rows, np.int32), (branches, np.int32), (places, np.int32)
        kinds = *whole, (rates, np.float32)
        return tuple(np.array(values, kind) for values, kind in kinds)

    def train(self, report: Callable[[dict], None] = print, stop: Stop | None = None) -> dict:
        """Runs to config.total_steps, with evaluations and checkpoints on the way.

        Args:
            report: called with each record.
            stop: ends the process behind config.log_every steps, with a checkpoint.

        Raises:
            RunError: if the loss is not finite, or a file can't be written.
        """
        stop = stop or Stop()
        with stop.at_round_ends(lambda number: None):
            self._train(report, stop)
        if stop.number:
            stop.end(stop.number, f" after step {self.step}")
        return self.directory.last_metrics()

    def _train(self, report, stop):
        config, number = self.config, 0
        taught = [] if self.teacher is None else [v.value for v in self.teacher.variables]
        key = jax.random.key(config.seed)
        while self.step < config.total_steps and not number:
            started, first = time.perf_counter(), self.step
            count = min(config.log_every - first % config.log_every, config.total_steps - first)
            steps = self._next_steps(count)
            self._state, reports = self._run_steps(self._state, self._data, taught, key, steps)
            self.step += count
            number = stop.number
            last = self.step == config.total_steps
            record = self._record(np.asarray(reports), started, first)
            if last or self.step % config.eval_every == 0:
                record |= self.evaluate(None if last else config.eval_images)
            self._log(record, report)
            due = self.step // config.checkpoint_every > first // config.checkpoint_every
            if last or number or due:
                self.save()


def group_by_size(given: Sequence[Resolution]) -> list[list[Resolution]]:
    """Resolutions, those of a size together, by the encoder's size: as many in each group."""
    groups = itertools.groupby(given, key=lambda resolution: resolution.size)
    return [list(group) for _, group in groups]


def _valued(variables, values):
    """Inside, variables have these values."""
    return keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True)))
