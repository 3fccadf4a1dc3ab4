"""A partitioned parameter of the head: what travels of it, in which form, and what is kept."""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.ist.exchange.forms import FORMS, Form, PerNeuron, Rows
from sparse_ist_tf.ist.exchange.homes import Homes
from sparse_ist_tf.ist.exchange.variables import SubnetPartitionedVariable, neuron_axis
from sparse_ist_tf.ist.head import ParameterSpec
from sparse_ist_tf.workers.ledger import Purpose

ALLOWED_FORMS = {
    "weights": ("float32", "bfloat16", "float16"),
    "differences": ("float32", "bfloat16", "int8", "int4"),
    "first_moment": ("float32", "int8", "int4", "reset"),
    "second_moment": ("float32", "halvings", "neuron", "reset"),
}
RowsOf = Callable[[SubnetPartitionedVariable], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Column:
    """What travels of a parameter: its weight, or one of its moments.

    Args:
        purpose: what its bytes are for.
        out: its form on the way to a subnet.
        back: its form on the way home.
        is_difference: does what the subnet made of it come back as a difference?
    """

    purpose: Purpose
    out: Form
    back: Form
    is_difference: bool = False


@dataclasses.dataclass(frozen=True)
class Forms:
    """The forms of what travels.

    Args:
        weights: of weights that go out: "float32", "bfloat16" or "float16".
        differences: of what training adds to them: "float32", "bfloat16", "int8" or "int4".
        first_moment: "float32", "int8", "int4", or "reset": zero at every round.
        second_moment: "float32", "halvings" (of a neuron's greatest, in 4 bits), "neuron" (the
            mean over a neuron's inputs), or "reset".

    Raises:
        RequestError: if one is another.
    """

    weights: str = "float32"
    differences: str = "float32"
    first_moment: str = "float32"
    second_moment: str = "float32"

    def __post_init__(self) -> None:
        for field, allowed in ALLOWED_FORMS.items():
            value = getattr(self, field)
            if value not in allowed:
                raise RequestError(
                    f"ist.exchange.{field}={value!r}: must be one of {', '.join(allowed)}"
                )

    def moment(self, kind: str) -> str:
        """The form of a moment that is "first" or "second"."""
        return self.first_moment if kind == "first" else self.second_moment

    def columns(self, spec: ParameterSpec, moments: Sequence[str]) -> list[Column]:
        """What travels of a parameter: of a vector, whose neurons have one number each, float32.

        Args:
            spec: the parameter.
            moments: of each that travels, whether it is a "first" or a "second" one.
        """
        exact = FORMS["float32"]
        if len(spec.shape) == 1:
            return [
                Column("weights", exact, exact),
                *(Column("moments", exact, exact) for _ in moments),
            ]
        is_difference = (self.weights, self.differences) != ("float32", "float32")
        weight = Column("weights", FORMS[self.weights], FORMS[self.differences], is_difference)
        kept = (FORMS[self.moment(kind)] for kind in moments)
        return [weight, *(Column("moments", form, form) for form in kept)]


class PartitionedParameter:
    """The columns of a parameter, each with the variable that keeps it between rounds.

    Blocks are neuron by neuron: [neurons, inputs of each].

    Args:
        spec: of the parameter.
        columns: what travels of it.
        homes: of the neurons of each hidden layer.
        worker: this worker's index.
    """

    def __init__(
        self, spec: ParameterSpec, columns: Sequence[Column], homes: Sequence[Homes], worker: int
    ):
        self.spec, self.columns = spec, list(columns)
        self.axis = neuron_axis(spec)
        self.layer: int = spec.layers[self.axis]
        self.variables = [
            SubnetPartitionedVariable(part, homes[self.layer], worker) for part in self.kept_specs()
        ]

    def kept_specs(self) -> list[ParameterSpec]:
        """Of each column what is kept: the parameter's shape, or one number per neuron."""
        neurons = ParameterSpec(
            self.spec.name, (self.spec.shape[self.axis],), (self.spec.layers[self.axis],)
        )
        is_lean = (isinstance(column.back, PerNeuron) for column in self.columns)
        return [neurons if lean else self.spec for lean in is_lean]

    def lowered(self, rows_of: RowsOf, num_inputs: int) -> list[Rows]:
        """What is kept of some neurons here, as it goes out.

        Args:
            rows_of: from a variable to where it keeps them.
            num_inputs: of each neuron.
        """
        found = []
        for column, variable in zip(self.columns, self.variables, strict=True):
            kept = variable.read(rows_of(variable), self._num_kept(column, num_inputs))
            found.append(column.out.lower(kept))
        return found

    def write(self, rows_of: RowsOf, num_inputs: int, found: Sequence[Rows]) -> list[tf.Operation]:
        """Takes what came back of some neurons.

        Args:
            rows_of: as lowered.
            num_inputs: of each neuron.
            found: of each column, as its form keeps it.

        Returns:
            When it has.
        """
        ends = []
        for column, variable, rows in zip(self.columns, self.variables, found, strict=True):
            values = column.back.lift(rows, self._num_kept(column, num_inputs))
            ends.append(variable.write(rows_of(variable), values, column.is_difference))
        return ends

    @staticmethod
    def _num_kept(column: Column, num_inputs: int) -> int:
        """Numbers that are kept of a neuron."""
        return 1 if isinstance(column.back, PerNeuron) else num_inputs

    def put(self, variable: tf.Variable, block: tf.Tensor, first: int) -> tf.Operation:
        """Sets some neurons of a subnet's array.

        Args:
            variable: float32 with the parameter's axes.
            block: float32[neurons, inputs], of neurons that stand side by side.
            first: the first of them.

        Returns:
            When it has.
        """
        value, shape = block, list(variable.shape)
        if len(shape) == 1:
            value = block[:, 0]
        elif self.axis:
            value = tf.transpose(block)
        begin = [0] * len(shape)
        begin[self.axis] = first
        end = [start + size for start, size in zip(begin, value.shape, strict=True)]
        if list(value.shape) == shape:
            return variable.assign(value, read_value=False)
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=variable.handle, begin=begin, end=end, strides=[1] * len(shape), value=value
        )
        # Else every step would copy what was assigned to in part.
        return tf.raw_ops.DisableCopyOnRead(resource=variable.handle)

    def take(self, array: tf.Tensor | tf.Variable, first: int, stop: int) -> tf.Tensor:
        """What put sets, of the neurons from first to before stop."""
        array = tf.convert_to_tensor(array)
        if stop - first < array.shape[self.axis]:
            array = array[:, first:stop] if self.axis else array[first:stop]
        if array.shape.rank == 1:
            return array[:, None]
        return tf.transpose(array) if self.axis else array
