"""Algorithms by name: those of the package, and what somebody else registers.

A configuration file is Python: one that imports a module which calls register_algorithm makes the
name known to train, to its workers and to whatever reads the run again with that file's module.
Nothing heavy is imported before an algorithm is loaded.
"""

import dataclasses
import importlib
from typing import TYPE_CHECKING

from sparse_ist_tf.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from sparse_ist_tf.ist.trainer import Trainer

# Of the configuration's `ist.exchange`, the forms of what crosses.
EXCHANGE = ("weights", "differences", "first_moment", "second_moment")
# Of the configuration's `ist`, what rounds, replicas and subnets use.
_ROUNDS = frozenset({"ist.link", "ist.local_steps", "ist.local_steps_schedule"})
_REPLICAS = _ROUNDS | {"ist.num_subnets"}
# What trains by itself for a round, on a shard of its own.
_LOCAL = _REPLICAS | {"ist.logit_adjustment"}
_OUTER = {"ist.exchange.differences", "ist.outer_learning_rate", "ist.outer_momentum"}
_SUBNETS = _LOCAL | {"ist.capacities", "ist.widths", "ist.moments", "ist.biases"}
_SUBNETS |= {"ist.scale_inputs", "ist.keep_last_step", "ist.variant"}
_SUBNETS |= {f"ist.exchange.{name}" for name in EXCHANGE}


@dataclasses.dataclass(frozen=True)
class LinkSetting:
    """What a name of `ist.link` stands for, where a key says nothing itself: forms, and how seldom.

    Args:
        weights: as ist.exchange.weights, and the next three.
        differences: of what training adds to them.
        first_moment: of the optimizer.
        second_moment: of the optimizer.
        local_steps: the most steps of a round.
    """

    weights: str
    differences: str
    first_moment: str
    second_moment: str
    local_steps: int


LINKS = {
    "thinnest": LinkSetting("bfloat16", "int4", "reset", "neuron", 500),
    "thin": LinkSetting("bfloat16", "int4", "reset", "halvings", 100),
    "fast": LinkSetting("float32", "float32", "float32", "float32", 20),
}


@dataclasses.dataclass(frozen=True)
class AlgorithmEntry:
    """A way to train a head.

    Args:
        name: what `ist.algorithm` calls it.
        target: a subclass of sparse_ist_tf.ist.trainer.Trainer, or "module:Class" to import
            when it is needed.
        keys: of the configuration's `ist`, those that it uses; others keep their defaults.
        single_worker: whether it trains in one process alone.
        meaning: one line for people.
    """

    name: str
    target: "type[Trainer] | str"
    keys: frozenset[str]
    single_worker: bool = False
    meaning: str = ""

    def load(self) -> "type[Trainer]":
        """The class."""
        if isinstance(self.target, type):
            return self.target
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


_ENTRIES = {
    entry.name: entry
    for entry in (
        AlgorithmEntry(
            "ist",
            "sparse_ist_tf.ist.rounds:IstTrainer",
            _SUBNETS,
            meaning="subnets of the head, dealt anew every round",
        ),
        AlgorithmEntry(
            "data_parallel",
            "sparse_ist_tf.ist.synchronous:DataParallel",
            _REPLICAS,
            meaning="replicas of the whole head, gradients averaged at every step",
        ),
        AlgorithmEntry(
            "local_sgd",
            "sparse_ist_tf.ist.synchronous:LocalSgd",
            _LOCAL,
            meaning="replicas of the whole head, averaged at the end of every round",
        ),
        AlgorithmEntry(
            "diloco",
            "sparse_ist_tf.ist.diloco:Diloco",
            _LOCAL | _OUTER,
            meaning="replicas that keep their moments, an outer step by their mean difference",
        ),
        AlgorithmEntry(
            "centralized",
            "sparse_ist_tf.ist.rounds:IstTrainer",
            _ROUNDS,
            single_worker=True,
            meaning="one whole head in one process",
        ),
    )
}


def register_algorithm(entry: AlgorithmEntry) -> None:
    """Makes an algorithm known by its name.

    Args:
        entry: registering an equal one again changes nothing.

    Raises:
        ValueError: if the name is taken by another.
    """
    if _ENTRIES.setdefault(entry.name, entry) != entry:
        raise ValueError(f"the algorithm {entry.name!r} is registered already")


def algorithm_names() -> tuple[str, ...]:
    """The names of all algorithms, in the order of their registration."""
    return tuple(_ENTRIES)


def algorithms_using(key: str) -> tuple[str, ...]:
    """The names of the algorithms that use a key of the configuration's `ist`."""
    return tuple(name for name, entry in _ENTRIES.items() if key in entry.keys)


def find_algorithm(name: str) -> AlgorithmEntry:
    """The algorithm of a name, as `ist.algorithm` has it.

    Raises:
        RequestError: if there is none.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    names = ", ".join(_ENTRIES)
    raise RequestError(
        f"ist.algorithm={name!r}: must be one of {names}{did_you_mean(name, _ENTRIES)}"
    )
