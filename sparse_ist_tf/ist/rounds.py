"""Independent Subnetwork Training: rounds of dispatch, local steps and collect."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf

from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.ist.batches import BatchStream
from sparse_ist_tf.ist.exchange import Exchange, Link, Plan
from sparse_ist_tf.ist.head import HeadSpec, hidden_statistics, init_parameters
from sparse_ist_tf.ist.local import LossOptions, SlotOptimizer, make_local_steps
from sparse_ist_tf.ist.partition import Partition, hosted_subnets, make_partition, subnet_sizes
from sparse_ist_tf.ist.slots import SlotStore
from sparse_ist_tf.ist.variables import SubnetPartitionedVariable, per_worker_variable
from sparse_ist_tf.reports.ledger import Ledger

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

    Example:
        >>> from sparse_ist_tf.ist.rounds import TrainerOptions
        >>> TrainerOptions(num_subnets=4).local_steps
        20
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

    Example:
        See IstTrainer.
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


class IstTrainer(Trainer):
    """Independent Subnetwork Training.

    With one subnet it is plain training of the whole head, with one worker the simulator of many:
    there is no second code path.

    Source: paper section 3.2.

    Args:
        spec: the head's shape.
        options: of the training.
        link: to the other workers.
        features: float32[n, feature_dim].
        labels: int32[n].
        shards: int64 arrays, the examples of each subnet.
        ledger: where bytes are counted.

    Example:
        >>> import numpy as np, tensorflow as tf
        >>> from sparse_ist_tf.ist.exchange import Link
        >>> from sparse_ist_tf.ist.head import HeadSpec
        >>> from sparse_ist_tf.ist.rounds import IstTrainer, TrainerOptions
        >>> from sparse_ist_tf.reports.ledger import Ledger
        >>> features = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        >>> trainer = IstTrainer(HeadSpec(8, (6, 6), 2), TrainerOptions(num_subnets=2),
        ...                      Link(tf.distribute.get_strategy(), 0, 1), features,
        ...                      (features[:, 0] > 0).astype("int32"),
        ...                      [np.arange(64)] * 2, Ledger())
        >>> trainer.run_round()["step"]
        20
    """

    def __init__(self, spec, options, link, features, labels, shards, ledger):
        super().__init__(spec, options, link, features, labels, shards, ledger)
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
                ledger=ledger,
            )
        # Behind the output bias, if it travels, two rows: the mean loss and the right answers.
        shared_size = spec.num_classes * self.travels[-1] + 2
        self.exchange = Exchange(
            link, self.variables, self.hosted, shared_size, self.num_columns, ledger
        )
        self._planner = ThreadPoolExecutor(1)
        self._plans: dict = {}
        self._traced = None
        self._set_initial_weights()

    def partition(self, round_index: int) -> Partition:
        """Who holds which neuron in a round."""
        options = self.options
        return make_partition(
            options.seed,
            round_index,
            tuple(self.spec.hidden),
            options.num_subnets,
            tuple(options.capacities),
        )

    def _set_initial_weights(self):
        wholes = []
        options = self.options
        initial = init_parameters(self.spec, options.seed, options.initializer, options.num_subnets)
        for variable in self.variables:
            value = initial[variable.spec.name]
            whole = np.zeros((value.size, self.num_columns), np.float32)
            whole[:, 0] = value.ravel()
            wholes.append(whole)
        self.exchange.set_homes(wholes)

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

    def _run_round(self, steps):
        plan = self._plan(self.round)
        rows, rates = self._batches(steps)
        tensors = tf.nest.map_structure(
            tf.constant, (plan.serve, plan.hold, plan.fill, np.int32(plan.chunk))
        )
        keys = (self.link.next_key(), self.link.next_key())
        args = (tensors, self.features, self.labels, rows, rates, tf.constant(self.step), keys)
        if self._traced is None:
            self._traced = self._trace(args)
        report = self.link.strategy.run(self._traced, args=args).numpy()
        self.exchange.count(plan.chunk)
        return report[:, 0], report[:, 1]

    def _trace(self, args):
        def open_shape(tensor):
            shape = [None] * tensor.shape.rank if tensor.dtype == tf.int32 else tensor.shape
            return tf.TensorSpec(shape, tensor.dtype)

        plan, features, labels, rows, rates, step, keys = tf.nest.map_structure(open_shape, args)
        rows = tf.TensorSpec((len(self.mine), None, self.options.batch_size), tf.int32)
        features = tf.TensorSpec((None, self.spec.feature_dim), tf.float32)
        rates = tf.TensorSpec((None,), tf.float32)
        signature = (plan, features, labels, rows, rates, step, keys)
        return tf.function(self._round, input_signature=signature)

    def _round(self, plan, features, labels, rows, rates, first_step, keys):
        plan = Plan(*plan)
        self.exchange.dispatch(plan, keys[0])
        trained, copies, kept, stays = [], [], self.slots.read(), {}
        for k, subnet in enumerate(self.mine):
            state = self._unpack(k, subnet, kept[subnet])
            columns, stays[subnet], losses, right = self._train_subnet(
                subnet, state, features, labels, rows[k], rates, first_step
            )
            trained.append([columns[i] for i in range(len(columns) - 1) if self.travels[i]])
            record = tf.stack([tf.reduce_mean(losses), tf.cast(right, tf.float32)])
            record = tf.pad(record[:, None], [[0, 0], [0, self.num_columns - 1]])
            copies.append(tf.concat([*columns[-1:][: self.travels[-1]], record], axis=0))
        self.slots.write(stays)
        for variable, columns in zip(self.variables, zip(*trained, strict=True), strict=True):
            variable.blocks.assign(tf.concat(columns, axis=0))
        everyone = self.exchange.collect(plan, tf.stack(copies), keys[1])
        if self.travels[-1]:
            mean = tf.zeros_like(self.shared)
            for subnet, share in enumerate(self.shares):  # in this order for every P
                mean += share * everyone[subnet, :-2]
            self.shared.assign(mean)
        return everyone[:, -2:, 0]

    def _train_subnet(self, subnet, state, features, labels, rows, rates, first_step):
        """A subnet's local steps: what travels and what stays, the losses and right answers."""
        resets = self.options.moments == "reset"
        weights, slots = state
        parts, start, losses, right = [], 0, [], 0
        last = tf.shape(rows)[0]
        for stop in [last] if self.options.keep_last_step else [last - 1, last]:
            updates = tf.constant(start) if resets else first_step + start
            data = (features, labels, rows[start:stop], rates[start:stop])
            weights, slots, some, hits = self._local[subnet](
                weights, slots, *data, first_step + start, updates
            )
            parts.append((weights, slots))
            losses.append(some)
            start, right = stop, right + hits
        names = [part.name for part in self.spec.parameters()]
        stays = dict(zip(names, weights, strict=True))
        for name, moments in zip(names, slots, strict=True):
            stays |= {f"{name}/moment_{i}": moment for i, moment in enumerate(moments)}
        columns = [self._pack(w, s) for w, s in zip(*parts[0], strict=True)]
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
            weights.append(columns[0] if travels else kept[part.name])
            names = [f"{part.name}/moment_{i}" for i in range(self.num_slots)]
            moments = columns[1:] or [kept.get(name, tf.zeros(shape)) for name in names]
            slots.append(moments)
        return weights, slots

    def _columns(self, block, first, behind, shape):
        block = tf.convert_to_tensor(block)
        return [tf.reshape(block[first:behind, c], shape) for c in range(self.num_columns)]

    def _pack(self, weight, slots):
        """[entries, columns] of one parameter."""
        columns = [weight, *slots][: self.num_columns]
        flat = tf.stack([tf.reshape(column, (-1,)) for column in columns])
        return tf.transpose(flat)  # a third of the time of stacking along the last axis

    def gather(self) -> dict[str, np.ndarray] | None:
        """The whole state, on the chief alone; called by all workers.

        Returns:
            {"dense_0/kernel": ..., "dense_0/kernel/moment_0": ..., ...} in the parameters' shapes,
            or None on the other workers.
        """
        wholes, state = self.exchange.gather(), self.slots.gather()
        if wholes is None:
            return None
        wholes = iter([*wholes, self.shared.numpy()])
        for part, travels in zip(self.spec.parameters(), self.travels, strict=True):
            if not travels:
                state[part.name] = np.zeros(part.shape, np.float32)
                continue
            whole = next(wholes)
            for column in range(self.num_columns):
                name = part.name if column == 0 else f"{part.name}/moment_{column - 1}"
                state[name] = np.ascontiguousarray(whole[:, column].reshape(part.shape))
        return self._with_statistics(state)

    def restore(self, state: Mapping[str, np.ndarray] | None, round_index: int, step: int) -> None:
        """Goes on from a gathered state, whatever the number of workers that made it.

        Called by all workers.

        Args:
            state: on the chief as gather returns it; None elsewhere.
            round_index: rounds done.
            step: steps done.
        """
        self._restore_statistics(state)
        self.slots.restore(state)
        specs = [part for part, t in zip(self.spec.parameters(), self.travels, strict=True) if t]
        wholes, shared = None, None
        if self.link.chief:
            wholes = []
            for part in specs:
                moments = (f"{part.name}/moment_{i}" for i in range(self.num_columns - 1))
                columns = [state[name].ravel() for name in (part.name, *moments)]
                wholes.append(np.stack(columns, axis=1))
        if self.travels[-1]:
            shared = wholes.pop() if wholes else None
            shape = (self.spec.num_classes, self.num_columns)
            self.shared.assign(self.link.broadcast(shared, shape))
        self.exchange.scatter(wholes)
        self.round, self.step = round_index, step
