"""A round on a device: its subnet set, trained for the round's steps, and the difference told."""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from sparse_ist_tf.devices.wire.blocks import Columns, lifted, lowered_back
from sparse_ist_tf.devices.wire.records import Answer, Layout, Plan
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs.batches import BatchStream


class Seen(Protocol):
    """What a step tells of its batch."""

    @property
    def loss(self) -> float:
        """Mean, in nats."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""


class Subnet(Protocol):
    """What trains a subnet, as export.training.runtime.Trainable does by a .tflite file."""

    batch_size: int

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of its state, by name."""

    @property
    def columns(self) -> Mapping[str, Sequence[str]]:
        """Of a parameter its weight's name, then its moments'."""

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Sets some of its state."""

    def read(self) -> dict[str, np.ndarray]:
        """All of its state."""

    def train(self, features: np.ndarray, labels: np.ndarray, learning_rate: float) -> Seen:
        """A step with one batch."""


def train_round(plan: Plan, subnet: Subnet, features: np.ndarray, labels: np.ndarray) -> Answer:
    """Trains a subnet for a round.

    Batches are those of a subnet of train: a function of seed, subnet and step alone.

    Args:
        plan: of the round.
        subnet: what trains it; its state is set anew.
        features: float32[n, feature_dim], of the device's images.
        labels: int32[n].

    Returns:
        Differences of weights from what came, and the moments.

    Raises:
        RequestError: if the plan isn't one for this subnet.
    """
    start = lifted(plan.layout, plan.block)
    _check(plan.layout, start, subnet)
    subnet.write(_state(plan, start, subnet))
    stream = BatchStream(np.arange(len(labels)), subnet.batch_size, plan.seed, plan.subnet)
    rows = stream.rows(plan.first_step, len(plan.rates))
    began, losses, right = time.monotonic(), [], 0.0
    for batch, rate in zip(rows, plan.rates, strict=True):
        seen = subnet.train(features[batch], labels[batch], float(rate))
        losses.append(seen.loss)
        right += seen.accuracy * len(batch)
    seconds = time.monotonic() - began
    learnt = _learnt(plan.layout, start, subnet)
    return Answer(
        round=plan.round,
        subnet=plan.subnet,
        of=plan.block.digest,
        loss=float(np.mean(losses)),
        right=round(right),
        seconds=seconds,
        block=lowered_back(plan.layout, learnt, plan.rounding),
    )


def _check(layout: Layout, start: Columns, subnet: Subnet) -> None:
    wanted = {name: subnet.shapes[columns[0]] for name, columns in subnet.columns.items()}
    found = {name: columns[0].shape for name, columns in start.items()}
    if {name: tuple(shape) for name, shape in wanted.items()} != found:
        raise RequestError(f"the block has shapes {found}, the subnet's file takes {wanted}")
    most = max((len(columns) - 1 for columns in subnet.columns.values()), default=0)
    if any(index >= most for index in layout.travelling):
        raise RequestError(f"the subnet's file keeps {most} moments, {layout.travelling} travel")


def _state(plan: Plan, start: Columns, subnet: Subnet) -> dict[str, np.ndarray]:
    """All of the subnet's state; moments that don't travel begin anew."""
    state = {
        "step": np.array(plan.updates, np.int32),
        "adjustment": np.asarray(plan.adjustment, np.float32),
    }
    for name, (weight, *moments) in subnet.columns.items():
        state[weight] = start[name][0]
        state |= {moment: np.zeros(subnet.shapes[moment], np.float32) for moment in moments}
        for place, value in zip(plan.layout.travelling, start[name][1:], strict=True):
            state[moments[place]] = value
    return state


def _learnt(layout: Layout, start: Columns, subnet: Subnet) -> Columns:
    now, found = subnet.read(), {}
    for name, (weight, *moments) in subnet.columns.items():
        travelled = [now[moments[place]] for place in layout.travelling]
        found[name] = [now[weight] - start[name][0], *travelled]
    return found
