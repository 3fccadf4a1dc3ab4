"""What server and devices say to each other, and its form on the wire: NumPy alone.

A record is plain facts and arrays. It crosses as one file in the form of safetensors, whose reader
runs nothing of what it reads.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sparse_ist_tf.errors import RequestError

_FACTS = "facts"
_HEADER = 8  # bytes that say how long the header is
VERSION = 1  # of what is said


@dataclasses.dataclass(frozen=True)
class Record:
    """Plain facts and arrays.

    Args:
        facts: what JSON can say.
        arrays: by name.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def to_bytes(self) -> bytes:
        """Its form on the wire."""
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        return save(arrays, {_FACTS: json.dumps({"version": VERSION, **self.facts})})

    @classmethod
    def of_bytes(cls, content: bytes) -> "Record":
        """The inverse.

        Raises:
            RequestError: if it is damaged, or of another version.
        """
        try:
            arrays = load(content)
            size = int.from_bytes(content[:_HEADER], "little")
            header = json.loads(content[_HEADER : _HEADER + size])
            facts = json.loads(header["__metadata__"][_FACTS])
            version = facts["version"]
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RequestError(f"a record is damaged: {' '.join(str(error).split())}") from None
        if version != VERSION:
            raise RequestError(f"a record is of version {version!r}, must be {VERSION}: update")
        return cls(facts, arrays)


@dataclasses.dataclass(frozen=True)
class Joined:
    """What a device is told when it has come: what the images must be, and how to encode them.

    Args:
        class_names: in the order of the labels.
        masks: as MaskOptions takes them.
        image_size: side of the encoder's images in pixels.
        patch_size: side of a patch in pixels.
        encoder: a .tflite file: patches and positions to a feature.
        batch_size: of a step.
    """

    class_names: tuple[str, ...]
    masks: Mapping[str, Any]
    image_size: int
    patch_size: int
    encoder: bytes
    batch_size: int

    def to_record(self) -> Record:
        """As facts and arrays."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Record(facts, {"encoder": np.frombuffer(facts.pop("encoder"), np.uint8)})

    @classmethod
    def of_record(cls, record: Record) -> "Joined":
        """The inverse.

        Raises:
            RequestError: if something is missing.
        """
        facts = dict(record.facts) | {"encoder": _array(record, "encoder").tobytes()}
        facts["class_names"] = tuple(facts.get("class_names", ()))
        return _made(cls, facts)


@dataclasses.dataclass(frozen=True)
class Member:
    """What a device says of itself.

    Args:
        name: what it wants to be called.
        counts: its images by class, in the order of the labels; none where it was refused.
        capacity: its share of the neurons, above 0; 0 where its speed is to tell.
        speed: multiplications of a subnet's training in a second, measured; 0 where they weren't.
        refusal: why it can't take part, in one line; empty where it can.
    """

    name: str = ""
    counts: tuple[int, ...] = ()
    capacity: float = 1.0
    speed: float = 0.0
    refusal: str = ""

    def to_record(self) -> Record:
        """As facts and arrays."""
        return Record(dataclasses.asdict(self), {})

    @classmethod
    def of_record(cls, record: Record) -> "Member":
        """The inverse.

        Raises:
            RequestError: if something is missing or no number.
        """
        found = _made(cls, record.facts)
        counts = found.counts if isinstance(found.counts, list | tuple) else [None]
        numbers = [*counts, found.capacity, found.speed]
        texts = isinstance(found.refusal, str) and isinstance(found.name, str)
        if not texts or not all(_is_count(n) for n in numbers):
            raise RequestError("a device says of itself what can't be")
        return dataclasses.replace(found, counts=tuple(int(n) for n in found.counts))


def _is_count(number: object) -> bool:
    return isinstance(number, int | float) and 0 <= number < float("inf")


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of the head as it crosses: of each parameter weight and moments, in their forms.

    Args:
        arrays: by parameter, column and place: "dense_0/kernel|0|0".
    """

    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def put(self, name: str, column: int, arrays: list[np.ndarray]) -> None:
        """Takes a column of a parameter."""
        self.arrays.update({f"{name}|{column}|{i}": array for i, array in enumerate(arrays)})

    def take(self, name: str, column: int) -> list[np.ndarray]:
        """What put took."""
        start, found = f"{name}|{column}|", []
        while (key := f"{start}{len(found)}") in self.arrays:
            found.append(self.arrays[key])
        return found

    @property
    def digest(self) -> str:
        """By which a device says of which block its answer is."""
        total = hashlib.sha256()
        for name in sorted(self.arrays):
            total.update(name.encode())
            total.update(np.ascontiguousarray(self.arrays[name]).tobytes())
        return total.hexdigest()


