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
from sparse_ist_tf.ist.head import HeadSpec, init_parameter
from sparse_ist_tf.ist.local import SlotOptimizer, make_local_steps
from sparse_ist_tf.ist.partition import Partition, hosted_subnets, make_partition, subnet_sizes
from sparse_ist_tf.ist.variables import SubnetPartitionedVariable, per_worker_variable
from sparse_ist_tf.reports.ledger import Ledger

MOMENTS = ("carry", "reset")


@dataclasses.dataclass(frozen=True)
class TrainerOptions:
    """What a trainer needs to know besides the data.

    Args:
        num_subnets: N; for the synchronous baselines the number of replicas.
        capacities: one positive number per subnet; equal where empty.
        local_steps: steps of a round.
        moments: "carry" (they travel with their neurons) or "reset" (zero at every round).
        scale_inputs: multiply inputs from a hidden layer by (layer width / subnet width).
        batch_size: examples of one step of one subnet.
        label_smoothing: in [0, 1).
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
    scale_inputs: bool = True
    batch_size: int = 64
    label_smoothing: float = 0.0
    optimizer: Mapping | None = None
    learning_rate: Callable[[int], float] = lambda step: 1e-3
    seed: int = 0

    def optimizer_config(self) -> dict:
        """The optimizer, Adam where none is given."""
        return dict(self.optimizer or keras.optimizers.serialize(keras.optimizers.Adam()))


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
        self.set_features(features)
        self.round, self.step = 0, 0

    def set_features(self, features: np.ndarray) -> None:
        """Replaces the training features, as random masks do every epoch.

        Args:
            features: float32[n, feature_dim].
        """
        self.features = tf.constant(features, tf.float32)

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
            self._local[n] = make_local_steps(optimizers[n], scales, options.label_smoothing)
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
            ]
            self.shared = per_worker_variable((spec.num_classes, self.num_columns), "shared")
        # Behind the output bias two rows: the subnet's mean loss and its right answers.
        self.exchange = Exchange(
            link, self.variables, self.hosted, spec.num_classes + 2, self.num_columns, ledger
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
        for i, variable in enumerate(self.variables):
            value = init_parameter(variable.spec, self.options.seed, i)
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
        slot_step = first_step if self.options.moments == "carry" else tf.constant(0)
        trained, copies = [], []
        for k, subnet in enumerate(self.mine):
            weights, slots = self._unpack(k, subnet)
            weights, slots, losses, right = self._local[subnet](
                weights, slots, features, labels, rows[k], rates, slot_step
            )
            columns = [self._pack(w, s) for w, s in zip(weights, slots, strict=True)]
            trained.append(columns[:-1])
            record = tf.stack([tf.reduce_mean(losses), tf.cast(right, tf.float32)])
            record = tf.pad(record[:, None], [[0, 0], [0, self.num_columns - 1]])
            copies.append(tf.concat([columns[-1], record], axis=0))
        for variable, columns in zip(self.variables, zip(*trained, strict=True), strict=True):
            variable.blocks.assign(tf.concat(columns, axis=0))
        everyone = self.exchange.collect(plan, tf.stack(copies), keys[1])
        mean = tf.zeros_like(self.shared)
        for subnet, share in enumerate(self.shares):  # in this order for every P
            mean += share * everyone[subnet, :-2]
        self.shared.assign(mean)
        return everyone[:, -2:, 0]

    def _unpack(self, k, subnet):
        """Weights and moments of a hosted subnet from the blocks."""
        weights, slots = [], []
        for i, shape in enumerate(self.shapes[subnet]):
            if i < len(self.variables):
                sizes, block = self.variables[i].block_sizes, self.variables[i].blocks
                first, behind = sum(sizes[:k]), sum(sizes[: k + 1])
            else:
                block, first, behind = self.shared, 0, self.spec.num_classes
            block = tf.convert_to_tensor(block)
            columns = [tf.reshape(block[first:behind, c], shape) for c in range(self.num_columns)]
            weights.append(columns[0])
            slots.append(columns[1:] or [tf.zeros(shape)] * self.num_slots)
        return weights, slots

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
        wholes = self.exchange.gather()
        if wholes is None:
            return None
        wholes = [*wholes, self.shared.numpy()]
        state = {}
        for part, whole in zip(self.spec.parameters(), wholes, strict=True):
            for column in range(self.num_columns):
                name = part.name if column == 0 else f"{part.name}/moment_{column - 1}"
                state[name] = np.ascontiguousarray(whole[:, column].reshape(part.shape))
        return state

    def restore(self, state: Mapping[str, np.ndarray] | None, round_index: int, step: int) -> None:
        """Goes on from a gathered state, whatever the number of workers that made it.

        Called by all workers.

        Args:
            state: on the chief as gather returns it; None elsewhere.
            round_index: rounds done.
            step: steps done.
        """
        wholes = None
        if self.link.chief:
            wholes = []
            for part in self.spec.parameters():
                moments = (f"{part.name}/moment_{i}" for i in range(self.num_columns - 1))
                columns = [state[name].ravel() for name in (part.name, *moments)]
                wholes.append(np.stack(columns, axis=1))
        self.exchange.scatter(wholes[:-1] if wholes else None)
        shared = wholes[-1] if wholes else None
        self.shared.assign(self.link.broadcast(shared, (self.spec.num_classes, self.num_columns)))
        self.round, self.step = round_index, step
