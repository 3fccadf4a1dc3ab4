"""Independent Subnetwork Training: rounds of dispatch, local steps and collect."""

import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.ist.exchange.checkpoints import gather, scatter
from sparse_ist_tf.ist.exchange.parcels import return_what_is_freed
from sparse_ist_tf.ist.exchange.places import Dealt
from sparse_ist_tf.ist.exchange.transfers import Arrays, Exchange, Learnt, Report
from sparse_ist_tf.ist.exchange.variables import per_worker_variable
from sparse_ist_tf.ist.head import HeadSpec, init_blocks
from sparse_ist_tf.ist.local import Batches, SlotOptimizer, make_steps_in_place
from sparse_ist_tf.ist.partition import Partition, make_partition, subnet_sizes
from sparse_ist_tf.ist.slots import SlotStore, Stay, staying
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

        config = options.optimizer_config()
        optimizers = {
            n: SlotOptimizer(config, [block_shape(part, n) for part in specs]) for n in self.mine
        }
        # A hosted subnet while it trains: of each parameter the weight and its moments.
        self.subnets = {
            n: [optimizer.columns(i) for i in range(len(specs))]
            for n, optimizer in optimizers.items()
        }
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
            losses = options.loss_options(scales, n, data)
            self._local[n] = make_steps_in_place(optimizers[n], losses)
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
        of_name = {part.name: i for i, part in enumerate(specs)}
        self.slots = SlotStore(
            staying(specs, self.num_slots, options.biases == "slot", options.moments == "slot"),
            lambda name, n: block_shape(specs[of_name[name]], n),
            self.hosted,
            link,
            lambda name, column, n: self.subnets[n][of_name[name]][column],
        )
        # Small subnets of a single worker may train at once.
        self._is_large = max(map(len, self.exchange.parcels.values())) > 1
        if self._is_large:
            return_what_is_freed()
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
        dealt = Dealt.of(self.partition(self.round), is_first=self._traced is None)
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
        places = self.exchange.places(dealt)
        arrays = {n: self._travelling(self.subnets[n]) for n in self.mine}
        starts = self.exchange.dispatch(places, arrays)
        # One after the other: what is ready crosses while the next one trains.
        is_in_turn = self.link.num_workers > 1 or self._is_large
        reports, before = {}, []
        for turn in self.exchange.turns():
            learnt = {}
            for subnet in set(turn) & set(self.mine):
                k = self.mine.index(subnet)
                self._begin(subnet)
                batches = Batches(features, labels, rows[k], rates)
                with tf.control_dependencies(before):
                    columns, losses, right = self._train_subnet(subnet, batches, first_step)
                before = [losses] if is_in_turn else []
                report = self._reporting(columns, losses, right)
                home = self._travelling(columns)
                learnt[subnet] = Learnt(home, starts[subnet], seeds[k], report)
            reports |= self.exchange.collect(places, turn, learnt)
        in_order = [reports[n] for n in sorted(reports)]
        if self.travels[-1]:
            # One after the other: a sum that TensorFlow sees whole it may add up in an order that
            # depends on P.
            parts = self.shares[:, None, None] * tf.stack([report.shared for report in in_order])
            zero = tf.zeros_like(self.shared)
            self.shared.assign(tf.foldl(tf.add, parts, zero, parallel_iterations=1))
        return tf.stack([report.record for report in in_order])

    def _travelling(self, columns) -> Arrays:
        """Of a subnet's arrays those that the exchange moves."""
        return [
            self._moving(some) for some, t in zip(columns[:-1], self.travels[:-1], strict=True) if t
        ]

    def _moving(self, columns) -> list:
        return [columns[0], *(columns[1 + i] for i in self.travelling)]

    def _begin(self, subnet):
        """Sets what a hosted subnet begins with beside what the exchange moves."""
        every = self.spec.parameters()
        specs = zip(every, self.subnets[subnet], self.travels, strict=True)
        for part, columns, travels in specs:
            moving = self._moving(columns) if travels else []
            if moving and part is every[-1]:
                shared = tf.unstack(tf.ensure_shape(self.shared, self.shared_shape), axis=1)
                for variable, value in zip(moving, shared, strict=True):
                    variable.assign(value)
            moved = {id(variable) for variable in moving}
            for column, variable in enumerate(columns):
                if id(variable) not in moved and Stay(part.name, column) not in self.slots.names:
                    variable.assign(tf.zeros(variable.shape))

    def _reporting(self, columns, losses, right):
        """What every worker gets to know of a subnet, once it is clear whether all is finite."""
        shared = tf.zeros(self.shared_shape)
        if self.travels[-1]:
            shared = tf.stack(self._moving(columns[-1]), axis=1)
        with tf.control_dependencies([losses]):
            signal = self.stop_signal.read_value()

        def report(is_finite):
            is_finite &= tf.reduce_all(tf.math.is_finite(shared))
            record = [tf.reduce_mean(losses), tf.cast(right, tf.float32), signal]
            return Report(shared, tf.stack([*record, tf.cast(is_finite, tf.float32)]))

        return report

    def _train_subnet(self, subnet, batches, first_step):
        """A subnet's local steps: what is to go home, the losses and right answers."""
        resets = not self.travelling and self.options.moments != "slot"
        start, losses, right = 0, [], 0
        last, columns = tf.shape(batches.rows)[0], self.subnets[subnet]
        for stop in [last] if self.options.keep_last_step else [last - 1, last]:
            updates = tf.constant(start) if resets else first_step + start
            rows, rates = batches.rows[start:stop], batches.rates[start:stop]
            some = batches._replace(rows=rows, rates=rates)
            loss, hits = self._local[subnet](some, first_step + start, updates)
            if stop is not last:  # the last step assigns others, these are as they are
                columns = [[variable.read_value() for variable in each] for each in columns]
            losses.append(loss)
            start, right = stop, right + hits
        return columns, tf.concat(losses, axis=0), right

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
