"""Centralised training of a head together with the encoder's last blocks."""

import dataclasses

import numpy as np
import tensorflow as tf

from sparse_ist_tf.encoder import fast
from sparse_ist_tf.encoder.bundle import ViTEncoder
from sparse_ist_tf.encoder.finetuning import FrozenTokens, trained_variables
from sparse_ist_tf.ist.head import HeadSpec, init_parameters
from sparse_ist_tf.ist.local import SlotOptimizer, SubnetState, cross_entropy, forward
from sparse_ist_tf.ist.state import HeadState, Weights
from sparse_ist_tf.ist.trainer import Trainer, TrainerOptions, TrainingData
from sparse_ist_tf.tracing import traced
from sparse_ist_tf.workers.link import Link

_BATCH = 64  # images whose features are computed at a time


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What of the encoder trains with the head.

    Args:
        encoder: from load_encoder; its last blocks change.
        trainable_blocks: how many.
        learning_rate_factor: the encoder's learning rate over the head's.
        tokens: of the training images, below the blocks that train.
    """

    encoder: ViTEncoder
    trainable_blocks: int
    learning_rate_factor: float
    tokens: FrozenTokens


class _Group:
    """Variables with an optimizer of their own and its moments."""

    def __init__(self, variables: dict[str, tf.Variable], config: dict, rate_factor: float = 1.0):
        self.variables, self.rate_factor = variables, rate_factor
        self.optimizer = SlotOptimizer(config, [tuple(v.shape) for v in variables.values()])
        self.moments = {
            name: [tf.Variable(tf.zeros(v.shape)) for _ in range(self.optimizer.num_slots)]
            for name, v in variables.items()
        }

    def update(self, step, rate, gradients) -> None:
        weights = [tf.identity(variable) for variable in self.variables.values()]
        slots = [[tf.identity(moment) for moment in some] for some in self.moments.values()]
        state, rate = SubnetState(weights, slots), rate * self.rate_factor
        state = self.optimizer.apply(step, rate, gradients, state)
        for name, weight, moments in zip(self.variables, *state, strict=True):
            for variable, value in zip(self._columns(name), [weight, *moments], strict=True):
                variable.assign(value)

    def _columns(self, name):
        return [self.variables[name], *self.moments[name]]

    def weights(self) -> Weights:
        out = Weights()
        for name in self.variables:
            out.set_columns(name, [variable.numpy() for variable in self._columns(name)])
        return out

    def restore(self, weights: Weights) -> None:
        for name in self.variables:
            for variable, value in zip(self._columns(name), weights.columns(name), strict=True):
                variable.assign(value)


class FineTuningTrainer(Trainer):
    """One worker that trains a whole head and the encoder's last blocks with its final norm.

    Head and encoder have an optimizer each, of the same kind; the encoder's rate is the head's
    times a factor.

    Of the data its features aren't used; the link is that of a single worker.

    Raises:
        RequestError: if the encoder hasn't as many blocks, or as Trainer.
    """

    def __init__(
        self,
        spec: HeadSpec,
        options: TrainerOptions,
        link: Link,
        data: TrainingData,
        tuning: Tuning,
    ):
        nothing = np.zeros((0, spec.feature_dim), np.float32)
        super().__init__(spec, options, link, dataclasses.replace(data, features=nothing))
        encoder = self.encoder = tuning.encoder
        self.tokens = tuning.tokens
        self.first_block = encoder.model.spec.depth - tuning.trainable_blocks
        tuned = trained_variables(encoder, tuning.trainable_blocks)
        initial = init_parameters(spec, options.seed, options.initializer)
        config = options.optimizer_config()
        self.head = _Group({name: tf.Variable(value) for name, value in initial.items()}, config)
        tuned = {path: variable.value for path, variable in tuned.items()}
        self.blocks = _Group(tuned, config, tuning.learning_rate_factor)
        self.num_slots = self.head.optimizer.num_slots
        self._loss_options = options.loss_options([1.0] * len(spec.hidden), 0, data)
        self._step = traced(self._step_eager, reduce_retracing=True)
        self._features = traced(self._features_eager, reduce_retracing=True)

    def train_round(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """As Trainer.train_round, of a single subnet."""
        rows, rates = self._batches(steps)
        passes, reports = self.streams[0].passes(self.step, steps), []
        for i, batch in enumerate(rows[0].numpy()):
            tokens, labels = self.tokens(batch, passes[i]), tf.gather(self.labels, batch)
            step = tf.constant(self.step + i)
            reports.append(self._step(tokens, labels, rates[i], step))
        losses, right = np.array([[float(a), float(b)] for a, b in reports]).T
        return np.array([losses.mean()]), np.array([right.sum()])

    def _step_eager(self, tokens, labels, rate, step):
        head, blocks = (list(group.variables.values()) for group in (self.head, self.blocks))
        with tf.GradientTape() as tape:
            features = fast.upper_features(self.encoder.model, tokens, self.first_block)
            logits = forward(head, features, self._loss_options, step)
            loss = cross_entropy(logits, labels, self._loss_options.label_smoothing)
        gradients = tape.gradient(loss, [head, blocks])
        for group, own in zip((self.head, self.blocks), gradients, strict=True):
            group.update(step, rate, own)
        right = tf.reduce_sum(tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.int32))
        return loss, right

    def _features_eager(self, tokens):
        return fast.upper_features(self.encoder.model, tokens, self.first_block)

    def features_of(self, tokens: FrozenTokens) -> np.ndarray:
        """Features of a split's images by the encoder as it is.

        Returns:
            float32[n, feature_dim].
        """
        starts = range(0, tokens.size, _BATCH)
        rows = [np.arange(start, min(start + _BATCH, tokens.size)) for start in starts]
        return np.concatenate([self._features(tokens(some)).numpy() for some in rows])

    def gather_weights(self) -> HeadState:
        """The head's and the encoder's weights; as Trainer.gather_weights."""
        return HeadState(head=self.head.weights(), encoder=self.blocks.weights())

    def restore_weights(self, state: HeadState) -> None:
        """As Trainer.restore_weights."""
        self.head.restore(state.head)
        self.blocks.restore(state.encoder)
