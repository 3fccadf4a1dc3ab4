"""The baselines that send whole heads: synchronous data parallel training and local SGD."""

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.head import HeadSpec, init_parameters
from sparse_ist_tf.ist.local import SlotOptimizer, loss_and_gradients, make_local_steps
from sparse_ist_tf.ist.trainer import Trainer
from sparse_ist_tf.ist.variables import per_worker_variable
from sparse_ist_tf.tracing import traced


def ring_all_reduce_bytes(entries: int, num_workers: int) -> int:
    """What a worker sends in a ring all-reduce of float32 entries: 2 * entries * (P - 1) / P * 4.

    Source: "Bandwidth optimal all-reduce algorithms for clusters of workstations" (Patarasuk and
    Yuan, 2009), section 3.

    Args:
        entries: of the vector.
        num_workers: P.

    Returns:
        Bytes.

    Example:
        >>> from sparse_ist_tf.ist.synchronous import ring_all_reduce_bytes
        >>> ring_all_reduce_bytes(1000, 4)
        6000
    """
    chunk = -(-entries // num_workers)
    return 2 * chunk * (num_workers - 1) * 4


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
    gradients = ring_all_reduce_bytes(spec.num_parameters, num_workers)
    state = ring_all_reduce_bytes(spec.num_parameters * (1 + num_slots), num_workers)
    return {"data_parallel": gradients * steps, "local_sgd": state * rounds}


class SynchronousTrainer(Trainer):
    """Replicas of the whole head, averaged: gradients at every step, or states at every round.

    Source: for the averaging of states "Local SGD Converges Fast and Communicates Little" (Stich,
    2019), algorithm 1.

    Args:
        spec: the head's shape.
        options: of the training; num_subnets is the number of replicas, each with batches of its
            own.
        link: to the other workers.
        features: float32[n, feature_dim].
        labels: int32[n].
        shards: int64 arrays, the examples of each replica.
        ledger: where bytes are counted.
        average: "gradients" (data parallel) or "states" (local SGD).
    """

    def __init__(self, spec, options, link, features, labels, shards, ledger, average: str):
        super().__init__(spec, options, link, features, labels, shards, ledger)
        self.average = average
        self.shapes = [part.shape for part in spec.parameters()]
        self.optimizer = SlotOptimizer(options.optimizer_config(), self.shapes)
        self.num_slots = self.optimizer.num_slots
        self.num_columns = 1 + self.num_slots
        ones = [1.0] * len(spec.hidden)
        self._losses = {n: options.loss_options(ones, n) for n in self.mine}
        self._steps = {n: make_local_steps(self.optimizer, self._losses[n]) for n in self.mine}
        with link.strategy.scope():
            self.state = per_worker_variable((self.num_columns, spec.num_parameters), "state")
        initial = init_parameters(spec, options.seed, options.initializer)
        whole = np.zeros((self.num_columns, spec.num_parameters), np.float32)
        whole[0] = np.concatenate([initial[part.name].ravel() for part in spec.parameters()])
        self.state.assign(whole)
        self._traced = traced(self._replicas, reduce_retracing=True)

    def _run_round(self, steps):
        rows, rates = self._batches(steps)
        if self.average == "states":
            report = self._synchronise(rows, rates, self.step)
        else:
            reports = [
                self._synchronise(rows[:, i : i + 1], rates[i : i + 1], self.step + i)
                for i in range(steps)
            ]
            report = np.stack([np.mean(reports, axis=0)[0], np.sum(reports, axis=0)[1]])
        return report[0], report[1]

    def _synchronise(self, rows, rates, first_step):
        args = (self.features, self.labels, rows, rates, tf.constant(first_step))
        report = self.link.strategy.run(self._traced, args=(*args, self.link.next_key())).numpy()
        entries = self.spec.num_parameters + 2 * self.options.num_subnets
        purposes = {"gradients": 1} if self.average == "gradients" else {"weights": 1, "moments": 2}
        if self.average == "states":
            purposes["moments"] = self.num_slots
        if self.link.num_workers > 1:
            for purpose, columns in purposes.items():
                size = entries if purpose != "moments" else self.spec.num_parameters * columns
                self.ledger.add(purpose, ring_all_reduce_bytes(size, self.link.num_workers))
        return report

    def _replicas(self, features, labels, rows, rates, first_step, key):
        columns = tf.ensure_shape(self.state, (self.num_columns, self.spec.num_parameters))
        weights, slots = self._split(columns)
        count = self.options.num_subnets
        losses, right = [tf.zeros(())] * count, [tf.zeros(())] * count
        total = 0.0
        for k, replica in enumerate(self.mine):
            if self.average == "states":
                new, moments, loss, hits = self._steps[replica](
                    weights, slots, features, labels, rows[k], rates, first_step, first_step
                )
                total += self._join([new, *zip(*moments, strict=True)])
                losses[replica] = tf.reduce_mean(loss)
            else:
                batch = rows[k, 0]
                loss, hits, grads = loss_and_gradients(
                    weights,
                    tf.gather(features, batch),
                    tf.gather(labels, batch),
                    self._losses[replica],
                    first_step,
                )
                total += self._join([grads])
                losses[replica] = loss
            right[replica] = tf.cast(hits, tf.float32)
        report = tf.reshape(tf.stack([losses, right]), (-1,))
        flat = tf.concat([tf.reshape(total, (-1,)) / count, report], axis=0)
        flat = self.link.all_reduce(flat, key)
        mean = tf.reshape(flat[: -2 * count], (-1, self.spec.num_parameters))
        if self.average == "gradients":
            grads, _ = self._split(mean)
            new, moments = self.optimizer.apply(first_step, rates[0], grads, weights, slots)
            mean = self._join([new, *zip(*moments, strict=True)])
        self.state.assign(mean)
        return tf.reshape(flat[-2 * count :], (2, count))

    def _split(self, columns):
        """Weights and moments, in the parameters' shapes, from [columns, entries]."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        parts = tf.split(columns, sizes, axis=1)
        shaped = [
            [tf.reshape(row, shape) for row in tf.unstack(part)]
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return [rows[0] for rows in shaped], [rows[1:] for rows in shaped]

    def _join(self, columns):
        """[columns, entries] from lists of tensors."""
        return tf.stack([tf.concat([tf.reshape(t, (-1,)) for t in c], axis=0) for c in columns])

    def gather(self) -> dict[str, np.ndarray] | None:
        """The whole state, on the chief; as IstTrainer.gather."""
        if not self.link.chief:
            return None
        weights, slots = self._split(tf.constant(self.state.numpy()))
        state = {}
        for part, weight, moments in zip(self.spec.parameters(), weights, slots, strict=True):
            state[part.name] = weight.numpy()
            for i, moment in enumerate(moments):
                state[f"{part.name}/moment_{i}"] = moment.numpy()
        return self._with_statistics(state)

    def restore(self, state, round_index: int, step: int) -> None:
        """Goes on from a gathered state; as IstTrainer.restore."""
        self._restore_statistics(state)
        whole = None
        if self.link.chief:
            columns = []
            for column in range(self.num_columns):
                end = "" if column == 0 else f"/moment_{column - 1}"
                parts = [np.ravel(state[part.name + end]) for part in self.spec.parameters()]
                columns.append(np.concatenate(parts))
            whole = np.stack(columns)
        self.state.assign(self.link.broadcast(whole, (self.num_columns, self.spec.num_parameters)))
        self.round, self.step = round_index, step
