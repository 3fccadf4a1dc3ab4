"""Pre-training an encoder on images whose patches are dropped at random.

Two objectives: supervised classification, and the masked autoencoder that fills in what is hidden.
"""

import functools
import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from keras import ops
from ml_collections import ConfigDict

from sparse_ist_tf.masks.patches import patchify
from sparse_ist_tf.pretraining.augmentation import MIXES, make_augmentation
from sparse_ist_tf.pretraining.data import Images, pretraining_batches
from sparse_ist_tf.pretraining.objectives import swap_neighbours
from sparse_ist_tf.pretraining.optimizers import learning_rate_at
from sparse_ist_tf.pretraining.probe import LinearProbe
from sparse_ist_tf.pretraining.resolution import Resolution, resampled
from sparse_ist_tf.pretraining.run import PretrainingRun
from sparse_ist_tf.tracing import traced
from sparse_ist_tf.workers.link import Link
from sparse_ist_tf.workers.stopping import Stop


class Pretraining(PretrainingRun):
    """A resumable pre-training run, of one worker or of several that average their gradients.

    Batches, masks, crops, flips, mixes and rates are functions of (seed, step): a run that is
    killed and goes on, and one of another number of workers, ends with the same weights up to
    round-off. What KerasCV changes in images is drawn anew.

    Args:
        config: as PretrainingRun.
        images: as PretrainingRun.
        workdir: as PretrainingRun; the chief's.
        link: to the other workers; None for a single one.

    Raises:
        RequestError: as PretrainingRun, or if the run directory holds another run's checkpoint.
    """

    def __init__(
        self, config: ConfigDict, images: Images, workdir: str | Path, link: Link | None = None
    ):
        super().__init__(config, images, workdir)
        self.link = link = link or Link.alone()
        key = link.reserve()
        self._all_reduce = traced(lambda flat: link.all_reduce(flat, key, "gradients"))
        seed = 1000 * (config.seed + 1) + link.worker
        self.augment = make_augmentation(config.augment, self.encoder.image_size, seed)
        color = tuple(config.mean), tuple(config.std)
        self.probe = LinearProbe(self.encoder, *color, config.probe.images, config.seed)
        self._gradients = traced(self._gradients_eager, reduce_retracing=False)
        self._apply = traced(self._apply_eager, reduce_retracing=False)
        self._eval_steps = {seen: self._eval_step_at(seen) for seen in self.resolutions}
        self.stop_signal = tf.Variable(0.0, trainable=False)
        self._share_asked = tf.constant(0.0)  # of the workers, in the last step
        self._restore()

    def _eval_step_at(self, resolution):
        kept = self.images.test.shape[1]
        kinds = ((None, kept, kept, 3), tf.uint8), ((None,), tf.int32), ((None, None), tf.int32)
        step = functools.partial(self._eval_step_eager, resolution)
        return traced(step, input_signature=[tf.TensorSpec(*kind) for kind in kinds])

    def _take_variables(self):
        pass  # the graphs read them

    def _views(self, images, positions, shares=None):
        """Visible and all patches of images in [0, 255], normalised and mixed."""
        mean, std = tf.constant(self.config.mean), tf.constant(self.config.std)
        images = (tf.cast(images, tf.float32) / 255.0 - mean) / std
        whole = patchify(images, self.encoder.patch_size)
        if shares is not None:
            whole += shares[:, :, None] * (swap_neighbours(whole) - whole)
        return tf.gather(whole, positions, batch_dims=1), whole

    def _gradients_eager(self, images, labels, positions, shares):
        if not set(MIXES).intersection(self.config.augment):
            shares = None
        patches, whole = self._views(images, positions, shares)
        variables = self.model.trainable_variables
        soft = None if self.teacher is None else ops.softmax(self.teacher.of_whole(whole))
        with tf.GradientTape() as tape:
            loss, metric = self.model.loss_of(patches, positions, labels, whole, shares, soft)
        return tape.gradient(loss, variables), tf.stack([loss, metric])

    def _apply_eager(self, gradients):
        self.optimizer.apply(gradients, self.model.trainable_variables)

    def _eval_step_eager(self, resolution, images, labels, positions):
        images = resampled(tf.cast(images, tf.float32), resolution.matrix)
        patches, whole = self._views(images, positions)
        _, metric = self.model.loss_of(patches, positions, labels, whole)
        return metric

    def train_step(
        self, images: tf.Tensor, labels: tf.Tensor, positions: tf.Tensor, shares: tf.Tensor
    ) -> tf.Tensor:
        """One step on this worker's part of a batch; called by all workers.

        Args:
            images: float32[b, size, size, 3] in [0, 255], augmented.
            labels: int32[b].
            positions: int32[b, v], visible patches.
            shares: float32[b, n], what part of each patch is of the neighbour's image.

        Returns:
            float32[2], loss and metric over the batches of all workers.
        """
        self.optimizer.learning_rate.assign(learning_rate_at(self.step, self.config))
        gradients, report = self._gradients(images, labels, positions, shares)
        report = tf.concat([report, self.stop_signal[None]], axis=0)
        gradients, (*report, self._share_asked) = self._mean(gradients, report)
        self._apply(gradients)
        self.step += 1
        return tf.stack(report)

    def _mean(self, gradients, report):
        """Means over all workers, which have equal parts of a batch: one all-reduce."""
        if self.link.num_workers == 1:
            return gradients, report
        parts = [*gradients, report]
        flat = tf.concat([tf.reshape(part, (-1,)) for part in parts], axis=0)
        flat = self.link.run(self._all_reduce, (flat,)) / self.link.num_workers
        sizes = [int(np.prod(part.shape)) for part in parts]
        pieces = zip(tf.split(flat, sizes), parts, strict=True)
        *gradients, report = (tf.reshape(piece, part.shape) for piece, part in pieces)
        return gradients, report

    def batches(self) -> tf.data.Dataset:
        """What train_step takes: this worker's parts from the current step on, for ever."""
        part = self.config.batch_size // self.link.num_workers
        mine = slice(self.link.worker * part, (self.link.worker + 1) * part)
        return pretraining_batches(
            self.images, self.config, self.resolutions, self.augment, self.step, mine
        )

    def train(self, report: Callable[[dict], None] = print, stop: Stop | None = None) -> dict:
        """Runs to config.total_steps, with evaluations and checkpoints on the way.

        Called by all workers; the chief alone evaluates, probes, reports and writes.

        Args:
            report: called with each record.
            stop: ends the processes of all workers behind a step, with a checkpoint of it.

        Returns:
            The last record; on the chief alone, {} elsewhere.

        Raises:
            RunError: if the loss is not finite, or a file can't be written.
        """
        stop = stop or Stop()
        with stop.at_round_ends(self._ask_to_stop):
            number = self._train(report, stop)
            self.link.part()
        if number and (self.step < self.config.total_steps or self.link.chief):
            stop.end(number, f" after step {self.step}")
        return self.directory.last_metrics() if self.link.chief else {}

    def _ask_to_stop(self, number: int) -> None:
        self.stop_signal.assign(1.0)

    def _asked_to_stop(self, stop: Stop) -> int:
        """The signal that ends all workers behind this step; 0 where none does."""
        if self.link.num_workers == 1:  # whose device isn't waited for
            return stop.number
        return (stop.number or signal.SIGTERM) if float(self._share_asked) else 0

    def _train(self, report, stop) -> int:
        """The steps that are left; returns the number of the signal that ended it, else 0."""
        config, number = self.config, 0
        reports, started, first = [], time.perf_counter(), self.step
        if self.link.chief and self.step == 0 and config.probe.every:
            self._log({"step": 0, "epoch": 0.0} | self.evaluate() | self._probe(), report)
        for batch in self.batches():
            if self.step >= config.total_steps or number:
                break
            reports.append(self.train_step(*batch))
            number = self._asked_to_stop(stop)
            last = self.step == config.total_steps
            if last or self.step % config.log_every == 0:
                record = self._record(reports, started, first)
                if self.link.chief:
                    self._log(record | self._measure(last), report)
                reports, started, first = [], time.perf_counter(), self.step
            if self.link.chief and (last or number or self.step % config.checkpoint_every == 0):
                self.save()
        return number

    def _measure(self, last: bool) -> dict:
        """What is due at this step; all of the test images at the last."""
        config, found = self.config, {}
        if last or self.step % config.eval_every == 0:
            found |= self.evaluate(None if last else config.eval_images)
        if config.probe.every and (last or self.step % config.probe.every == 0):
            found |= self._probe()
        return found

    def _metric_of(self, rows: np.ndarray, positions: np.ndarray, resolution: Resolution) -> float:
        images, step = self.images, self._eval_steps[resolution]
        return float(step(images.test[rows], images.test_labels[rows], positions))

    def _probe(self) -> dict:
        found = {}
        for seen, ratio in itertools.product(self._resolutions(()), self.config.probe.mask_ratios):
            accuracy = self.probe.accuracy(self.images, ratio, seen)
            found[f"linear_accuracy{seen.suffix}@{ratio}"] = round(accuracy, 4)
        return found

    def _restore(self):
        """Goes on from the chief's checkpoint where it has one; called by all workers."""
        if self.link.chief:
            self._go_on()
        if self.link.num_workers == 1:
            return
        step = np.array([self.step], np.int64)
        self.step = int(self.link.broadcast(step, purpose="control")[0])
        if not self.step:
            return
        variables = [*self.model.variables, *self.optimizer.variables]
        for dtype, kind in ((np.float32, np.floating), (np.int64, np.integer)):
            some = [v for v in variables if np.issubdtype(np.asarray(v).dtype, kind)]
            sizes = [int(np.prod(variable.shape)) for variable in some]
            mine = np.concatenate([np.ravel(np.asarray(v)).astype(dtype) for v in some])
            whole = self.link.broadcast(mine, purpose="checkpoint")
            for variable, part in zip(some, np.split(whole, np.cumsum(sizes)[:-1]), strict=True):
                variable.assign(part.reshape(variable.shape).astype(variable.dtype))
