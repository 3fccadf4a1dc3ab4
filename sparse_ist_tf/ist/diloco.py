"""DiLoCo: replicas that train long by themselves, then an outer step by what they made of it."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.ist.exchange.forms import FORMS, Form, Rows, bits_to_floats, floats_to_bits
from sparse_ist_tf.ist.head import HeadSpec
from sparse_ist_tf.ist.local import Batches, SubnetState, make_local_steps
from sparse_ist_tf.ist.slots import SlotStore, staying
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.ist.synchronous import Replicas
from sparse_ist_tf.ist.trainer import TrainerOptions, TrainingData
from sparse_ist_tf.streams import Stream
from sparse_ist_tf.tracing import traced
from sparse_ist_tf.workers.link import Link

BLOCK = 512  # entries that share a scale
_RECORD = 4  # mean loss, right answers, the signal that asks to stop, is the difference finite?


class MeanExchange:
    """The mean of all replicas' vectors, in few bytes: a slice of it is made by each worker.

    A vector is cut into blocks, which share a scale, and the blocks into a slice per worker. Every
    worker sends every other one that one's slice of its replicas' vectors, and then the mean of its
    own slice. Both are rounded, by random numbers that know nothing of the slices; the mean's
    maker takes it as rounded, too. So any number of workers makes the same mean, bit for bit.

    Args:
        link: to the other workers.
        hosted: hosted[worker], the replicas of each worker.
        entries: of a vector.
        form: in which both cross.
    """

    def __init__(self, link: Link, hosted: Sequence[Sequence[int]], entries: int, form: Form):
        self.link, self.hosted, self.entries, self.form = link, hosted, entries, form
        self.num_blocks = -(-entries // BLOCK)
        self.slice_blocks = -(-self.num_blocks // link.num_workers)
        self.slice_words = int(form.num_words(self.slice_blocks, BLOCK))
        self.most_hosted = max(len(replicas) for replicas in hosted)
        self._keys = [link.reserve(), link.reserve()]

    def round_bytes(self) -> int:
        """What a worker sends in a round."""
        words = self.most_hosted * (self.slice_words + _RECORD) + self.slice_words
        return (self.link.num_workers - 1) * words * 4

    def mean(
        self, vectors: Sequence[tf.Tensor], records: tf.Tensor, seeds: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Called inside strategy.run, by all workers.

        Args:
            vectors: float32[entries], one per hosted replica.
            records: float32[hosted replicas, _RECORD], for all workers.
            seeds: int32[hosted replicas + 1, 2], of the rounding of each, and of the mean.

        Returns:
            (float32[entries], records float32[N, _RECORD]).
        """
        parcels = []
        for k, vector in enumerate(vectors):
            slices = self._slices(self._lower(self._blocks(vector), seeds[k]))
            record = floats_to_bits(records[k])
            parcels.append(tf.stack([tf.concat([words, record], axis=0) for words in slices]))
        missing = self.most_hosted - len(parcels)
        chunks = tf.pad(tf.stack(parcels, axis=1), [[0, 0], [0, missing], [0, 0]])
        got = self.link.all_to_all(chunks, self._keys[0], "weights")
        got = tf.concat([got[w, : len(replicas)] for w, replicas in enumerate(self.hosted)], axis=0)
        words, records = tf.split(got, [self.slice_words, _RECORD], axis=1)
        # One after the other, in the order of the replicas.
        total = tf.foldl(
            lambda total, mine: total + self._lift(mine),
            words,
            tf.zeros((self.slice_blocks, BLOCK)),
            parallel_iterations=1,
        )
        mean = self._exchange_means(total / sum(map(len, self.hosted)), seeds[-1])
        return mean, bits_to_floats(records, (-1, _RECORD))

    def _exchange_means(self, mean, seed) -> tf.Tensor:
        """The whole vector of what each worker has made a slice of."""
        workers, mine = self.link.num_workers, self.link.worker
        behind = (workers - 1 - mine) * self.slice_blocks
        whole = tf.pad(mean, [[mine * self.slice_blocks, behind], [0, 0]])[: self.num_blocks]
        words = self._slices(self._lower(whole, seed))[mine]
        got = self.link.all_to_all(tf.stack([words] * workers), self._keys[1], "weights")
        lifted = [self._lift(words) for words in tf.unstack(got, num=workers)]
        return tf.reshape(tf.concat(lifted, axis=0), (-1,))[: self.entries]

    def _blocks(self, vector: tf.Tensor) -> tf.Tensor:
        filled = tf.pad(vector, [[0, self.num_blocks * BLOCK - self.entries]])
        return tf.reshape(filled, (self.num_blocks, BLOCK))

    def _lower(self, blocks: tf.Tensor, seed: tf.Tensor) -> Rows:
        """Rounded blocks, and empty ones behind them so that slices are equal."""
        missing = self.slice_blocks * self.link.num_workers - self.num_blocks
        return [
            tf.pad(row, [[0, missing], [0, 0]]) for row in self.form.lower(blocks, lambda: seed)
        ]

    def _slices(self, rows: Rows) -> list[tf.Tensor]:
        """The words of every worker's slice."""
        count = self.slice_blocks
        starts = range(0, count * self.link.num_workers, count)
        return [
            tf.concat(self.form.pack([row[i : i + count] for row in rows]), axis=0) for i in starts
        ]

    def _lift(self, words: tf.Tensor) -> tf.Tensor:
        """A slice's blocks of its words."""
        return self.form.lift(self.form.unpack(words, self.slice_blocks, BLOCK), BLOCK)


