"""Centralised training of a head together with the encoder's last blocks."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from sparse_ist_tf.encoder import fast
from sparse_ist_tf.encoder.bundle import Encoder
from sparse_ist_tf.encoder.finetuning import FrozenTokens, trained_variables
from sparse_ist_tf.ist.head import HeadSpec, init_parameters
from sparse_ist_tf.ist.local import SlotOptimizer, cross_entropy, forward
from sparse_ist_tf.ist.trainer import Trainer, TrainerOptions
from sparse_ist_tf.tracing import traced
from sparse_ist_tf.workers.ledger import Ledger
from sparse_ist_tf.workers.link import Link

_BATCH = 64  # images whose features are computed at a time


class FineTuningTrainer(Trainer):
    """One worker that trains a whole head and the encoder's last blocks with its final norm.

    Head and encoder have an optimizer each, of the same kind; the encoder's rate is the head's
    times a factor.

    Args:
        spec: the head's shape.
        options: of the training, of one subnet.
        link: of a single worker.
        labels: int32[n], of the training images.
        shards: one int64 array, the examples that are drawn from.
        ledger: where nothing is counted.
        encoder: from load_encoder; its last blocks change.
        trainable_blocks: how many.
        rate_factor: the encoder's learning rate over the head's.
        tokens: of the training images, below the blocks that train.

    Raises:
        RequestError: if the encoder hasn't as many blocks, or as Trainer.
    """

    def __init__(
        self,
        spec: HeadSpec,
        options: TrainerOptions,
        link: Link,
        labels: np.ndarray,
        shards,
        ledger: Ledger,
        *,
        encoder: Encoder,
        trainable_blocks: int,
        rate_factor: float,
        tokens: FrozenTokens,
    ):
        nothing = np.zeros((0, spec.feature_dim), np.float32)
        super().__init__(spec, options, link, nothing, labels, shards, ledger)
        self.encoder, self.rate_factor, self.tokens = encoder, rate_factor, tokens
        self.first_block = encoder.model.depth - trainable_blocks
        tuned = trained_variables(encoder, trainable_blocks)
        initial = init_parameters(spec, options.seed, options.initializer)
        self.variables = {name: tf.Variable(value) for name, value in initial.items()}
        self.num_head = len(self.variables)
        self.variables |= {f"encoder/{path}": variable.value for path, variable in tuned.items()}
        values = list(self.variables.values())
        config = options.optimizer_config()
        self._optimizers = [
            SlotOptimizer(config, [tuple(value.shape) for value in part])
            for part in (values[: self.num_head], values[self.num_head :])
        ]
        self.num_slots = self._optimizers[0].num_slots
        self.moments = {
            name: [tf.Variable(tf.zeros(value.shape)) for _ in range(self.num_slots)]
            for name, value in self.variables.items()
        }
        self._loss_options = options.loss_options([1.0] * len(spec.hidden), 0)
        self._step = traced(self._step_eager, reduce_retracing=True)
        self._features = traced(self._features_eager, reduce_retracing=True)

    def _run_round(self, steps):
        rows, rates = self._batches(steps)
        reports = []
        for i, batch in enumerate(rows[0].numpy()):
            tokens, labels = self.tokens(batch), tf.gather(self.labels, batch)
            step = tf.constant(self.step + i)
            reports.append(self._step(tokens, labels, rates[i], step))
        losses, right = np.array([[float(a), float(b)] for a, b in reports]).T
        return [losses.mean()], [right.sum()]

    def _step_eager(self, tokens, labels, rate, step):
        variables = list(self.variables.values())
        with tf.GradientTape() as tape:
            features = fast.upper_features(self.encoder.model, tokens, self.first_block)
            head = variables[: self.num_head]
            logits = forward(head, features, self._loss_options, step)
            loss = cross_entropy(logits, labels, self._loss_options.label_smoothing)
        gradients = tape.gradient(loss, variables)
        names, count = list(self.variables), self.num_head
        for optimizer, part, own in (
            (self._optimizers[0], slice(None, count), rate),
            (self._optimizers[1], slice(count, None), rate * self.rate_factor),
        ):
            self._update(optimizer, step, own, names[part], gradients[part])
        right = tf.reduce_sum(tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.int32))
        return loss, right

    def _update(self, optimizer, step, rate, names, gradients):
        weights = [tf.identity(self.variables[name]) for name in names]
        slots = [[tf.identity(moment) for moment in self.moments[name]] for name in names]
        weights, slots = optimizer.apply(step, rate, gradients, weights, slots)
        for name, weight, moments in zip(names, weights, slots, strict=True):
            self.variables[name].assign(weight)
            for variable, moment in zip(self.moments[name], moments, strict=True):
                variable.assign(moment)

    def _features_eager(self, tokens):
        return fast.upper_features(self.encoder.model, tokens, self.first_block)

    def features_of(self, tokens: FrozenTokens) -> np.ndarray:
        """Features of a split's images by the encoder as it is.

        Args:
            tokens: of the split.

        Returns:
            float32[n, feature_dim].
        """
        starts = range(0, tokens.size, _BATCH)
        rows = [np.arange(start, min(start + _BATCH, tokens.size)) for start in starts]
        return np.concatenate([self._features(tokens(some)).numpy() for some in rows])

    def gather(self) -> dict[str, np.ndarray]:
        """The head's and the encoder's state; as IstTrainer.gather.

        Returns:
            {"dense_0/kernel": ..., "encoder/block_5/qkv/kernel": ..., and their moments}.
        """
        state = {}
        for name, variable in self.variables.items():
            state[name] = variable.numpy()
            for i, moment in enumerate(self.moments[name]):
                state[f"{name}/moment_{i}"] = moment.numpy()
        return state

    def restore(self, state: Mapping[str, np.ndarray], round_index: int, step: int) -> None:
        """Goes on from a gathered state; as IstTrainer.restore."""
        for name, variable in self.variables.items():
            variable.assign(state[name])
            for i, moment in enumerate(self.moments[name]):
                moment.assign(state[f"{name}/moment_{i}"])
        self.round, self.step = round_index, step
