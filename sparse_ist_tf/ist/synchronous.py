"""Replicas of whole heads, and two baselines: synchronous data parallel training, local SGD."""

import abc

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange.variables import per_worker_variable
from sparse_ist_tf.ist.head import HeadSpec, init_parameters
from sparse_ist_tf.ist.local import (
    Batches,
    SlotOptimizer,
    SubnetState,
    loss_and_gradients,
    make_local_steps,
)
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.ist.trainer import Trainer, TrainerOptions, TrainingData
from sparse_ist_tf.tracing import traced
from sparse_ist_tf.workers.ledger import Purpose
from sparse_ist_tf.workers.link import Link, ring_all_reduce_bytes


class Replicas(Trainer):
    """Replicas of the whole head, options.num_subnets of them; what crosses differs.

    Every worker keeps the same `state`: the weights, and behind them columns of as many entries.
    """

    def __init__(self, spec: HeadSpec, options: TrainerOptions, link: Link, data: TrainingData):
        super().__init__(spec, options, link, data)
        self.shapes = [part.shape for part in spec.parameters()]
        self.optimizer = SlotOptimizer(options.optimizer_config(), self.shapes)
        self.num_slots = self.optimizer.num_slots
        self.num_columns = self._count_columns()
        ones = [1.0] * len(spec.hidden)
        self._losses = {n: options.loss_options(ones, n, data) for n in self.mine}
        with link.strategy.scope():
            self.state = per_worker_variable((self.num_columns, spec.num_parameters), "state")
        initial = init_parameters(spec, options.seed, options.initializer)
        whole = np.zeros((self.num_columns, spec.num_parameters), np.float32)
        whole[0] = np.concatenate([initial[part.name].ravel() for part in spec.parameters()])
        self.state.assign(whole)
        self._stopped_by = 0

    def _count_columns(self) -> int:
        """Of state; moments of the optimizer behind the weights, where nothing else is said."""
        return 1 + self.num_slots

    def asked_to_stop(self) -> int:
        """As Trainer.asked_to_stop."""
        return self._stopped_by

    def _read(self) -> tf.Tensor:
        """The state in a graph: float32[columns, entries]."""
        return tf.ensure_shape(self.state, (self.num_columns, self.spec.num_parameters))

    def _split(self, columns: tf.Tensor) -> SubnetState:
        """Weights and moments, in the parameters' shapes, from [columns, entries]."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        parts = tf.split(columns, sizes, axis=1)
        shaped = [
            [tf.reshape(row, shape) for row in tf.unstack(part)]
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return SubnetState([rows[0] for rows in shaped], [rows[1:] for rows in shaped])

    def _join(self, state: SubnetState) -> tf.Tensor:
        """The inverse of _split."""
        columns = [state.weights, *zip(*state.slots, strict=True)]
        return tf.stack([tf.concat([tf.reshape(t, (-1,)) for t in c], axis=0) for c in columns])

    def gather_weights(self) -> HeadState | None:
        """As Trainer.gather_weights."""
        if not self.link.chief:
            return None
        state = HeadState()
        kept = self._split(tf.constant(self.state.numpy()))
        for part, weight, moments in zip(self.spec.parameters(), *kept, strict=True):
            state.head.set_columns(part.name, [tensor.numpy() for tensor in (weight, *moments)])
        return state

    def restore_weights(self, state: HeadState | None) -> None:
        """As Trainer.restore_weights."""
        whole = None
        if state:
            columns = [state.head.columns(part.name) for part in self.spec.parameters()]
            rows = zip(*columns, strict=True)
            whole = np.stack([np.concatenate([array.ravel() for array in row]) for row in rows])
        self.state.assign(self._from_chief(whole, (self.num_columns, self.spec.num_parameters)))


class AllReduced(Replicas):
    """Replicas whose sum is made by an all-reduce."""

    def __init__(self, spec: HeadSpec, options: TrainerOptions, link: Link, data: TrainingData):
        super().__init__(spec, options, link, data)
        self._key = link.reserve()
        self._traced = traced(self._replicas, reduce_retracing=True)

    @classmethod
    @abc.abstractmethod
    def expected_bytes(
        cls, spec: HeadSpec, num_slots: int, num_workers: int, steps: int, rounds: int
    ) -> int:
        """What a worker sends in a training, its losses apart."""

    @abc.abstractmethod
    def replica(
        self, k: int, state: SubnetState, batches: Batches, first_step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What one hosted replica makes, in a graph.

        Returns:
            (float32[columns, entries] to average, mean loss, right answers).
        """

    def updated(
        self, mean: tf.Tensor, state: SubnetState, rate: tf.Tensor, first_step: tf.Tensor
    ) -> tf.Tensor:
        """The next state from the mean over all replicas: float32[columns, entries]."""
        return mean

    def _synchronise(self, rows, rates, first_step) -> np.ndarray:
        batches = Batches(self.features, self.labels, rows, rates)
        return self.link.run(self._traced, (batches, tf.constant(first_step)))

    def _replicas(self, batches, first_step):
        state = self._split(self._read())
        count, entries = self.options.num_subnets, self.spec.num_parameters
        losses, right, signals = ([tf.zeros(())] * count for _ in range(3))
        total = 0.0
        for k, replica in enumerate(self.mine):
            mine = batches._replace(rows=batches.rows[k])
            made, losses[replica], hits = self.replica(k, state, mine, first_step)
            total += made
            right[replica] = tf.cast(hits, tf.float32)
            with tf.control_dependencies([hits]):
                signals[replica] = self.stop_signal.read_value()
        report = tf.reshape(tf.stack([losses, right, signals]), (-1,))
        flat = tf.concat([tf.reshape(total, (-1,)) / count, report], axis=0)
        flat = self.link.all_reduce(flat, self._key, self._purpose(entries + 3 * count))
        mean = tf.reshape(flat[: -3 * count], (-1, entries))
        self.state.assign(self.updated(mean, state, batches.rates[0], first_step))
        return tf.reshape(flat[-3 * count :], (3, count))

    @abc.abstractmethod
    def _purpose(self, entries: int) -> dict[Purpose, int]:
        """How many of the numbers that are averaged are for what; losses are sent beside."""


