"""A file that trains, where it trains: in LiteRT, with NumPy alone beside it."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from sparse_ist_tf.errors import RequestError, RunError, quiet
from sparse_ist_tf.export.training.recipe import ADJUSTMENT, checked

_SIGNATURES = ("train", "infer", "read", "write")


class Seen(NamedTuple):
    """What a step tells of its batch.

    Args:
        loss: mean before the step, in nats.
        accuracy: share of right answers, in [0, 1].
    """

    loss: float
    accuracy: float


class Trainable:
    """A subnet that trains.

    Args:
        content: a file of make_trainable.
        name: of the file, for errors.
        threads: at least 1.

    Raises:
        RequestError: if it is damaged, or no such file.
    """

    def __init__(self, content: bytes, name: str = "model", threads: int = 1):
        self.name = name
        try:
            with quiet():
                self._interpreter = Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
            found = self._interpreter.get_signature_list()
        except (ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())
            raise RequestError(f"{name}: is damaged and can't be read ({text})") from None
        if not {*_SIGNATURES} <= found.keys():
            raise RequestError(f"{name}: trains nothing; export --trainable writes what does")
        runners = {key: self._interpreter.get_signature_runner(key) for key in _SIGNATURES}
        self._train, self._infer, self._read, self._write = runners.values()
        details = self._write.get_input_details()
        self.shapes = {key: tuple(map(int, details[key]["shape"])) for key in details}
        self.names = tuple(sorted(self.shapes, key=_order))
        self.shapes = {key: self.shapes[key] for key in self.names}
        rows = self._train.get_input_details()["features"]["shape"]
        self.batch_size, self.feature_dim = map(int, rows)
        [self.num_classes] = self.shapes[ADJUSTMENT]

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Of each of the head's parameters, "dense_0/kernel", its weight's name, then moments'."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.names:
            if match := re.match(r"(dense_\d+)_(kernel|bias)", name):
                key = "/".join(match.groups())
                found[key] = (*found.get(key, ()), name)
        return found

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Sets some of the state; the rest stays as it is.

        Raises:
            RequestError: if a name isn't one of it, a shape is another, or the step below 0.
        """
        given = checked(arrays, self.shapes, self.name)
        rest = {} if given.keys() == self.shapes.keys() else self.read()
        self._run(self._write, **(rest | given))

    def read(self) -> dict[str, np.ndarray]:
        """The whole state by name."""
        found = self._run(self._read)
        return {name: np.array(found[name]).reshape(self.shapes[name]) for name in self.names}

    def train(self, features: np.ndarray, labels: np.ndarray, learning_rate: float) -> Seen:
        """A step with one batch.

        Args:
            features: float32[batch_size, feature_dim].
            labels: int32[batch_size].
            learning_rate: of the step.

        Raises:
            RequestError: if there are more or fewer examples, or labels aren't of the classes.
        """
        wanted = (self.batch_size, self.feature_dim)
        if np.shape(features) != wanted or np.shape(labels) != wanted[:1]:
            raise RequestError(
                f"{self.name}: features and labels are of shapes {np.shape(features)} and "
                f"{np.shape(labels)}, must be {wanted} and {wanted[:1]}"
            )
        if not np.isin(labels, np.arange(self.num_classes)).all():
            raise RequestError(
                f"{self.name}: labels must be in [0, {self.num_classes}), whole numbers"
            )
        found = self._run(
            self._train,
            features=np.ascontiguousarray(features, np.float32),
            labels=np.ascontiguousarray(labels, np.int32),
            learning_rate=np.float32(learning_rate),
        )
        return Seen(float(found["loss"]), float(found["accuracy"]))

    def infer(self, features: np.ndarray) -> np.ndarray:
        """Logits, float32[n, num_classes], of float32[n, feature_dim], n at least 0.

        Raises:
            RequestError: if features are of another shape.
        """
        shape = np.shape(features)
        if len(shape) != 2 or shape[1] != self.feature_dim:
            raise RequestError(
                f"{self.name}: features are of shape {shape}, must be (n, {self.feature_dim})"
            )
        found = np.zeros((shape[0], self.num_classes), np.float32)
        for i, row in enumerate(np.asarray(features, np.float32)):
            found[i] = self._run(self._infer, feature=row[None])["logits"][0]
        return found

    def _run(self, runner, **arguments):
        try:
            return runner(**arguments)
        except (ValueError, RuntimeError) as error:
            raise RunError(f"{self.name}: LiteRT: {' '.join(str(error).split())}") from None


def _order(name: str) -> tuple:
    """Weights by layer, kernel first, each before its moments; then the rest."""
    match = re.match(r"dense_(\d+)_(kernel|bias)(.*)", name)
    if not match:
        return (1, 0, 0, name)
    moments = ("", "_momentum", "_velocity")
    return (0, int(match[1]), match[2] == "bias", moments.index(match[3]))