@dataclasses.dataclass(frozen=True)
class Layout:
    """A subnet's shape, and the forms of its numbers while they cross; the same in every round.

    Args:
        feature_dim: inputs.
        hidden: neurons of the subnet's layers.
        num_classes: outputs.
        weights: form of kernels on their way out.
        differences: of what training adds to them, on its way back.
        moments: forms of kernels' moments that travel, both ways.
        travelling: which of the optimizer's moments these are.
        kinds: of each of them, "first" or "second", a mean of gradients or of their squares.
    """

    feature_dim: int
    hidden: tuple[int, ...]
    num_classes: int
    weights: str
    differences: str
    moments: tuple[str, ...]
    travelling: tuple[int, ...]
    kinds: tuple[str, ...] = ()

    def parameters(self) -> list[tuple[str, tuple[int, ...], bool]]:
        """Name, shape of the subnet's array, and whether its axes are turned to be by neuron."""
        sizes = (self.feature_dim, *self.hidden, self.num_classes)
        found: list[tuple[str, tuple[int, ...], bool]] = []
        for i in range(len(sizes) - 1):
            is_last = i == len(sizes) - 2
            found.append((f"dense_{i}/kernel", (sizes[i], sizes[i + 1]), not is_last))
            found.append((f"dense_{i}/bias", (sizes[i + 1],), False))
        return found

    def as_dict(self) -> dict:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def of_dict(cls, values: Mapping) -> "Layout":
        """The inverse."""
        found = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
        return _made(cls, found)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a device is to do in a round.

    Args:
        round: from 0.
        subnet: which.
        first_step: of the run.
        updates: that the moments have seen.
        seed: of batches.
        rounding: of what goes back.
        rates: float32[steps], the learning rates.
        adjustment: float32[num_classes], what the loss adds to the logits.
        layout: of the block.
        block: where the subnet begins.
        file: digest of the .tflite file that trains it.
        content: that file; empty where the device has it.
    """

    round: int
    subnet: int
    first_step: int
    updates: int
    seed: int
    rounding: tuple[int, int]
    rates: np.ndarray
    adjustment: np.ndarray
    layout: Layout
    block: Block
    file: str
    content: bytes = b""

    def to_record(self) -> Record:
        """As facts and arrays."""
        names = "round", "subnet", "first_step", "updates", "seed", "rounding", "file"
        facts = {name: getattr(self, name) for name in names}
        arrays = {"rates": self.rates, "adjustment": self.adjustment, **self.block.arrays}
        if self.content:
            arrays["content"] = np.frombuffer(self.content, np.uint8)
        return Record(facts | {"layout": self.layout.as_dict()}, arrays)

    @classmethod
    def of_record(cls, record: Record) -> "Plan":
        """The inverse.

        Raises:
            RequestError: if something is missing.
        """
        facts, arrays = dict(record.facts), dict(record.arrays)
        for name in ("rates", "adjustment"):
            facts[name] = _array(record, name)
            del arrays[name]
        content = arrays.pop("content", np.zeros(0, np.uint8))
        facts["layout"] = Layout.of_dict(facts.get("layout", {}))
        facts["rounding"] = tuple(facts.get("rounding", ()))
        return _made(cls, facts | {"block": Block(arrays), "content": content.tobytes()})


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a device learnt in a round.

    Args:
        round: as the plan's.
        subnet: as the plan's.
        of: the digest of the block that it began with.
        loss: mean over the steps.
        right: right answers.
        seconds: that its steps took.
        block: differences of weights, and moments.
        refusal: why it has none, in one line; empty where it has.
    """

    round: int
    subnet: int
    of: str
    loss: float = 0.0
    right: int = 0
    seconds: float = 0.0
    block: Block = dataclasses.field(default_factory=Block)
    refusal: str = ""

    def to_record(self) -> Record:
        """As facts and arrays."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Record(facts, facts.pop("block").arrays)

    @classmethod
    def of_record(cls, record: Record) -> "Answer":
        """The inverse.

        Raises:
            RequestError: if something is missing or of another kind.
        """
        found = _made(cls, {**record.facts, "block": Block(dict(record.arrays))})
        kinds = {"round": int, "subnet": int, "of": str, "refusal": str, "right": int}
        numbers = isinstance(found.loss, int | float) and isinstance(found.seconds, int | float)
        if not numbers or not all(isinstance(getattr(found, n), k) for n, k in kinds.items()):
            raise RequestError("a record is damaged: its facts are of another kind")
        return found


def _array(record: Record, name: str) -> np.ndarray:
    if name not in record.arrays:
        raise RequestError(f"a record is damaged: lacks {name!r}")
    return record.arrays[name]


def _made(kind: type, facts: Mapping[str, Any]) -> Any:
    """A record of a kind, of its own facts."""
    names = {field.name for field in dataclasses.fields(kind)}
    try:
        return kind(**{name: value for name, value in facts.items() if name in names})
    except TypeError as error:
        text = str(error).split(".__init__() ")[-1]
        raise RequestError(f"a record is damaged: {text}") from None
