"""Devices in this process: an engine without a network, whose devices train in NumPy."""

import dataclasses

import numpy as np
from numpy_subnet import NumpySubnet

from sparse_ist_tf.devices.device.subnet import train_round
from sparse_ist_tf.devices.rounds.crew import Crew
from sparse_ist_tf.devices.rounds.journal import Journal
from sparse_ist_tf.devices.rounds.trainer import DeviceTrainer, Patience
from sparse_ist_tf.devices.wire.engine import JOIN, TRAIN, Letter
from sparse_ist_tf.devices.wire.records import Answer, Joined, Member, Plan, Record
from sparse_ist_tf.workers.link import Link


@dataclasses.dataclass
class FakeDevice:
    """A device: its features and labels; `spoil` changes an answer before it is sent."""

    features: np.ndarray
    labels: np.ndarray
    num_classes: int
    name: str = "device"
    batch_size: int = 8
    optimizer: str = "adam"
    capacity: float = 1.0
    refusal: str = ""
    spoil: object = None
    silent: object = lambda plan: False
    plans: list = dataclasses.field(default_factory=list)

    def answer(self, kind, content):
        record = Record.of_bytes(content)
        if kind == JOIN:
            counts = np.bincount(self.labels, minlength=self.num_classes)
            counts = tuple(counts.tolist())
            return Member(self.name, counts, self.capacity, 0.0, self.refusal).to_record()
        if kind != TRAIN:
            return None
        plan = Plan.of_record(record)
        self.plans.append(plan)
        if self.silent(plan):
            return None
        sizes = (plan.layout.feature_dim, *plan.layout.hidden, plan.layout.num_classes)
        scales = [float(s) for s in plan.content.decode().split()] if plan.content else self.scales
        self.scales = scales
        subnet = NumpySubnet(sizes, scales, self.batch_size, self.optimizer)
        answer = train_round(plan, subnet, self.features, self.labels)
        if self.spoil:
            answer = self.spoil(plan, answer)
        return answer.to_record() if isinstance(answer, Answer) else answer


class FakeEngine:
    """Carries letters between a server and FakeDevices, at once."""

    def __init__(self, devices):
        self.devices, self.letters, self.sent = dict(enumerate(devices)), [], []

    def nodes(self):
        return set(self.devices)

    def send(self, node, kind, content):
        self.sent.append((node, kind))
        if node not in self.devices:
            return
        record = self.devices[node].answer(kind, content)
        if record is not None:
            content = record if isinstance(record, bytes) else record.to_bytes()
            self.letters.append(Letter(node, kind, content))

    def receive(self):
        letters, self.letters = self.letters, []
        return letters


def make_trainer(devices, spec, options, folder, **patience):
    """A trainer of devices in this process."""
    engine = FakeEngine(devices)
    names = tuple(f"class {i}" for i in range(spec.num_classes))
    joined = Joined(names, {}, 32, 4, b"encoder", options.batch_size)
    crew = Crew(engine, Journal.of(folder / "devices.json"), joined, options.num_subnets)
    patience = Patience(**{"least": len(devices), "round_s": 0.5, **patience})

    def make_file(hidden, scales):
        return " ".join(map(repr, map(float, scales))).encode()

    return DeviceTrainer(spec, options, Link.alone(), crew, patience, make_file)
