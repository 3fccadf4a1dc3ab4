"""What all ways of training a head have in common."""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.inputs.batches import BatchStream
from sparse_ist_tf.ist.exchange.parameters import Forms
from sparse_ist_tf.ist.head import HeadSpec, Standard, hidden_statistics
from sparse_ist_tf.ist.local import LossOptions
from sparse_ist_tf.ist.partition import Partition, hosted_subnets
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.workers.link import Link, Shape

MOMENTS = ("carry", "reset", "slot")


@dataclasses.dataclass(frozen=True)
class TrainerOptions:
    """What a trainer needs to know besides the data.

    Args:
        num_subnets: N; for the synchronous baselines the number of replicas.
        capacities: one positive number per subnet; equal where empty.
        local_steps: steps of a round.
        moments: "carry" (they travel with their neurons), "reset" (zero at every round) or "slot"
            (they stay with the subnet, whatever neurons it holds).
        forms: in which weights, their differences and moments that travel cross.
        biases: "carry", or "slot": they stay with the subnet, and the merged head's are untrained.
        scale_inputs: multiply inputs from a hidden layer by (layer width / subnet width).
        keep_last_step: collect what the last step of a round made of the weights, too.
        batch_size: examples of one step of one subnet.
        label_smoothing: in [0, 1).
        initializer: as init_parameter.
        standardize: features, by mean and std of the first that are set.
        normalization: of hidden layers, "none" or "batch".
        dropout: in [0, 1), of hidden neurons.
        optimizer: as keras.optimizers.serialize gives it; its learning rate is not used.
        learning_rate: from the step, counted from 0, to the rate.
        seed: of the initial weights, partitions and batches.
        outer_learning_rate: of the optimizer that takes the replicas' mean difference.
        outer_momentum: of the same, in [0, 1).
        logit_adjustment: does a loss make up for its shard's shares of the classes?
    """

    num_subnets: int = 1
    capacities: tuple[float, ...] = ()
    local_steps: int = 20
    moments: str = "carry"
    forms: Forms = dataclasses.field(default_factory=Forms)
    biases: str = "carry"
    scale_inputs: bool = True
    keep_last_step: bool = True
    batch_size: int = 64
    label_smoothing: float = 0.0
    initializer: str = "he_normal"
    standardize: bool = False
    normalization: str = "none"
    dropout: float = 0.0
    optimizer: Mapping | None = None
    learning_rate: Callable[[int], float] = lambda step: 1e-3
    seed: int = 0
    outer_learning_rate: float = 0.7
    outer_momentum: float = 0.9
    logit_adjustment: bool = False

    def optimizer_config(self) -> dict:
        """The optimizer, Adam where none is given."""
        return dict(self.optimizer or keras.optimizers.serialize(keras.optimizers.Adam()))

    def loss_options(
        self, scales: Sequence[float], subnet: int, data: "TrainingData"
    ) -> LossOptions:
        """What the loss of a subnet or replica depends on, whose inputs have these scales."""
        adjustment: tuple[float, ...] = ()
        if self.logit_adjustment and data.adjustments[subnet].any():
            adjustment = tuple(data.adjustments[subnet].tolist())
        return LossOptions(
            tuple(scales),
            self.label_smoothing,
            self.normalization,
            self.dropout,
            (self.seed, subnet),
            adjustment,
        )


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a head is trained on.

    Args:
        features: float32[n, feature_dim].
        labels: int32[n].
        shards: int64 arrays, the examples that each subnet draws from.
        locate: where an example looks otherwise in every pass: from a subnet, passes and examples,
            both integers [steps, b], to their rows of features and labels, of the same shape; None
            where an example's row is its number.
        adjustments: as logit_adjustments gives them, for options with logit_adjustment.
    """

    features: np.ndarray
    labels: np.ndarray
    shards: Sequence[np.ndarray]
    locate: Callable[[int, np.ndarray, np.ndarray], np.ndarray] | None = None
    adjustments: Sequence[np.ndarray] = ()


class Trainer(abc.ABC):
    """An algorithm: what a round does, what it sends, what it keeps.

    A subclass says what a round does in `train_round`, sends by `self.link`, which counts the
    bytes, and gives and takes what it keeps as whole arrays in `gather_weights` and
    `restore_weights`. Registered by sparse_ist_tf.registry.register_algorithm it is one that
    `ist.algorithm` can name.

    Args:
        spec: the head's shape.
        options: of the training.
        link: to the other workers.
        data: features, labels, and who draws from which.

    Raises:
        RequestError: if options.moments isn't one of MOMENTS.
    """

    def __init__(self, spec: HeadSpec, options: TrainerOptions, link: Link, data: TrainingData):
        if options.moments not in MOMENTS:
            allowed = ", ".join(MOMENTS)
            raise RequestError(f"ist.moments={options.moments!r}: must be one of {allowed}")
        self.spec, self.options, self.link = spec, options, link
        self.hosted = hosted_subnets(options.num_subnets, link.num_workers, options.capacities)
        self.mine = self.hosted[link.worker]
        self.streams = {
            n: BatchStream(data.shards[n], options.batch_size, options.seed, n) for n in self.mine
        }
        self.standard: Standard | None = None  # of the features
        if options.standardize:
            mean, std = data.features.mean(axis=0), data.features.std(axis=0)
            self.standard = Standard(mean, np.where(std > 1e-6, std, 1.0).astype(std.dtype))
        self.set_data(data)
        self.round, self.step = 0, 0
        self.scratch: Path | None = None  # a folder for whole arrays too large for memory
        self.num_slots = 0  # moments of a weight
        self.stop_signal = tf.Variable(0.0, trainable=False)  # read as late in a round as can be

    @abc.abstractmethod
    def train_round(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Trains every hosted subnet for some steps, and merges what all workers made.

        Returns:
            Of all N subnets, on every worker: (mean losses float[N], right answers [N]).
        """

    @abc.abstractmethod
    def gather_weights(self) -> HeadState | None:
        """What is kept, as whole arrays, on the chief alone; called by all workers."""

    @abc.abstractmethod
    def restore_weights(self, state: HeadState | None) -> None:
        """Takes what gather_weights gave, whatever the number of workers then.

        Args:
            state: on the chief; None elsewhere.
        """

    def told(self) -> dict:
        """What results.json has of this training beside; nothing where there is nothing to say."""
        return {}

    @classmethod
    def partition_of(
        cls, options: TrainerOptions, hidden: tuple[int, ...], round_index: int
    ) -> Partition | None:
        """Who holds which neuron in a round; None where the head is trained whole.

        Args:
            options: of the training.
            hidden: widths of the hidden layers.
            round_index: from 0.
        """
        return None

    def ask_to_stop(self, number: int) -> None:
        """Lets all workers know, with the round, that this one has to stop; in any thread.

        Args:
            number: of the signal, at least 1.
        """
        self.stop_signal.assign(number)

    def asked_to_stop(self) -> int:
        """The signal that asked a worker to stop, the same on all; called by all, after a round.

        A trainer whose rounds carry the number says what the last one brought; this one asks.

        Returns:
            The signal's number, the greatest of several; 0 where none did.
        """
        mine = np.array([self.stop_signal.numpy()], np.int32)
        return int(self.link.all_gather(mine, purpose="control").max())

    def set_data(self, data: TrainingData) -> None:
        """Replaces features and labels, as random masks do; the shards stay those of before.

        Args:
            data: features, labels and where an example is in them.
        """
        self.data, features = data, data.features
        if self.standard is not None:
            features = (features - self.standard.mean) / self.standard.std
        self.features = tf.constant(features, tf.float32)
        self.labels = tf.constant(data.labels, tf.int32)

    def gather(self) -> HeadState | None:
        """The whole state, on the chief alone; called by all workers."""
        state = self.gather_weights()
        if state is None:
            return None
        if self.standard is not None:
            state.statistics["features"] = self.standard
        if self.options.normalization == "batch":
            state.statistics |= hidden_statistics(state.head.values, self.features.numpy())
        return state

    def restore(self, state: HeadState | None, round_index: int, step: int) -> None:
        """Goes on from a gathered state, whatever the number of workers that made it.

        Called by all workers.

        Args:
            state: on the chief as gather returns it; None elsewhere.
            round_index: rounds done.
            step: steps done.
        """
        if self.standard is not None:
            stored = np.stack(state.statistics["features"]) if state else None
            self.standard = Standard(*self._from_chief(stored, (2, self.spec.feature_dim)))
            self.set_data(self.data)
        self.restore_weights(state)
        self.round, self.step = round_index, step

    def _from_chief(self, array: np.ndarray | None, shape: Sequence[int]) -> np.ndarray:
        """What the chief restored, on every worker: float32 of this shape."""
        return self.link.broadcast(Shape(shape) if array is None else array, purpose="checkpoint")

    def run_round(self, steps: int | None = None) -> dict:
        """Trains for one round.

        Args:
            steps: of this round, options.local_steps where None.

        Returns:
            {"round", "step", "loss", "train_accuracy"}: means over all subnets and steps.

        Raises:
            RunError: if a loss is not finite.
        """
        steps = steps or self.options.local_steps
        losses, right = self.train_round(steps)
        for subnet, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise RunError(
                    f"round {self.round}, subnet {subnet}: the loss is {loss}; "
                    "lower config.learning_rate"
                )
        self.round += 1
        self.step += steps
        seen = steps * self.options.batch_size * len(losses)
        return {
            "round": self.round,
            "step": self.step,
            "loss": float(np.mean(losses)),
            "train_accuracy": float(np.sum(right) / seen),
        }

    def _batches(self, steps: int) -> tuple[tf.Tensor, tf.Tensor]:
        rows = np.stack([self._rows(n, steps) for n in self.mine])
        rates = [self.options.learning_rate(self.step + i) for i in range(steps)]
        return tf.constant(rows), tf.constant(rates, tf.float32)

    def _rows(self, subnet: int, steps: int) -> np.ndarray:
        """The rows of features and labels that a subnet's next steps draw: int32[steps, b]."""
        stream, locate = self.streams[subnet], self.data.locate
        rows = stream.rows(self.step, steps)
        if locate is None:
            return rows
        return locate(subnet, stream.passes(self.step, steps), rows).astype(np.int32)
