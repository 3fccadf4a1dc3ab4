"""Independent Subnetwork Training: rounds of dispatch, local steps and collect."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from sparse_ist_tf.ist.exchange.transfers import Exchange, Plan
from sparse_ist_tf.ist.exchange.variables import SubnetPartitionedVariable, per_worker_variable
from sparse_ist_tf.ist.head import HeadSpec, init_blocks
from sparse_ist_tf.ist.local import Batches, SlotOptimizer, SubnetState, make_local_steps
from sparse_ist_tf.ist.partition import Partition, make_partition, subnet_sizes
from sparse_ist_tf.ist.slots import SlotStore
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.ist.trainer import Trainer, TrainerOptions, TrainingData
from sparse_ist_tf.ist.wholes import Wholes
from sparse_ist_tf.tracing import traced
from sparse_ist_tf.workers.link import Link


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
        self.num_slots = next(iter(optimizers.values())).num_slots
        self.num_columns = 1 + self.num_slots * (options.moments == "carry")
        self._local = {}
        for n in self.mine:
            pairs = zip(spec.hidden, layers, strict=True)
            scales = [w / sizes[n] if options.scale_inputs else 1.0 for w, sizes in pairs]
            self._local[n] = make_local_steps(optimizers[n], options.loss_options(scales, n))
        # Of each parameter, does its weight travel with the neurons?
        self.travels = [len(part.shape) == 2 or options.biases == "carry" for part in specs]
        shares = options.capacities or (1,) * options.num_subnets
        self.shares = np.array(shares, np.float32) / np.float32(sum(shares))
        with link.strategy.scope():
            self.variables = [
                SubnetPartitionedVariable(
                    part,
                    self.num_columns,
                    link.worker,
                    link.num_workers,
                    [int(np.prod(self.shapes[n][i])) for n in self.mine],
                )
                for i, part in enumerate(specs[:-1])
                if self.travels[i]
            ]
            self.shared = per_worker_variable((spec.num_classes, self.num_columns), "shared")
            self.slots = SlotStore(
                specs,
                block_shape,
                self.hosted,
                link,
                self.num_slots,
                biases=options.biases == "slot",
                moments=options.moments == "slot",
            )
        # Behind the output bias, if it travels, three rows: the mean loss, the right answers, and
        # the signal that asks to stop.
        shared_size = spec.num_classes * self.travels[-1] + 3
        self.exchange = Exchange(link, self.variables, self.hosted, shared_size, self.num_columns)
        self._stopped_by = 0
        self._planner = ThreadPoolExecutor(1)
        self._plans: dict = {}
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
        options = self.options
        travelling = [i for i, t in enumerate(self.travels[:-1]) if t]
        self.exchange.set_homes(
            init_blocks(
                self.spec.parameters()[i],
                options.seed,
                i,
                options.initializer,
                options.num_subnets,
                variable.skew.row_blocks(1),
            )
            for i, variable in zip(travelling, self.variables, strict=True)
        )

    def _plan(self, round_index: int) -> Plan:
        """The plan of a round; that of the next one is worked out meanwhile."""
        key = round_index if self.options.num_subnets > 1 else 0
        for wanted in (key, key + 1 if self.options.num_subnets > 1 else key):
            if wanted not in self._plans:
                job = self._planner.submit(lambda r: self.exchange.plan(self.partition(r)), wanted)
                self._plans[wanted] = job
        for old in [r for r in self._plans if r < key]:
            del self._plans[old]
        return self._plans[key].result()

    def train_round(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """A round of dispatch, local steps and collect; as Trainer.train_round."""
        plan = self._plan(self.round)
        rows, rates = self._batches(steps)
        parts = (plan.serve, plan.hold, np.int32(plan.chunk))
        tensors = tf.nest.map_structure(tf.constant, parts)
        keys = (self.link.next_key(), self.link.next_key())
        args = (tensors, self.features, self.labels, rows, rates, tf.constant(self.step), keys)
        if self._traced is None:
            self._traced = self._trace(args)
        report = self.link.run(self._traced, args)
        self._stopped_by = int(report[:, 2].max())
        return report[:, 0], report[:, 1]

    def asked_to_stop(self) -> int:
        """As Trainer.asked_to_stop."""
        return self._stopped_by

    def _trace(self, args):
        def open_shape(tensor):
            shape = [None] * tensor.shape.rank if tensor.dtype == tf.int32 else tensor.shape
            return tf.TensorSpec(shape, tensor.dtype)

        plan, features, labels, rows, rates, step, keys = tf.nest.map_structure(open_shape, args)
        rows = tf.TensorSpec((len(self.mine), None, self.options.batch_size), tf.int32)
        features = tf.TensorSpec((None, self.spec.feature_dim), tf.float32)
        rates = tf.TensorSpec((None,), tf.float32)
        signature = (plan, features, labels, rows, rates, step, keys)
        return traced(self._round, input_signature=signature)

    def _round(self, plan, features, labels, rows, rates, first_step, keys):
        plan = Plan(*plan)
        self.exchange.dispatch(plan, keys[0])
        trained, copies, kept, stays = [], [], self.slots.read(), {}
        for k, subnet in enumerate(self.mine):
            state = self._unpack(k, subnet, kept[subnet])
            batches = Batches(features, labels, rows[k], rates)
            made = self._train_subnet(subnet, state, batches, first_step)
            columns, stays[subnet], losses, right = made
            trained.append([columns[i] for i in range(len(columns) - 1) if self.travels[i]])
            with tf.control_dependencies([losses]):
                signal = self.stop_signal.read_value()
            record = tf.stack([tf.reduce_mean(losses), tf.cast(right, tf.float32), signal])
            record = tf.pad(record[:, None], [[0, 0], [0, self.num_columns - 1]])
            copies.append(tf.concat([*columns[-1:][: self.travels[-1]], record], axis=0))
        self.slots.write(stays)
        for variable, columns in zip(self.variables, zip(*trained, strict=True), strict=True):
            variable.blocks.assign(tf.concat(columns, axis=0))
        everyone = self.exchange.collect(plan, tf.stack(copies), keys[1])
        if self.travels[-1]:
            # One after the other: a sum that TensorFlow sees whole it may add up in an order that
            # depends on P.
            parts = self.shares[:, None, None] * everyone[:, :-3]
            zero = tf.zeros_like(self.shared)
            self.shared.assign(tf.foldl(tf.add, parts, zero, parallel_iterations=1))
        return everyone[:, -3:, 0]

    def _train_subnet(self, subnet, state, batches, first_step):
        """A subnet's local steps: what travels and what stays, the losses and right answers."""
        resets = self.options.moments == "reset"
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
        columns = [self._pack(w, s) for w, s in zip(*states[1], strict=True)]
        return columns, stays, tf.concat(losses, axis=0), right

    def _unpack(self, k, subnet, kept):
        """Weights and moments of a hosted subnet, from the blocks and from what it has kept."""
        weights, slots = [], []
        variables = iter(self.variables)
        parts = zip(self.spec.parameters(), self.shapes[subnet], self.travels, strict=True)
        for i, (part, shape, travels) in enumerate(parts):
            columns = []
            if travels and i < len(self.travels) - 1:
                variable = next(variables)
                sizes, block = variable.block_sizes, variable.blocks
                columns = self._columns(block, sum(sizes[:k]), sum(sizes[: k + 1]), shape)
            elif travels:
                columns = self._columns(self.shared, 0, self.spec.num_classes, shape)
            weights.append(columns[0] if travels else kept[part.name, 0])
            columns = columns[1:] or [
                kept.get((part.name, 1 + i), tf.zeros(shape)) for i in range(self.num_slots)
            ]
            slots.append(columns)
        return SubnetState(weights, slots)

    def _columns(self, block, first, behind, shape):
        block = tf.convert_to_tensor(block)
        return [tf.reshape(block[first:behind, c], shape) for c in range(self.num_columns)]

    def _pack(self, weight, slots):
        """[entries, columns] of one parameter."""
        columns = [weight, *slots][: self.num_columns]
        flat = tf.stack([tf.reshape(column, (-1,)) for column in columns])
        return tf.transpose(flat)  # a third of the time of stacking along the last axis

    def gather_weights(self) -> HeadState | None:
        """The merged head, and what stays in slots; as Trainer.gather_weights."""
        wholes = self.exchange.gather(Wholes(self.scratch))
        slots = self.slots.gather()
        if wholes is None:
            return None
        state = HeadState(slots=slots)
        shared = [np.ascontiguousarray(column) for column in self.shared.numpy().T]
        found = iter([*wholes, shared])
        for part, travels in zip(self.spec.parameters(), self.travels, strict=True):
            # What never travelled is untrained in the merged head.
            columns = next(found) if travels else [np.zeros(part.shape, np.float32)]
            state.head.set_columns(part.name, columns)
        return state

    def restore_weights(self, state: HeadState | None) -> None:
        """As Trainer.restore_weights."""
        self.slots.restore(state.slots if state else None)
        wholes = None
        if state:
            pairs = zip(self.spec.parameters(), self.travels, strict=True)
            specs = [part for part, travels in pairs if travels]
            wholes = [state.head.columns(part.name)[: self.num_columns] for part in specs]
        if self.travels[-1]:
            shared = np.stack(wholes.pop(), axis=1) if wholes else None
            shape = (self.spec.num_classes, self.num_columns)
            self.shared.assign(self._from_chief(shared, shape))
        self.exchange.scatter(wholes)
