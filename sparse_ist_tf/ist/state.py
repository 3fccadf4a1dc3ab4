"""What a training of a head keeps, as whole arrays, and the one place that names them in files."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sparse_ist_tf.ist.head import Standard, fold

_MOMENT = re.compile(r"(.+)/moment_(\d+)")
_STATISTIC = {"deviation": "std"}  # as files of version 0.1 have it


@dataclasses.dataclass
class Weights:
    """Arrays by name, and their optimizer's moments.

    Args:
        values: arrays by name, such as "dense_0/kernel".
        moments: of each name a list of arrays in its shape; of some names, or of none.
    """

    values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    moments: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)

    def columns(self, name: str) -> list[np.ndarray]:
        """A parameter and its moments."""
        return [self.values[name], *self.moments.get(name, ())]

    def set_columns(self, name: str, columns: Sequence[np.ndarray]) -> None:
        """The inverse of columns()."""
        self.values[name], *moments = columns
        if moments:
            self.moments[name] = moments

    def named(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and arrays as files have them."""
        for name in dict.fromkeys([*self.values, *self.moments]):
            if name in self.values:
                yield name, self.values[name]
            for i, moment in enumerate(self.moments.get(name, ())):
                yield f"{name}/moment_{i}", moment

    def put(self, name: str, array: np.ndarray) -> None:
        """Takes an array by the name that files have; of a name's moments the first comes first."""
        match = _MOMENT.fullmatch(name)
        self.set_column(*((match[1], 1 + int(match[2])) if match else (name, 0)), array)

    def column(self, name: str, column: int) -> np.ndarray:
        """A parameter, 0, or one of its moments, counted from 1."""
        return self.moments[name][column - 1] if column else self.values[name]

    def set_column(self, name: str, column: int, array: np.ndarray) -> None:
        """Sets what column() gives; of a name's moments the first comes first."""
        if column:
            self.moments.setdefault(name, []).append(array)
        else:
            self.values[name] = array


@dataclasses.dataclass
class HeadState:
    """What a training of a head keeps from round to round, whatever the number of workers.

    Args:
        head: the merged head, as trained.
        slots: of each subnet what stays with it, whatever neurons it holds.
        statistics: by what they standardise, "features" or a hidden layer such as "dense_0".
        encoder: the blocks of the encoder that train with the head.
        baseline: of the whole head that is trained beside for comparison.
    """

    head: Weights = dataclasses.field(default_factory=Weights)
    slots: dict[int, Weights] = dataclasses.field(default_factory=dict)
    statistics: dict[str, Standard] = dataclasses.field(default_factory=dict)
    encoder: Weights = dataclasses.field(default_factory=Weights)
    baseline: "HeadState | None" = None

    def folded(self) -> dict[str, np.ndarray]:
        """The parameters of the head as plain Dense layers, statistics folded in."""
        return fold(self.head.values, self.statistics)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, as a checkpoint's file has it."""
        out = dict(self.head.named())
        for subnet, weights in self.slots.items():
            out |= {f"slots/{subnet}/{name}": array for name, array in weights.named()}
        for what, (mean, std) in self.statistics.items():
            out |= {f"statistics/{what}/mean": mean, f"statistics/{what}/std": std}
        out |= {f"encoder/{name}": array for name, array in self.encoder.named()}
        if self.baseline:
            out |= {f"centralized/{name}": array for name, array in self.baseline.arrays().items()}
        return out

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "HeadState":
        """The inverse of arrays()."""
        state, statistics, baseline = cls(), {}, {}
        for name in sorted(arrays):
            kind, _, rest = name.partition("/")
            if kind == "slots":
                subnet, _, rest = rest.partition("/")
                state.slots.setdefault(int(subnet), Weights()).put(rest, arrays[name])
            elif kind == "statistics":
                what, _, which = rest.rpartition("/")
                statistics.setdefault(what, {})[_STATISTIC.get(which, which)] = arrays[name]
            elif kind == "encoder":
                state.encoder.put(rest, arrays[name])
            elif kind == "centralized":
                baseline[rest] = arrays[name]
            else:
                state.head.put(name, arrays[name])
        state.statistics = {what: Standard(**pair) for what, pair in statistics.items()}
        state.baseline = cls.of_arrays(baseline) if baseline else None
        return state