class DataParallel(AllReduced):
    """Synchronous data parallel training: gradients are averaged at every step."""

    @classmethod
    def expected_bytes(
        cls, spec: HeadSpec, num_slots: int, num_workers: int, steps: int, rounds: int
    ) -> int:
        """Gradients at every step; as AllReduced.expected_bytes."""
        return ring_all_reduce_bytes(spec.num_parameters, num_workers) * steps

    def train_round(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """As Trainer.train_round."""
        rows, rates = self._batches(steps)
        reports = [
            self._synchronise(rows[:, i : i + 1], rates[i : i + 1], self.step + i)
            for i in range(steps)
        ]
        self._stopped_by = int(np.max(reports, axis=0)[2].max())
        return np.mean(reports, axis=0)[0], np.sum(reports, axis=0)[1]

    def replica(
        self, k: int, state: SubnetState, batches: Batches, first_step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The gradients of one batch; as AllReduced.replica."""
        rows, options = batches.rows[0], self._losses[self.mine[k]]
        batch = tf.gather(batches.features, rows), tf.gather(batches.labels, rows)
        loss, hits, gradients = loss_and_gradients(state.weights, *batch, options, first_step)
        return self._join(SubnetState(gradients, [])), loss, hits

    def updated(
        self, mean: tf.Tensor, state: SubnetState, rate: tf.Tensor, first_step: tf.Tensor
    ) -> tf.Tensor:
        """A step of the optimizer; as AllReduced.updated."""
        gradients = self._split(mean).weights
        return self._join(self.optimizer.apply(first_step, rate, gradients, state))

    def _purpose(self, entries):
        return {"gradients": entries}


class LocalSgd(AllReduced):
    """Local SGD: weights and moments are averaged at the end of every round.

    Source: "Local SGD Converges Fast and Communicates Little" (Stich, 2019), algorithm 1.
    """

    @classmethod
    def expected_bytes(
        cls, spec: HeadSpec, num_slots: int, num_workers: int, steps: int, rounds: int
    ) -> int:
        """Weights and moments at every round; as AllReduced.expected_bytes."""
        return ring_all_reduce_bytes(spec.num_parameters * (1 + num_slots), num_workers) * rounds

    def train_round(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """As Trainer.train_round."""
        losses, right, signals = self._synchronise(*self._batches(steps), self.step)
        self._stopped_by = int(signals.max())
        return losses, right

    def replica(
        self, k: int, state: SubnetState, batches: Batches, first_step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Some steps of one replica by itself; as AllReduced.replica."""
        train = make_local_steps(self.optimizer, self._losses[self.mine[k]])
        state, losses, hits = train(state, batches, first_step, first_step)
        return self._join(state), tf.reduce_mean(losses), hits

    def _purpose(self, entries):
        return {"weights": entries, "moments": self.num_slots * self.spec.num_parameters}


def synchronous_bytes(
    spec: HeadSpec, num_slots: int, num_workers: int, steps: int, rounds: int
) -> dict[str, int]:
    """What the baselines would have sent per worker for the same steps.

    Args:
        spec: the head's shape.
        num_slots: moments per weight, which local SGD averages too.
        num_workers: P.
        steps: of the run.
        rounds: of the run; local SGD averages at the end of each.

    Returns:
        {"data_parallel": bytes, "local_sgd": bytes}.

    Example:
        >>> from sparse_ist_tf.ist.head import HeadSpec
        >>> from sparse_ist_tf.ist.synchronous import synchronous_bytes
        >>> synchronous_bytes(HeadSpec(8, (6,), 3), 2, num_workers=2, steps=40, rounds=2)
        {'data_parallel': 12160, 'local_sgd': 1808}
    """
    kinds = {"data_parallel": DataParallel, "local_sgd": LocalSgd}
    size = (spec, num_slots, num_workers, steps, rounds)
    return {name: kind.expected_bytes(*size) for name, kind in kinds.items()}