class Diloco(Replicas):
    """Local steps of whole replicas, and an outer step with Nesterov momentum by their differences.

    A replica's moments stay with it. The shared weights, which are those that are tested and kept,
    and the outer momentum are the same on every worker.

    Source: "DiLoCo: Distributed Low-Communication Training of Language Models" (Douillard et al.,
    2023), algorithm 1.

    Raises:
        RequestError: as Trainer.
    """

    def __init__(self, spec: HeadSpec, options: TrainerOptions, link: Link, data: TrainingData):
        super().__init__(spec, options, link, data)
        self._local = {n: make_local_steps(self.optimizer, self._losses[n]) for n in self.mine}
        shapes = {part.name: part.shape for part in spec.parameters()}
        self.moments = SlotStore(
            staying(spec.parameters(), self.num_slots, biases=False, moments=True),
            lambda name, replica: shapes[name],
            self.hosted,
            link,
        )
        form = FORMS[options.forms.differences]
        self.exchange = MeanExchange(link, self.hosted, spec.num_parameters, form)
        self._traced = traced(self._round, reduce_retracing=True)

    def _count_columns(self):
        return 2  # weights and outer momentum

    def train_round(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Local steps and an outer one; as Trainer.train_round.

        Raises:
            RunError: if a replica's difference is not finite.
        """
        batches = Batches(self.features, self.labels, *self._batches(steps))
        args = (batches, tf.constant(self.step), tf.constant(self._seeds()))
        losses, right, signals, finite = self.link.run(self._traced, args).T
        for replica in np.flatnonzero(finite == 0):
            raise RunError(
                f"round {self.round}, subnet {replica}: the difference of its weights is not "
                "finite; lower config.learning_rate"
            )
        self._stopped_by = int(signals.max())
        return losses, right

    def _seeds(self) -> np.ndarray:
        """Of the rounding in this round: a row per hosted replica, one for the mean."""
        seed, now = self.options.seed, self.round
        rngs = [Stream.REPLICA_ROUNDING.rng(seed, now, n) for n in self.mine]
        rngs.append(Stream.MEAN_ROUNDING.rng(seed, now))
        return np.stack([rng.integers(2**31, size=2, dtype=np.int32) for rng in rngs])

    def _round(self, batches, first_step, seeds):
        weights, momentum = tf.unstack(self._read())
        shared, kept = self._split(weights[None]).weights, self.moments.read()
        differences, records, stays = [], [], {}
        for k, replica in enumerate(self.mine):
            names = [part.name for part in self.spec.parameters()]
            moments = [[kept[replica][n, 1 + i] for i in range(self.num_slots)] for n in names]
            mine = batches._replace(rows=batches.rows[k])
            train = self._local[replica]
            state, losses, right = train(SubnetState(shared, moments), mine, first_step, first_step)
            stays[replica] = {
                (name, 1 + i): moment
                for name, some in zip(names, state.slots, strict=True)
                for i, moment in enumerate(some)
            }
            difference = weights - self._join(SubnetState(state.weights, []))[0]
            finite = tf.reduce_all(tf.math.is_finite(difference))
            with tf.control_dependencies([losses]):
                signal = self.stop_signal.read_value()
            numbers = [tf.cast(number, tf.float32) for number in (right, signal, finite)]
            records.append(tf.stack([tf.reduce_mean(losses), *numbers]))
            differences.append(difference)
        self.moments.write(stays)
        mean, everyone = self.exchange.mean(differences, tf.stack(records), seeds)
        momentum = self.options.outer_momentum * momentum + mean
        step = mean + self.options.outer_momentum * momentum
        weights -= self.options.outer_learning_rate * step
        self.state.assign(tf.stack([weights, momentum]))
        return everyone

    def gather_weights(self) -> HeadState | None:
        """The shared weights and the outer momentum; in slots the replicas' moments."""
        state, slots = super().gather_weights(), self.moments.gather()
        if state:
            state.slots = slots
        return state

    def restore_weights(self, state: HeadState | None) -> None:
        """As Trainer.restore_weights."""
        self.moments.restore(state.slots if state else None)
        super().restore_weights(state)
