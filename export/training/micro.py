"""A training step for microcontrollers: weights and moments go in and come out.

    python -m sparse_ist_tf.export.training.micro MODEL INPUTS OUTPUTS ARENA

TFLite Micro keeps no variables that a file could train, so that the program around it holds the
state and hands it in with every batch. Labels come as float32 rows with a 1, and what makes up for
Adam's moments at 0 as a second rate: TFLite Micro has neither ONE_HOT nor POW.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.files.micro import arena_used, proven_arena, require
from sparse_ist_tf.export.training.recipe import STEP, Recipe, Update

FEATURES, TRUTH, RATES, LOSS, LOGITS = "features", "truth", "rates", "loss", "logits"
_NAME = "train"


def make_step(recipe: Recipe) -> bytes:
    """A file of one step, of float32 alone.

    Its signature `train` takes features [b, feature_dim], truth [b, num_classes], rates [2] (the
    learning rate, and the same corrected for the step), and the state but for the step; it gives
    the weights and moments behind the step, loss [1] and logits [b, num_classes].

    Args:
        recipe: of the subnet.

    Returns:
        The file's bytes.
    """
    import tensorflow as tf

    from sparse_ist_tf.export.training.step import Rates, step

    def train(features, truth, rates, **state):
        now, loss, logits = step(recipe, state, features, truth, Rates(rates[0], rates[1]))
        return {**now, LOSS: tf.reshape(loss, (1,)), LOGITS: logits}

    shapes = {
        FEATURES: (recipe.batch_size, recipe.feature_dim),
        TRUTH: (recipe.batch_size, recipe.num_classes),
        RATES: (2,),
        **{name: shape for name, shape in recipe.shapes.items() if name != STEP},
    }
    specs = {name: tf.TensorSpec(shape, tf.float32, name) for name, shape in shapes.items()}
    module = tf.Module()
    module.train = tf.function(train)
    with tempfile.TemporaryDirectory() as folder:
        signatures = {_NAME: module.train.get_concrete_function(**specs)}
        tf.saved_model.save(module, folder, signatures=signatures)
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


class Places(NamedTuple):
    """Where a step's inputs and outputs are, by name."""

    inputs: dict[str, int]
    outputs: dict[str, int]


def places(content: bytes) -> Places:
    """The order of a step's inputs and outputs, by its signature.

    Raises:
        RequestError: if the file is damaged.
    """
    model = flatbuffer.read(content)
    graph, signature = model.subgraphs[0], model.signatureDefs[0]

    def order(tensors, entries):
        indices = [int(tensor) for tensor in tensors]
        return {flatbuffer.text(e.name): indices.index(e.tensorIndex) for e in entries}

    return Places(order(graph.inputs, signature.inputs), order(graph.outputs, signature.outputs))


def rates_of(update: Update, rate: float, steps: int) -> np.ndarray:
    """float32[2], the rates of a step, as the program around it works them out.

    Args:
        update: the optimizer's.
        rate: the learning rate.
        steps: updates with this one.
    """
    if update.kind != "adam":
        return np.array([rate, rate], np.float32)
    made_up = np.sqrt(1 - update.beta_2**steps) / (1 - update.beta_1**steps)
    return np.array([rate, rate * made_up], np.float32)


class Steps(NamedTuple):
    """What some steps left.

    Args:
        state: by name.
        losses: float32[steps].
        arena: bytes of memory that TFLite Micro used, on a 64-bit computer.
    """

    state: dict[str, np.ndarray]
    losses: np.ndarray
    arena: int


def run(
    recipe: Recipe,
    content: bytes,
    state: Mapping[str, np.ndarray],
    batches: Mapping[str, np.ndarray],
    arena: int | None = None,
) -> Steps:
    """Trains in the TFLite Micro interpreter, in a process of its own.

    Args:
        recipe: of the file.
        content: of make_step.
        state: all of it, the step included.
        batches: "features" float32[steps, b, feature_dim], "labels" int32[steps, b], "rates"
            float32[steps], the learning rates.
        arena: bytes to give it; None for plenty.

    Raises:
        RequestError: if the interpreter isn't installed.
        RunError: if it can't run the file.
    """
    require()
    found = places(content)
    kept = [name for name in found.inputs if name not in (FEATURES, TRUTH, RATES)]
    first = int(state[STEP]) + 1
    rates = [rates_of(recipe.update, rate, first + i) for i, rate in enumerate(batches["rates"])]
    truth = np.eye(recipe.num_classes, dtype=np.float32)[batches["labels"]]
    fed = {FEATURES: np.float32(batches["features"]), TRUTH: truth, RATES: np.stack(rates)}
    with tempfile.TemporaryDirectory() as folder:
        model, data, out = (Path(folder) / name for name in ("model.tflite", "in.npz", "out.npz"))
        model.write_bytes(content)
        arrays = fed | {name: np.asarray(state[name], np.float32) for name in kept}
        np.savez(data, **arrays)  # type: ignore[arg-type]  # taken for allow_pickle
        command = [sys.executable, "-m", __name__, *map(str, (model, data, out, arena or 64 << 20))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        used = arena_used(done, out)
        with np.load(out) as arrays:
            now = {name: arrays[name] for name in kept if name in arrays}
            losses = arrays[LOSS]
    now[STEP] = np.array(first - 1 + len(rates), np.int32)
    return Steps({**state, **now}, losses, used)


def needed_arena(recipe: Recipe, content: bytes, state: Mapping[str, np.ndarray]) -> int:
    """Bytes of arena that a program should set aside, proven by a step in exactly that much.

    Raises:
        RunError: if the file can't be run.
    """
    rows = recipe.batch_size
    batches = {
        "features": np.zeros((1, rows, recipe.feature_dim), np.float32),
        "labels": np.zeros((1, rows), np.int32),
        "rates": np.zeros(1, np.float32),
    }
    return proven_arena(lambda arena: run(recipe, content, state, batches, arena).arena)


def _main(argv: list[str]) -> None:
    from tflite_micro.python.tflite_micro import runtime

    model, data, out, arena = argv
    found = places(Path(model).read_bytes())
    interpreter = runtime.Interpreter.from_file(model, arena_size=int(arena))
    with np.load(data) as arrays:
        fed = {name: arrays[name] for name in arrays.files}
    losses = []
    for batch in _rows({name: fed.pop(name) for name in (FEATURES, TRUTH, RATES)}):
        # The interpreter's plan may put outputs where inputs were: all go in, in every step.
        for name, value in {**fed, **batch}.items():
            interpreter.set_input(value, found.inputs[name])
        interpreter.invoke()
        got = {name: interpreter.get_output(place) for name, place in found.outputs.items()}
        losses.append(got.pop(LOSS)[0])
        fed |= {name: np.array(value) for name, value in got.items() if name in fed}
    arrays = fed | {LOSS: np.array(losses, np.float32)}
    np.savez(out, **arrays)  # type: ignore[arg-type]
    interpreter.print_allocations()


def _rows(batches: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for values in zip(*batches.values(), strict=True):
        yield dict(zip(batches, values, strict=True))


if __name__ == "__main__":
    _main(sys.argv[1:])
