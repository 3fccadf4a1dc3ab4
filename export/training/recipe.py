"""What trains a subnet on a device: shape, loss, optimizer; nothing here imports TensorFlow."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_ist_tf.errors import RequestError

STEP, ADJUSTMENT = "step", "adjustment"
_MOMENTS = {"sgd": (), "momentum": ("momentum",), "adam": ("momentum", "velocity")}
# Of keras.optimizers.serialize, what a step honours, and what it may have besides: as Keras has it.
_HONOURED = {
    "SGD": {"momentum": 0.0, "nesterov": False},
    "Adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "AdamW": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
}
_REFUSED = (
    "amsgrad", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "loss_scale_factor",
    "gradient_accumulation_steps",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Update:
    """An optimizer's step, as Keras does it.

    Args:
        kind: "sgd", "momentum" or "adam".
        momentum: of "momentum".
        nesterov: of "momentum".
        beta_1: of "adam".
        beta_2: of "adam".
        epsilon: of "adam", added to the root.
        weight_decay: share of a weight that a step takes off, times the learning rate.

    Source: https://keras.io/api/optimizers/sgd/, https://keras.io/api/optimizers/adam/
    """

    kind: str = "adam"
    momentum: float = 0.0
    nesterov: bool = False
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.0

    @property
    def moments(self) -> tuple[str, ...]:
        """What they are called, in Keras' order."""
        return _MOMENTS[self.kind]

    @classmethod
    def of_keras(cls, optimizer: Mapping[str, Any]) -> "Update":
        """From what keras.optimizers.serialize gives.

        Raises:
            RequestError: if it isn't SGD, Adam or AdamW, or has an option that a device's step
                hasn't.
        """
        name, config = str(optimizer["class_name"]), dict(optimizer["config"])
        if name not in _HONOURED:
            raise RequestError(
                f"optimizer.name={name.lower()!r}: must be one of sgd, adam, adamw for a file that "
                "trains"
            )
        for key in _REFUSED:
            if config.get(key):
                raise RequestError(
                    f"optimizer.kwargs: {key}={config[key]!r}: a file that trains has none"
                )
        decay = config.get("weight_decay") or 0.0
        found = {key: config.get(key, default) for key, default in _HONOURED[name].items()}
        kind = "adam" if name != "SGD" else "momentum" if found["momentum"] else "sgd"
        return cls(kind=kind, weight_decay=float(decay), **found)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A subnet of a head, and how it is trained.

    Args:
        feature_dim: inputs.
        hidden: neurons of the subnet's layers.
        num_classes: outputs.
        scales: of each hidden layer, the whole layer's width over the subnet's; 1 where inputs
            aren't scaled.
        optimizer: as keras.optimizers.serialize gives it.
        label_smoothing: in [0, 1).
        batch_size: of a step, at least 1.

    Raises:
        RequestError: as Update.of_keras, or if a hidden layer has no scale or a step no example.

    Example:
        >>> from sparse_ist_tf.export.training.recipe import Recipe
        >>> recipe = Recipe(192, (32, 32), 10, (2.0, 2.0), {"class_name": "SGD", "config": {}})
        >>> recipe.shapes["dense_1_kernel"], len(recipe.shapes)
        ((32, 32), 8)
    """

    feature_dim: int
    hidden: tuple[int, ...]
    num_classes: int
    scales: tuple[float, ...]
    optimizer: Mapping[str, Any]
    label_smoothing: float = 0.0
    batch_size: int = 16

    def __post_init__(self) -> None:
        self.update  # refuses what can't be  # noqa: B018
        if self.batch_size < 1:
            raise RequestError(f"batch_size={self.batch_size}: must be at least 1")
        if len(self.scales) != len(self.hidden):
            raise RequestError(
                f"scales={self.scales}: must be one for each of {len(self.hidden)} hidden layers"
            )

    @property
    def update(self) -> Update:
        """The optimizer's step."""
        return Update.of_keras(self.optimizer)

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes of kernels and biases, by name, in the order of the layers."""
        sizes = (self.feature_dim, *self.hidden, self.num_classes)
        found: dict[str, tuple[int, ...]] = {}
        for i, pair in enumerate(itertools.pairwise(sizes)):
            found[f"dense_{i}_kernel"] = pair
            found[f"dense_{i}_bias"] = pair[1:]
        return found

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Of each of the head's parameters, "dense_0/kernel", its weight's name, then moments'."""
        moments = self.update.moments
        return {
            "/".join(name.rsplit("_", 1)): (name, *(f"{name}_{moment}" for moment in moments))
            for name in self.weights
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the whole state, by name: weights with their moments, the step, the adjustment."""
        weights = self.weights
        found = {name: weights[names[0]] for names in self.columns.values() for name in names}
        return {**found, STEP: (), ADJUSTMENT: (self.num_classes,)}


def checked(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], name: str = "subnet"
) -> dict[str, np.ndarray]:
    """Arrays of a subnet's state in the types that it has them in.

    Args:
        arrays: some of the state, by name.
        shapes: of the whole state.
        name: of the file, for errors.

    Raises:
        RequestError: if a name isn't one of it, a shape is another, or the step below 0, where
            Adam's correction divides by 0.
    """
    found = {}
    for key, array in arrays.items():
        if key not in shapes:
            raise RequestError(f"{name}: has no {key!r}; it has {', '.join(shapes)}")
        shape, wanted = np.shape(array), tuple(shapes[key])
        if shape != wanted:
            raise RequestError(f"{name}: {key} is of shape {shape}, must be {wanted}")
        if key == STEP and np.min(array) < 0:
            raise RequestError(f"{name}: {key}={int(array)}: must be at least 0")
        # ascontiguousarray makes a vector of a number.
        dtype = np.int32 if key == STEP else np.float32
        found[key] = np.ascontiguousarray(array, dtype).reshape(wanted)
    return found
