"""The server's side of rounds: subnets are trained by devices, and merged here."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping

import numpy as np

from sparse_ist_tf.devices.rounds.checking import Norms, RefusedError, check_answer
from sparse_ist_tf.devices.rounds.crew import Crew, Device
from sparse_ist_tf.devices.rounds.merging import MergedHead
from sparse_ist_tf.devices.wire.blocks import Columns, bytes_by_purpose
from sparse_ist_tf.devices.wire.engine import TRAIN, Letter
from sparse_ist_tf.devices.wire.records import Answer, Block, Layout, Plan, Record
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.ist.head import HeadSpec, init_parameters
from sparse_ist_tf.ist.local import SlotOptimizer
from sparse_ist_tf.ist.partition import Partition, make_partition, subnet_sizes
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.ist.trainer import Trainer, TrainerOptions, TrainingData
from sparse_ist_tf.streams import Stream
from sparse_ist_tf.workers.ledger import Ledger
from sparse_ist_tf.workers.link import Link

_POLL_S = 0.1
# Of a subnet's hidden sizes and the scales of its inputs: the .tflite file that trains it.
MakeFile = Callable[[tuple[int, ...], tuple[float, ...]], bytes]


class AskedToStopError(Exception):
    """A signal came while a round waited for devices."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a round waits.

    Args:
        least: devices that must be there before the first round.
        enough: answers that close a round; those of all devices where 0.
        round_s: seconds after which it closes in any case, once one answer has come.
    """

    least: int
    enough: int = 0
    round_s: float = 600.0


class DeviceTrainer(Trainer):
    """Independent Subnetwork Training whose subnets are trained by devices.

    A round ends when all have answered, or enough of them, or when its time is over. What nobody
    gives back stays as it is. A round in which nothing could be merged is asked for again.

    Args:
        spec: the head's shape.
        options: of the training; moments that stay in slots and biases that do so aren't for
            devices, which come and go.
        link: whose ledger counts blocks in both directions.
        crew: the devices.
        patience: with them.
        make_file: makes what trains a subnet.
    """

    def __init__(
        self,
        spec: HeadSpec,
        options: TrainerOptions,
        link: Link,
        crew: Crew,
        patience: Patience,
        make_file: MakeFile,
    ):
        nothing = np.zeros(0, np.int64)
        data = TrainingData(nothing, nothing, [np.zeros(1, np.int64)] * options.num_subnets)
        super().__init__(spec, options, link, data)
        self.crew, self.patience = crew, patience
        self._make_file, self._files = make_file, {}
        kinds = SlotOptimizer(options.optimizer_config(), [(1, 1)]).kinds
        self.num_slots, forms = len(kinds), options.forms
        self.travelling = tuple(
            i
            for i, kind in enumerate(kinds)
            if options.moments == "carry" and forms.moment(kind) != "reset"
        )
        self.kinds = tuple(kinds[i] for i in self.travelling)
        self.moments = tuple(forms.moment(kind) for kind in self.kinds)
        self.norms = Norms()
        self._plans: dict[int, Plan] = {}
        self._missing: list[str] = []
        self._least = patience.least
        values = init_parameters(spec, options.seed, options.initializer, options.num_subnets)
        weights = MergedHead.zero_moments(spec, values, self.moments)
        shares = np.array(options.capacities or [1] * options.num_subnets, np.float32)
        self.head = MergedHead(spec, weights, shares / shares.sum())

    def set_data(self, data: TrainingData) -> None:
        """Nothing: images and features stay on their devices."""
        self.data = data

    def partition(self, round_index: int) -> Partition:
        """Who holds which neuron in a round of this training."""
        options, hidden = self.options, tuple(self.spec.hidden)
        count, capacities = options.num_subnets, tuple(options.capacities)
        return make_partition(options.seed, round_index, hidden, count, capacities)

    def layout(self, subnet: int) -> Layout:
        """How a subnet crosses."""
        hidden = tuple(self._sizes(width)[subnet] for width in self.spec.hidden)
        forms = self.options.forms
        return Layout(
            self.spec.feature_dim,
            hidden,
            self.spec.num_classes,
            forms.weights,
            forms.differences,
            self.moments,
            self.travelling,
            self.kinds,
        )

    def _sizes(self, width: int) -> tuple[int, ...]:
        return subnet_sizes(width, self.options.num_subnets, self.options.capacities)

    def train_round(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """A round with the devices that are there; as Trainer.train_round.

        Raises:
            AskedToStopError: if a signal came before the round was closed.
        """
        while True:
            self._meet()
            asked = self._ask(steps)
            answers = self._wait(asked)
            if told := self._merge(asked, answers, steps):
                return told

    def run_round(self, steps: int | None = None) -> dict:
        """As Trainer.run_round, with who was missing."""
        record = super().run_round(steps)
        refused = sum(self.crew.journal.refusals.values())
        return record | {"missing": self._missing, "refused": refused}

    def told(self) -> dict:
        """As Trainer.told: what was seen of the devices."""
        return {"devices": self.crew.journal.as_dict()}

    @property
    def _where(self) -> str:
        return f"round {self.round}"

    def _meet(self) -> None:
        """Waits until a device is there; at first until there are as many as were asked for."""
        for letter in self.crew.wait_for(self._least, self._where, self._pause):
            self._take(letter, {}, {})  # too late for its round, or not asked for
        self._least = 1

    def _pause(self) -> None:
        if self.stop_signal.numpy():
            raise AskedToStopError
        time.sleep(_POLL_S)

    def _ask(self, steps: int) -> dict[int, Device]:
        """Sends each device its block."""
        devices, partition = self.crew.at_work(), self.partition(self.round)
        adjustments, self._plans = self._adjustments(devices), {}
        rates = [self.options.learning_rate(self.step + i) for i in range(steps)]
        for subnet, device in devices.items():
            layout, content = self.layout(subnet), self._file(subnet)
            digest = hashlib.sha256(content).hexdigest()
            rng = Stream.ROUNDING.rng(self.options.seed, self.round, subnet)
            first, second = rng.integers(1 << 31, size=2).tolist()
            plan = Plan(
                round=self.round,
                subnet=subnet,
                first_step=self.step,
                updates=self.step if self.travelling else 0,
                seed=self.options.seed,
                rounding=(first, second),
                rates=np.array(rates, np.float32),
                adjustment=adjustments[subnet],
                layout=layout,
                block=self.head.deal(partition, subnet, layout),
                file=digest,
                content=b"" if digest in device.files else content,
            )
            device.files.add(digest)
            self._plans[subnet] = plan
            sent = plan.to_record().to_bytes()
            self.crew.journal.sent += len(sent)
            self._count(plan.block)
            self.crew.engine.send(device.node, TRAIN, sent)
        return devices

    def _count(self, block: Block) -> None:
        self.link.go_on_from(Ledger(bytes_by_purpose(block)))

    def _file(self, subnet: int) -> bytes:
        hidden = tuple(self._sizes(width)[subnet] for width in self.spec.hidden)
        if hidden not in self._files:
            pairs = zip(self.spec.hidden, hidden, strict=True)
            scales = tuple(w / size if self.options.scale_inputs else 1.0 for w, size in pairs)
            self._files[hidden] = self._make_file(hidden, scales)
        return self._files[hidden]

    def _adjustments(self, devices: Mapping[int, Device]) -> dict[int, np.ndarray]:
        """As logit_adjustments, from how many images of each class devices have."""
        none = np.zeros(self.spec.num_classes, np.float32)
        if not self.options.logit_adjustment:
            return dict.fromkeys(devices, none)
        counts = {n: np.array(d.member.counts, np.float64) for n, d in devices.items()}
        every, found = np.sum([*counts.values()], axis=0), {}
        for n, own in counts.items():
            ratio = (own * every.sum() + every) / (every * (own.sum() + 1)).clip(1)
            found[n] = np.log(np.where(every > 0, ratio, 1.0)).astype(np.float32)
        return found

    def _wait(self, asked: Mapping[int, Device]) -> dict[int, tuple[Answer, Columns]]:
        """Good answers by subnet, once the round is to be closed."""
        good: dict[int, tuple[Answer, Columns]] = {}
        open_ = dict(asked)
        until = time.monotonic() + self.patience.round_s
        while open_ and (not good or time.monotonic() < until):
            for letter in self.crew.look(self._where):
                self._take(letter, open_, good)
            open_ = {n: d for n, d in open_.items() if d.node in self.crew.devices}
            if self.patience.enough and len(good) >= min(self.patience.enough, len(asked)):
                break
            if time.monotonic() > until and not good:
                break
            if open_:
                self._pause()
        return good

    def _take(self, letter: Letter, open_: dict[int, Device], good: dict) -> None:
        device = self.crew.devices.get(letter.node)
        if device is None:
            return
        if letter.error:  # it has gone, or lost what it was asked
            if open_.get(device.subnet) is device:
                del open_[device.subnet]
            return
        try:
            self.crew.journal.received += len(letter.content)
            answer = Answer.of_record(Record.of_bytes(letter.content))
            if answer.round < self.round:  # late: the round was closed without it
                raise RefusedError("another round", f"is of round {answer.round}, too late")
            if device.subnet not in open_ or open_[device.subnet] is not device:
                raise RefusedError("not asked for", "wasn't asked for")
            found = answer, check_answer(answer, self._plans[device.subnet])
        except RequestError as error:
            self._refuse(device, RefusedError("damaged", f"is damaged: {error}"), open_)
        except RefusedError as error:
            self._refuse(device, error, open_)
        else:
            self._count(answer.block)
            good[device.subnet] = found
            del open_[device.subnet]

    def _refuse(self, device: Device, error: RefusedError, open_: dict[int, Device]) -> None:
        if "too late" in str(error):  # an honest device may be slow: it isn't sent away
            self.crew.journal.refuse(device.name, error, self._where)
            return
        self.crew.strike(device, error, self._where)
        if open_.get(device.subnet) is device:
            del open_[device.subnet]

    def _merge(
        self, asked: Mapping[int, Device], answers: dict[int, tuple[Answer, Columns]], steps: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Losses and right answers of all subnets; None where there is nothing to merge."""
        learnt = {n: columns for n, (_, columns) in answers.items()}
        for subnet, text in self.norms.refusals(learnt, self._plans).items():
            self.crew.strike(asked[subnet], RefusedError("too large", text), self._where)
            del learnt[subnet], answers[subnet]
        journal, options = self.crew.journal, self.options
        self._missing = []
        for subnet in range(options.num_subnets):
            name = asked[subnet].name if subnet in asked else "nobody"
            seen = journal.of_device(name) if subnet in asked else None
            if subnet not in answers:
                self._missing.append(f"subnet {subnet} ({name})")
                if seen:
                    seen.missing += 1
            else:
                asked[subnet].strikes = 0
                seen.merged += 1
                seen.seconds += answers[subnet][0].seconds
        if self._missing:
            print(f"{self._where}: without {', '.join(self._missing)}", flush=True)
        if not learnt:
            journal.save()
            return None
        self.head.merge(self.partition(self.round), learnt)
        self.norms.merged(learnt)
        journal.save()
        told = [answer for answer, _ in answers.values()]
        loss, right = (float(np.mean([a.loss for a in told])), np.mean([a.right for a in told]))
        losses, rights = (np.full(options.num_subnets, value) for value in (loss, right))
        for subnet, (answer, _) in answers.items():
            losses[subnet], rights[subnet] = answer.loss, answer.right
        return losses, rights

    def gather_weights(self) -> HeadState:
        """As Trainer.gather_weights."""
        state = HeadState()
        for part in self.spec.parameters():
            columns = [array.copy() for array in self.head.weights.columns(part.name)]
            state.head.set_columns(part.name, columns)
        return state

    def restore_weights(self, state: HeadState) -> None:
        """As Trainer.restore_weights."""
        for part in self.spec.parameters():
            columns = [np.array(array, np.float32) for array in state.head.columns(part.name)]
            self.head.weights.set_columns(part.name, columns[: 1 + len(self.moments)])
