"""Independent Subnetwork Training: rounds of dispatch, local steps and collect."""

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.ist.exchange.checkpoints import gather, scatter
from sparse_ist_tf.ist.exchange.transfers import Dealt, Exchange, Report
from sparse_ist_tf.ist.exchange.variables import per_worker_variable
from sparse_ist_tf.ist.head import HeadSpec, init_blocks
from sparse_ist_tf.ist.local import Batches, SlotOptimizer, SubnetState, make_local_steps
from sparse_ist_tf.ist.partition import Partition, make_partition, subnet_sizes
from sparse_ist_tf.ist.slots import SlotStore
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.ist.trainer import Trainer, TrainerOptions, TrainingData
from sparse_ist_tf.ist.wholes import Wholes
from sparse_ist_tf.streams import Stream
from sparse_ist_tf.tracing import traced
from sparse_ist_tf.workers.link import Link

# What every worker is told of a subnet's round; the signal is the one that asks to stop.
_RECORD = ("mean loss", "right answers", "signal", "finite")


class IstTrainer(Trainer):
    """Independent Subnetwork Training.

    With one subnet it is plain training of the whole head, with one worker the simulator of many:
    there is no second code path.

    Source: paper section 3.2.

    Raises:
        RequestError: if the optimizer's moments can't travel, or as Trainer.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.ist.head import HeadSpec
        >>> from sparse_ist_tf.ist.rounds import IstTrainer
        >>> from sparse_ist_tf.ist.trainer import TrainerOptions, TrainingData
        >>> from sparse_ist_tf.workers.link import Link
        >>> features = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        >>> labels = (features[:, 0] > 0).astype("int32")
        >>> data = TrainingData(features, labels, [np.arange(64)] * 2)
        >>> options = TrainerOptions(num_subnets=2)
        >>> trainer = IstTrainer(HeadSpec(8, (6, 6), 2), options, Link.alone(), data)
        >>> trainer.run_round()["step"]
        20
    """

    def __init__(self, spec: HeadSpec, options: TrainerOptions, link: Link, data: TrainingData):
        super().__init__(spec, options, link, data)
        layers = [subnet_sizes(w, options.num_subnets, options.capacities) for w in spec.hidden]
        specs = spec.parameters()

        def block_shape(part, subnet):
            pairs = zip(part.shape, part.layers, strict=True)
            return tuple(s if layer is None else layers[layer][subnet] for s, layer in pairs)

        self.shapes = {n: [block_shape(part, n) for part in specs] for n in self.mine}
        config = options.optimizer_config()
        optimizers = {n: SlotOptimizer(config, self.shapes[n]) for n in self.mine}
        kinds = next(iter(optimizers.values())).kinds
        self.num_slots = len(kinds)
        forms = options.forms
        # Of an optimizer's moments those that go with the neurons.
        self.travelling = [
            i
            for i, kind in enumerate(kinds)
            if options.moments == "carry" and forms.moment(kind) != "reset"
        ]
        self._local = {}
        for n in self.mine:
            pairs = zip(spec.hidden, layers, strict=True)
            scales = [w / sizes[n] if options.scale_inputs else 1.0 for w, sizes in pairs]
            self._local[n] = make_local_steps(optimizers[n], options.loss_options(scales, n, data))
        # Of each parameter, does its weight travel with the neurons?
        self.travels = [len(part.shape) == 2 or options.biases == "carry" for part in specs]
        shares = options.capacities or (1,) * options.num_subnets
        self.shares = np.array(shares, np.float32) / np.float32(sum(shares))
        partitioned = [part for part, t in zip(specs[:-1], self.travels[:-1], strict=True) if t]
        moments = [kinds[i] for i in self.travelling]
        # The output bias, if it travels, belongs to all subnets.
        self.shared_shape = spec.num_classes * self.travels[-1], 1 + len(moments)
        with link.strategy.scope():
            self.exchange = Exchange(
                link,
                partitioned,
                [forms.columns(part, moments) for part in partitioned],
                self.hosted,
                layers,
                (self.shared_shape, (len(_RECORD),)),
            )
            self.shared = per_worker_variable((spec.num_classes, 1 + len(moments)), "shared")
            self.slots = SlotStore(
                specs,
                block_shape,
                self.hosted,
                link,
                self.num_slots,
                biases=options.biases == "slot",
                moments=options.moments == "slot",
            )
        self._stopped_by = 0
        self._traced = None
        self._set_initial_weights()

    @classmethod
    def partition_of(
        cls, options: TrainerOptions, hidden: tuple[int, ...], round_index: int
    ) -> Partition | None:
        """Who holds which neuron in a round; as Trainer.partition_of."""
        count, capacities = options.num_subnets, tuple(options.capacities)
        return make_partition(options.seed, round_index, tuple(hidden), count, capacities)

    def partition(self, round_index: int) -> Partition:
        """Who holds which neuron in a round of this training."""
        return self.partition_of(self.options, self.spec.hidden, round_index)

    def _set_initial_weights(self):
        options, positions = self.options, {p.name: i for i, p in enumerate(self.spec.parameters())}
        for parameter in self.exchange.parameters:
            variable, part = parameter.variables[0], parameter.spec
            rows = list(variable.row_blocks())
            kind, count = options.initializer, options.num_subnets
            blocks = init_blocks(part, options.seed, positions[part.name], kind, count, rows)
            for some, block in zip(rows, blocks, strict=True):
                shard = variable.cut(block[..., 0], some, self.link.worker)
                variable.set_home_rows(some, shard)

    def train_round(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """A round of dispatch, local steps and collect; as Trainer.train_round."""
        dealt = Dealt.of(self.partition(self.round), self.link.next_key())
        rows, rates = self._batches(steps)
        seeds = [Stream.ROUNDING.rng(self.options.seed, self.round, n) for n in self.mine]
        seeds = tf.constant(np.stack([rng.integers(1 << 31, size=2) for rng in seeds]), tf.int32)
        step = tf.constant(self.step)
        args = (dealt, self.features, self.labels, rows, rates, step, seeds)
        if self._traced is None:
            self._traced = self._trace(args)
        records = self.link.run(self._traced, args)
        losses, right, signals, finite = records.T
        for subnet in np.flatnonzero(finite == 0):
            raise RunError(
                f"round {self.round}, subnet {subnet}: what it learnt is not finite; "
                "lower config.learning_rate"
            )
        self._stopped_by = int(signals.max())
        return losses, right

    def asked_to_stop(self) -> int:
        """As Trainer.asked_to_stop."""
        return self._stopped_by

    def _trace(self, args):
        def open_shape(tensor):
            shape = [None] * tensor.shape.rank if tensor.dtype == tf.int32 else tensor.shape
            return tf.TensorSpec(shape, tensor.dtype)

        _, features, labels, rows, rates, step, seeds = tf.nest.map_structure(open_shape, args)
        dealt = tf.nest.map_structure(tf.TensorSpec.from_tensor, args[0])
        rows = tf.TensorSpec((len(self.mine), None, self.options.batch_size), tf.int32)
        features = tf.TensorSpec((None, self.spec.feature_dim), tf.float32)
        rates = tf.TensorSpec((None,), tf.float32)
        signature = (dealt, features, labels, rows, rates, step, seeds)
        return traced(self._round, input_signature=signature)

    def _round(self, dealt, features, labels, rows, rates, first_step, seeds):
        places, kept = self.exchange.places(dealt), self.slots.read()
        blocks = self.exchange.dispatch(places)
        reports, stays, before = [], {}, []
        for subnet in range(self.options.num_subnets):
            if subnet not in self.mine:
                reports.append(self.exchange.take_back(places, subnet))
                continue
            k = self.mine.index(subnet)
            # One after the other: what is ready crosses while the next one trains.
            with tf.control_dependencies(before):
                start = tf.nest.map_structure(tf.identity, blocks[subnet])
            state = self._unpack(subnet, start, kept[subnet])
            batches = Batches(features, labels, rows[k], rates)
            made = self._train_subnet(subnet, state, batches, first_step)
            columns, stays[subnet], losses, right = made
            before = [losses] if self.link.num_workers > 1 else []
            with tf.control_dependencies([losses]):
                signal = self.stop_signal.read_value()
            back, shared = self._given_back(start, columns)
            learnt = tf.nest.flatten([back, shared])
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(part)) for part in learnt])
            record = [tf.reduce_mean(losses), tf.cast(right, tf.float32), signal]
            record = tf.stack([*record, tf.cast(finite, tf.float32)])
            reports.append(Report(shared, record))
            self.exchange.give_back(places, subnet, back, seeds[k], reports[-1])
        self.slots.write(stays)
        if self.travels[-1]:
            # One after the other: a sum that TensorFlow sees whole it may add up in an order that
            # depends on P.
            parts = self.shares[:, None, None] * tf.stack([report.shared for report in reports])
            zero = tf.zeros_like(self.shared)
            self.shared.assign(tf.foldl(tf.add, parts, zero, parallel_iterations=1))
        return tf.stack([report.record for report in reports])

    def _given_back(self, start, columns):
        """Of what a subnet made what goes home, and its copy of the output bias."""
        travelled = (values for values, t in zip(columns[:-1], self.travels[:-1], strict=True) if t)
        back = []
        for parameter, old, new in zip(self.exchange.parameters, start, travelled, strict=True):
            pairs = zip(parameter.columns, old, map(parameter.to_block, new), strict=True)
            back.append([now - old if c.is_difference else now for c, old, now in pairs])
        if not self.travels[-1]:
            return back, tf.zeros(self.shared_shape)
        return back, tf.stack(columns[-1], axis=1)

    def _train_subnet(self, subnet, state, batches, first_step):
        """A subnet's local steps: what travels and what stays, the losses and right answers."""
        resets = not self.travelling and self.options.moments != "slot"
        states, start, losses, right = [state], 0, [], 0
        last = tf.shape(batches.rows)[0]
        for stop in [last] if self.options.keep_last_step else [last - 1, last]:
            updates = tf.constant(start) if resets else first_step + start
            rows, rates = batches.rows[start:stop], batches.rates[start:stop]
            some = batches._replace(rows=rows, rates=rates)
            state, loss, hits = self._local[subnet](states[-1], some, first_step + start, updates)
            states.append(state)
            losses.append(loss)
            start, right = stop, right + hits
        stays = {}
        for part, weight, moments in zip(self.spec.parameters(), *states[-1], strict=True):
            stays |= {(part.name, i): column for i, column in enumerate([weight, *moments])}
        columns = [
            [weight, *(moments[i] for i in self.travelling)]
            for weight, moments in zip(*states[1], strict=True)
        ]
        return columns, stays, tf.concat(losses, axis=0), right

    def _unpack(self, subnet, blocks, kept):
        """Weights and moments of a hosted subnet, from its blocks and from what it has kept."""
        weights, slots = [], []
        parameters = iter(zip(self.exchange.parameters, blocks, strict=True))
        specs = zip(self.spec.parameters(), self.shapes[subnet], self.travels, strict=True)
        for i, (part, shape, travels) in enumerate(specs):
            columns = []
            if travels and i == len(self.travels) - 1:
                shared = tf.ensure_shape(self.shared, (shape[0], self.shared_shape[1]))
                columns = tf.unstack(shared, axis=1)
            elif travels:
                parameter, columns = next(parameters)
                columns = [parameter.of_block(block) for block in columns]
            weights.append(columns[0] if travels else kept[part.name, 0])
            travelled = dict(zip(self.travelling, columns[1:], strict=False))
            moments = [
                travelled[i] if i in travelled else kept.get((part.name, 1 + i))
                for i in range(self.num_slots)
            ]
            slots.append([tf.zeros(shape) if m is None else m for m in moments])
        return SubnetState(weights, slots)

    def _variables(self):
        return [variable for p in self.exchange.parameters for variable in p.variables]

    def gather_weights(self) -> HeadState | None:
        """The merged head, and what stays in slots; as Trainer.gather_weights."""
        wholes = list(gather(self.link, self._variables(), Wholes(self.scratch)))
        slots = self.slots.gather()
        if not self.link.chief:
            return None
        state, found = HeadState(slots=slots), iter(wholes)
        shared = [np.ascontiguousarray(column) for column in self.shared.numpy().T]
        specs, count = self.spec.parameters(), 1 + len(self.travelling)
        for part, travels in zip(specs, self.travels, strict=True):
            if not travels:  # what never travelled is untrained in the merged head
                columns = [np.zeros(part.shape, np.float32)]
            else:
                columns = shared if part is specs[-1] else [next(found) for _ in range(count)]
            state.head.set_columns(part.name, columns)
        return state

    def restore_weights(self, state: HeadState | None) -> None:
        """As Trainer.restore_weights."""
        self.slots.restore(state.slots if state else None)
        wholes = shared = None
        if state:
            count = 1 + len(self.travelling)
            names = [p.spec.name for p in self.exchange.parameters]
            wholes = [array for name in names for array in state.head.columns(name)[:count]]
            shared = state.head.columns(self.spec.parameters()[-1].name)[:count]
        if self.travels[-1]:
            whole = np.stack(shared, axis=1) if shared else None
            self.shared.assign(self._from_chief(whole, self.shared_shape))
        scatter(self.link, self._variables(), wholes)
