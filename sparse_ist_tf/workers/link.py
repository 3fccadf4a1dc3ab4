"""Collectives between workers, each counted in the link's ledger by what it is for."""

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.tracing import traced
from sparse_ist_tf.workers.channel import Channel
from sparse_ist_tf.workers.ledger import PURPOSES, Ledger, Purpose
from sparse_ist_tf.workers.watch import Watch

_ALL, _PAIR, _MESSAGE = 7_001, 1_000_000, 2_000_000  # group keys, apart from tf.distribute's
# What bytes are for; of several, by their shares in what is sent.
Shares = Purpose | Mapping[Purpose, int]


def ring_all_reduce_bytes(entries: int, num_workers: int) -> int:
    """What a worker sends in a ring all-reduce of float32 entries: 2 * entries * (P - 1) / P * 4.

    Source: "Bandwidth optimal all-reduce algorithms for clusters of workstations" (Patarasuk and
    Yuan, 2009), section 3.
    """
    chunk = -(-entries // num_workers)
    return 2 * chunk * (num_workers - 1) * 4


class Link:
    """Collectives between the workers of a strategy; what each sends is counted as it is sent.

    Arrays cross in the dtype that they have, integers as integers. A group's members are expected
    in the order of their task indices; `check_order` makes sure.

    Args:
        strategy: a MultiWorkerMirroredStrategy.
        worker: this worker's index.
        num_workers: P; with 1 nothing is ever sent.
        timeout_s: seconds after which a collective fails that not all have joined.

    Example:
        >>> from sparse_ist_tf.workers.link import Link
        >>> link = Link.alone()
        >>> link.all_gather([[1.0]], purpose="features").shape, link.ledger.total
        ((1, 1, 1), 0)
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        worker: int,
        num_workers: int,
        timeout_s: float = 120.0,
    ):
        self.strategy, self.worker, self.num_workers = strategy, worker, num_workers
        self.chief = worker == 0
        self._watch = Watch(timeout_s if num_workers > 1 else 0.0)
        self._reserved, self._keys, self._pair_keys = 0, {}, {}
        self._sent = Ledger()
        with tf.init_scope():  # what collectives inside strategy.run send
            self._sent_in_graphs = tf.Variable(np.zeros(len(PURPOSES), np.int64), trainable=False)
        self._gather = traced(self._collect_rows, reduce_retracing=True)
        self._send = traced(self._send_array, reduce_retracing=True)
        self._receive = traced(self._receive_array, reduce_retracing=True)

    @classmethod
    def alone(cls) -> "Link":
        """The link of a single worker, under the current strategy."""
        return cls(tf.distribute.get_strategy(), 0, 1)

    @property
    def ledger(self) -> Ledger:
        """What this worker has sent so far."""
        return self._sent + Ledger.of_counts(self._sent_in_graphs.numpy())

    def go_on_from(self, ledger: Ledger) -> None:
        """Counts what an earlier process sent, too."""
        self._sent += ledger

    def run(self, function: Callable[..., tf.Tensor], args: tuple) -> np.ndarray:
        """What a graph with collectives makes of its arguments; called by all workers.

        Args:
            function: run by strategy.run.
            args: of function.

        Returns:
            Its result.
        """
        with self._watch.waiting():
            return self.strategy.run(function, args).numpy()

    def reserve(self, count: int = 1) -> int:
        """The first of so many keys, which all workers count alike.

        A key stands for one place in a training, whenever that is reached again, and for arrays of
        one shape and dtype: TensorFlow never forgets one.
        """
        first, self._reserved = self._reserved + 1, self._reserved + count
        return first

    def all_to_all(self, chunks: tf.Tensor, key: int, purpose: Shares) -> tf.Tensor:
        """Row w of the result is what worker w had in this worker's row.

        Called inside strategy.run, by all workers.

        Args:
            chunks: [P, ...], the same shape on all workers.
            key: from reserve.
            purpose: what the bytes are for, or shares of several.

        Returns:
            [P, ...].
        """
        if self.num_workers == 1:
            return chunks
        size = tf.size(chunks, tf.int64) // self.num_workers * (self.num_workers - 1)
        self._count_in_graph(size * chunks.dtype.size, purpose)
        return tf.raw_ops.CollectiveAllToAllV2(
            input=tf.identity(chunks), instance_key=key, **self._everyone()
        )

    def send(
        self,
        words: tf.Tensor,
        worker: int,
        channel: Channel,
        purposes: Mapping[Purpose, tf.Tensor],
        is_first: tf.Tensor,
    ) -> tf.Tensor:
        """Sends a worker a message; called inside strategy.run, while that one calls receive.

        The message before, by the same channel, has to be there.

        Args:
            words: int32[n].
            worker: the receiver.
            channel: with keys from reserve.
            purposes: how many of the words are for what; what fills them up is for the first.
            is_first: bool, whether it is the channel's first message.

        Returns:
            Something that is there when the other one has the message.
        """
        length = channel.length(tf.size(words), is_first)
        filled = tf.pad(words, [[0, length - tf.size(words)]])
        sent = []
        for piece in channel.pieces(length):

            def send(first, piece=piece):
                part = tf.slice(filled, first, (piece.size,))
                return tf.raw_ops.CollectiveBcastSendV2(
                    input=part, instance_key=piece.key, **self._pair(_MESSAGE, worker)
                )

            sent.append(piece.run(send, piece.first))
        counts = dict(purposes)
        counts[next(iter(counts))] += length - tf.size(words)
        # What nothing depends on a graph leaves out: the count makes it run.
        with tf.control_dependencies(sent):
            for purpose, count in counts.items():
                self._count_in_graph(tf.cast(count, tf.int64) * words.dtype.size, purpose)
            return tf.identity(length)

    def receive(
        self, num_words: tf.Tensor, worker: int, channel: Channel, is_first: tf.Tensor
    ) -> tf.Tensor:
        """The message of a worker that calls send: int32[num_words].

        Args:
            num_words: int32, as many as it sends.
            worker: the sender.
            channel: as it has it.
            is_first: as it has it.
        """
        parts = []
        for piece in channel.pieces(channel.length(num_words, is_first)):

            def receive(shape, piece=piece):
                pair = self._pair(_MESSAGE, worker)
                return tf.raw_ops.CollectiveBcastRecvV2(
                    T=tf.int32, shape=shape, instance_key=piece.key, **pair
                )

            parts.append(piece.run(receive, tf.constant([piece.size])))
        return tf.concat(parts, axis=0)[:num_words] if parts else tf.zeros((0,), tf.int32)

    def _group(self, kind: int, worker: int) -> int:
        """The key of the group of this worker and another."""
        pair = self.worker, worker
        return kind + min(pair) * self.num_workers + max(pair)

    def all_reduce(self, vector: tf.Tensor, key: int, purpose: Shares) -> tf.Tensor:
        """The sum of all workers' vectors; called inside strategy.run, by all workers.

        Args:
            vector: float32[n]; n is static.
            key: from reserve.
            purpose: what the bytes are for, or how many entries are for what.

        Returns:
            float32[n].
        """
        if self.num_workers == 1:
            return vector
        entries = {purpose: vector.shape[0]} if isinstance(purpose, str) else purpose
        for what, count in entries.items():
            self._count_in_graph(ring_all_reduce_bytes(count, self.num_workers), what)
        return tf.raw_ops.CollectiveReduceV2(
            input=tf.identity(vector),
            instance_key=key,
            merge_op="Add",
            final_op="Id",
            **self._everyone(),
        )

    def _everyone(self) -> dict:
        return {
            "group_size": self.num_workers,
            "group_key": _ALL,
            "ordering_token": [],
            "communication_hint": "ring",
            "timeout_seconds": 0,  # each with one leaves threads that sleep it out
        }

    def _count_in_graph(self, count: tf.Tensor | int, purpose: Shares) -> None:
        shares = {purpose: 1} if isinstance(purpose, str) else purpose
        whole = sum(shares.values())
        parts = [count * shares.get(what, 0) // whole for what in PURPOSES]
        self._sent_in_graphs.assign_add(tf.stack([tf.cast(part, tf.int64) for part in parts]))

    def all_gather(self, rows: np.ndarray, *, purpose: Purpose) -> np.ndarray:
        """The rows of all workers, in their order; called by all workers.

        Args:
            rows: [n, ...] of a number type, the same shape on all workers.
            purpose: what the bytes are for.

        Returns:
            [P, n, ...].
        """
        rows = np.asarray(rows)
        if self.num_workers == 1:
            return rows[None]
        self._sent.add(purpose, rows.nbytes * (self.num_workers - 1))
        kind = rows.shape, rows.dtype
        if kind not in self._keys:
            self._keys[kind] = self.reserve()
        flat = self.run(self._gather, (tf.constant(rows), tf.constant(self._keys[kind])))
        return flat.reshape(self.num_workers, *rows.shape)

    def _collect_rows(self, mine, key):
        return tf.raw_ops.CollectiveGatherV2(
            input=tf.identity(mine), instance_key=key, **self._everyone()
        )

    def wait_for_all(self) -> None:
        """Returns when all workers have called it."""
        self.all_gather(np.ones((1, 1), np.int32), purpose="control")

    def part(self) -> None:
        """Returns when all workers have what was sent to them; called by all, as their last.

        The others would take for lost who ends while its last message is still on the way.
        """
        word = np.ones(1, np.int32)
        others = range(1, self.num_workers) if self.chief else [self.worker] if self.worker else []
        with contextlib.suppress(tf.errors.OpError):  # who is gone by now has all that it needs
            for worker in others:
                self.pass_on(word, worker, 0, purpose="control")
            for worker in others:
                self.pass_on(word, 0, worker, purpose="control")

    def pass_on(self, array: "Parcel", source: int, target: int, *, purpose: Purpose) -> np.ndarray:
        """Sends an array from one worker to another; called by these two alone.

        Args:
            array: at the source the array; at the target its shape and dtype.
            source: the sender.
            target: the receiver.
            purpose: what the bytes are for.
        """
        known = self._pair_keys.setdefault((source, target), {})
        key = known.setdefault((tuple(array.shape), np.dtype(array.dtype)), len(known))
        instance = tf.constant(2 * key + (source > target), tf.int32)
        group = self._group(_PAIR, target if self.worker == source else source)
        keys = tf.constant(group, tf.int32), instance
        if self.worker == source:
            value = np.asarray(array)
            self._sent.add(purpose, value.nbytes)
            self.run(self._send, (tf.constant(value), *keys))
            return value
        shape = tf.constant(array.shape, tf.int32)
        like = tf.zeros((0,), tf.as_dtype(array.dtype))
        return self.run(self._receive, (shape, like, *keys))

    def _send_array(self, value, group, instance):
        return tf.raw_ops.CollectiveBcastSendV2(
            input=tf.identity(value), instance_key=instance, **self._pair_of(group)
        )

    def _receive_array(self, shape, like, group, instance):
        return tf.raw_ops.CollectiveBcastRecvV2(
            T=like.dtype, shape=shape, instance_key=instance, **self._pair_of(group)
        )

    def _pair(self, kind: int, worker: int) -> dict:
        return self._pair_of(self._group(kind, worker))

    def _pair_of(self, group: tf.Tensor | int) -> dict:
        return {
            "group_size": 2,
            "group_key": group,
            "communication_hint": "ring",
            "timeout_seconds": 0,
        }

    def broadcast(self, array: "Parcel", *, purpose: Purpose) -> np.ndarray:
        """Sends an array of the chief to all workers; called by all of them.

        Args:
            array: on the chief the array; elsewhere its shape and dtype.
            purpose: what the bytes are for.

        Returns:
            The array, everywhere.
        """
        if not self.chief:
            return self.pass_on(array, 0, self.worker, purpose=purpose)
        for worker in range(1, self.num_workers):
            self.pass_on(array, 0, worker, purpose=purpose)
        return np.asarray(array)

    def check_order(self) -> None:
        """Makes sure that row w of an all-to-all belongs to worker w.

        Raises:
            RuntimeError: if TensorFlow ordered the group otherwise.
        """
        if self.num_workers == 1:
            return
        mine = tf.fill((self.num_workers, 1), self.worker)
        key = self.reserve()
        run = traced(lambda chunks: self.all_to_all(chunks, key, "control"))
        order = self.run(run, (mine,)).ravel().tolist()
        if order != list(range(self.num_workers)):
            raise RuntimeError(f"the workers' collective has the order {order}")


class Shape:
    """What a receiver has to know of an array: its shape and dtype.

    Args:
        shape: of the array.
        dtype: of the array, float32 where not given.
    """

    def __init__(self, shape: Sequence[int], dtype: type | np.dtype = np.float32):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)


Parcel = np.ndarray | Shape
