"""A subnet's arrays as they cross: each kernel neuron by neuron, each column in its form."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.devices.wire import philox
from sparse_ist_tf.devices.wire.forms import FORMS, Form, PerNeuron, Shape
from sparse_ist_tf.devices.wire.records import Block, Layout

# Of each parameter its weight and the moments that travel, with the parameter's axes.
Columns = dict[str, list[np.ndarray]]


class Part(NamedTuple):
    """One column of a parameter.

    Args:
        name: of the parameter.
        column: 0 for its weight.
        number: of the parameter.
        neurons: of it that the subnet holds.
        inputs: of each.
        is_turned: whether its array has the neurons along its last axis.
        out: its form on the way to a device.
        back: on the way home.
    """

    name: str
    column: int
    number: int
    neurons: int
    inputs: int
    is_turned: bool
    out: Form
    back: Form

    def rows(self, array: np.ndarray) -> np.ndarray:
        """An array neuron by neuron: float32[neurons, inputs], or one number of each."""
        if array.ndim == 1:
            return array[:, None]
        return np.ascontiguousarray(array.T if self.is_turned else array)

    def array(self, rows: np.ndarray) -> np.ndarray:
        """The inverse, of whole rows."""
        if self.is_vector:
            return rows[:, 0]
        return np.ascontiguousarray(rows.T if self.is_turned else rows)

    @property
    def is_vector(self) -> bool:
        """Whether it has one number per neuron, as a bias has."""
        return self.name.endswith("/bias")


def parts_of(layout: Layout) -> list[Part]:
    """All that crosses of a subnet, in order."""
    exact, found = FORMS["float32"], []
    kernel = [(FORMS[layout.weights], FORMS[layout.differences])]
    kernel += [(FORMS[name], FORMS[name]) for name in layout.moments]
    vector = [(exact, exact)] * len(kernel)
    for index, (name, shape, is_turned) in enumerate(layout.parameters()):
        neurons = shape[-1] if is_turned or len(shape) == 1 else shape[0]
        inputs = int(np.prod(shape)) // neurons
        forms = vector if len(shape) == 1 else kernel
        for column, (out, back) in enumerate(forms):
            found.append(Part(name, column, index, neurons, inputs, is_turned, out, back))
    return found


def lowered(layout: Layout, columns: Mapping[str, list[np.ndarray]]) -> Block:
    """What goes to a device, rounded to the nearest."""
    block = Block()
    for part in parts_of(layout):
        rows = part.rows(columns[part.name][part.column])
        block.put(part.name, part.column, part.out.lower(rows))
    return block


def lifted(layout: Layout, block: Block) -> Columns:
    """What a device makes of it: arrays of the subnet's shapes."""
    found: Columns = {}
    for part in parts_of(layout):
        rows = part.out.lift(block.take(part.name, part.column), part.inputs)
        found.setdefault(part.name, []).append(part.array(rows))
    return found


def lowered_back(
    layout: Layout, columns: Mapping[str, list[np.ndarray]], seed: philox.Seed
) -> Block:
    """What a device sends home, rounded up or down at random.

    Args:
        layout: of the subnet.
        columns: differences of weights, and moments.
        seed: of the rounding, as ist.exchange folds it.
    """
    block = Block()
    for part in parts_of(layout):
        rows = part.rows(columns[part.name][part.column])
        own = philox.fold(seed, part.number, part.column)
        block.put(part.name, part.column, part.back.lower(rows, own))
    return block


def lifted_back(layout: Layout, block: Block) -> Columns:
    """What the server makes of it; of moments that are kept once per neuron float32[neurons]."""
    found: Columns = {}
    for part in parts_of(layout):
        arrays = block.take(part.name, part.column)
        if isinstance(part.back, PerNeuron):
            array = arrays[0][:, 0]
        else:
            array = part.array(part.back.lift(arrays, part.inputs))
        found.setdefault(part.name, []).append(array)
    return found


def shapes_back(layout: Layout) -> dict[str, Shape]:
    """What must come home, by the names of a block's arrays."""
    return {
        f"{part.name}|{part.column}|{i}": shape
        for part in parts_of(layout)
        for i, shape in enumerate(part.back.shapes(part.neurons, part.inputs))
    }


def bytes_by_purpose(block: Block) -> dict[str, int]:
    """How many bytes of a block are of weights, and of moments."""
    found = {"weights": 0, "moments": 0}
    for name, array in block.arrays.items():
        column = int(name.split("|")[1])
        found["moments" if column else "weights"] += array.nbytes
    return found
