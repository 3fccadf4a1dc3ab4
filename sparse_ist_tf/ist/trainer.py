"""What all ways of training a head have in common."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.ist.batches import BatchStream
from sparse_ist_tf.ist.head import HeadSpec, hidden_statistics
from sparse_ist_tf.ist.local import LossOptions
from sparse_ist_tf.ist.partition import hosted_subnets
from sparse_ist_tf.workers.ledger import Ledger
from sparse_ist_tf.workers.link import Link

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
        biases: "carry", or "slot": they stay with the subnet, and the merged head's are untrained.
        scale_inputs: multiply inputs from a hidden layer by (layer width / subnet width).
        keep_last_step: collect what the last step of a round made of the weights, too.
        batch_size: examples of one step of one subnet.
        label_smoothing: in [0, 1).
        initializer: as init_parameter.
        standardize: features, by mean and deviation of the first that are set.
        normalization: of hidden layers, "none" or "batch".
        dropout: in [0, 1), of hidden neurons.
        optimizer: as keras.optimizers.serialize gives it; its learning rate is not used.
        learning_rate: from the step, counted from 0, to the rate.
        seed: of the initial weights, partitions and batches.
    """

    num_subnets: int = 1
    capacities: tuple[float, ...] = ()
    local_steps: int = 20
    moments: str = "carry"
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

    def optimizer_config(self) -> dict:
        """The optimizer, Adam where none is given."""
        return dict(self.optimizer or keras.optimizers.serialize(keras.optimizers.Adam()))

    def loss_options(self, scales: Sequence[float], subnet: int) -> LossOptions:
        """What the loss of a subnet or replica depends on, whose inputs have these scales."""
        return LossOptions(
            tuple(scales),
            self.label_smoothing,
            self.normalization,
            self.dropout,
            (self.seed, subnet),
        )


class Trainer:
    """What all algorithms share: the data, the count of steps, and the state as whole arrays.

    Args:
        spec: the head's shape.
        options: of the training.
        link: to the other workers.
        features: float32[n, feature_dim].
        labels: int32[n].
        shards: int64 arrays, the examples of each subnet.
        ledger: where bytes are counted.
    """

    def __init__(
        self,
        spec: HeadSpec,
        options: TrainerOptions,
        link: Link,
        features: np.ndarray,
        labels: np.ndarray,
        shards: Sequence[np.ndarray],
        ledger: Ledger,
    ):
        if options.moments not in MOMENTS:
            allowed = ", ".join(MOMENTS)
            raise RequestError(f"ist.moments={options.moments!r}: must be one of {allowed}")
        self.spec, self.options, self.link, self.ledger = spec, options, link, ledger
        self.hosted = hosted_subnets(options.num_subnets, link.num_workers, options.capacities)
        self.mine = self.hosted[link.worker]
        self.streams = {
            n: BatchStream(shards[n], options.batch_size, options.seed, n) for n in self.mine
        }
        self.labels = tf.constant(labels, tf.int32)
        self.standards = None  # mean and deviation of the features
        if options.standardize:
            mean, deviation = features.mean(axis=0), features.std(axis=0)
            self.standards = np.stack([mean, np.where(deviation > 1e-6, deviation, 1.0)])
        self.set_features(features)
        self.round, self.step = 0, 0

    def set_features(self, features: np.ndarray) -> None:
        """Replaces the training features, as random masks do every epoch.

        Args:
            features: float32[n, feature_dim].
        """
        self._raw = features
        if self.standards is not None:
            features = (features - self.standards[0]) / self.standards[1]
        self.features = tf.constant(features, tf.float32)

    def _with_statistics(self, state: dict) -> dict:
        """A gathered state, and what `fold` needs to make plain Dense layers of it."""
        if self.standards is not None:
            state["statistics/features/mean"] = self.standards[0]
            state["statistics/features/deviation"] = self.standards[1]
        if self.options.normalization == "batch":
            parameters = {part.name: state[part.name] for part in self.spec.parameters()}
            statistics = hidden_statistics(parameters, self.features.numpy())
            state |= {f"statistics/{name}": value for name, value in statistics.items()}
        return state

    def _restore_statistics(self, state: Mapping | None) -> None:
        if self.standards is None:
            return
        names = ("statistics/features/mean", "statistics/features/deviation")
        stored = np.stack([state[name] for name in names]) if self.link.chief else None
        self.standards = self.link.broadcast(stored, (2, self.spec.feature_dim))
        self.set_features(self._raw)

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
        losses, right = self._run_round(steps)
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

    def _run_round(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _batches(self, steps: int) -> tuple[tf.Tensor, tf.Tensor]:
        rows = np.stack([self.streams[n].rows(self.step, steps) for n in self.mine])
        rates = [self.options.learning_rate(self.step + i) for i in range(steps)]
        return tf.constant(rows), tf.constant(rates, tf.float32)
