"""Collectives between workers."""

import numpy as np
import tensorflow as tf

from sparse_ist_tf.tracing import traced

_ALL_TO_ALL, _PAIR = 7_001, 7_100  # group keys, apart from those of tf.distribute


class Link:
    """Collectives between the workers of a strategy, counted in a ledger.

    A group's members are expected in the order of their task indices; `check_order` makes sure.

    Args:
        strategy: a MultiWorkerMirroredStrategy.
        worker: this worker's index.
        num_workers: P; with 1 nothing is ever sent.
        timeout_s: seconds after which a collective fails.
    """

    def __init__(self, strategy, worker: int, num_workers: int, timeout_s: float = 120.0):
        self.strategy, self.worker, self.num_workers = strategy, worker, num_workers
        self.timeout_s = timeout_s
        self.chief = worker == 0
        self._key = 0

    def next_key(self) -> tf.Tensor:
        """A new instance key; all workers count alike."""
        self._key += 1
        return tf.constant(self._key, tf.int32)

    def all_to_all(self, chunks: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Row w of the result is what worker w had in this worker's row.

        Called inside strategy.run, by all workers.

        Args:
            chunks: float32[P, ...], the same shape on all workers.
            key: from next_key.

        Returns:
            float32[P, ...].
        """
        if self.num_workers == 1:
            return chunks
        return tf.raw_ops.CollectiveAllToAllV2(
            input=tf.identity(chunks),
            group_size=self.num_workers,
            group_key=_ALL_TO_ALL,
            instance_key=key,
            ordering_token=[],
            communication_hint="ring",
            timeout_seconds=self.timeout_s,
        )

    def all_reduce(self, vector: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """The sum of all workers' vectors; called inside strategy.run, by all workers.

        Args:
            vector: float32[n].
            key: from next_key.

        Returns:
            float32[n].
        """
        if self.num_workers == 1:
            return vector
        return tf.raw_ops.CollectiveReduceV2(
            input=tf.identity(vector),
            group_size=self.num_workers,
            group_key=_ALL_TO_ALL,
            instance_key=key,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
            communication_hint="ring",
            timeout_seconds=self.timeout_s,
        )

    def all_gather(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all workers, in their order; called by all workers.

        Args:
            rows: float32[n, ...], the same shape on all workers.

        Returns:
            float32[P, n, ...].
        """
        if self.num_workers == 1:
            return rows[None]

        def gather(mine, key):
            return tf.raw_ops.CollectiveGatherV2(
                input=tf.identity(mine),
                group_size=self.num_workers,
                group_key=_ALL_TO_ALL,
                instance_key=key,
                ordering_token=[],
                communication_hint="ring",
                timeout_seconds=self.timeout_s,
            )

        args = (tf.constant(rows), self.next_key())
        flat = self.strategy.run(traced(gather), args).numpy()
        return flat.reshape(self.num_workers, *rows.shape)

    def pass_on(self, value: np.ndarray | None, shape, source: int, target: int):
        """Sends an array from one worker to another; called by these two alone.

        Args:
            value: float32 array at the source, ignored at the target.
            shape: of the array.
            source: the sender.
            target: the receiver.

        Returns:
            The array, at both.
        """
        first = min(source, target)
        common = {
            "group_size": 2,
            "group_key": _PAIR + first * self.num_workers + max(source, target),
            "instance_key": self.next_pair_key(source, target),
            "communication_hint": "ring",
            "timeout_seconds": self.timeout_s,
        }

        def send():
            data = tf.identity(tf.constant(value, tf.float32))
            return tf.raw_ops.CollectiveBcastSendV2(input=data, **common)

        def receive():
            shape_tensor = tf.constant(shape, tf.int32)
            return tf.raw_ops.CollectiveBcastRecvV2(T=tf.float32, shape=shape_tensor, **common)

        body = send if self.worker == source else receive
        return self.strategy.run(traced(body)).numpy()

    def broadcast(self, value: np.ndarray | None, shape) -> np.ndarray:
        """Sends an array of the chief to all workers; called by all of them.

        Args:
            value: float32 array on the chief; ignored elsewhere.
            shape: of the array.

        Returns:
            The array, everywhere.
        """
        if not self.chief:
            return self.pass_on(None, shape, 0, self.worker)
        for worker in range(1, self.num_workers):
            self.pass_on(value, shape, 0, worker)
        return np.asarray(value, np.float32)

    def next_pair_key(self, source: int, target: int) -> tf.Tensor:
        """A new instance key of a pair, counted by these two alike."""
        pairs = self.__dict__.setdefault("_pair_keys", {})
        pair = (source, target)
        pairs[pair] = pairs.get(pair, 0) + 1
        return tf.constant(2 * pairs[pair] + (source > target), tf.int32)

    def check_order(self) -> None:
        """Makes sure that row w of an all-to-all belongs to worker w.

        Raises:
            RuntimeError: if TensorFlow ordered the group otherwise.
        """
        if self.num_workers == 1:
            return
        mine = tf.fill((self.num_workers, 1), float(self.worker))
        got = self.strategy.run(traced(self.all_to_all), (mine, self.next_key()))
        order = got.numpy().ravel().astype(int).tolist()
        if order != list(range(self.num_workers)):
            raise RuntimeError(f"the workers' collective has the order {order}")
