"""A training step in the TFLite Micro interpreter, beside Keras."""

import keras
import numpy as np
import pytest

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.export.devices.targets import MICRO_OPERATORS
from sparse_ist_tf.export.files.operators import operators
from sparse_ist_tf.export.training.micro import make_step, needed_arena, places, rates_of, run
from sparse_ist_tf.export.training.recipe import Recipe
from sparse_ist_tf.export.training.reference import by_keras
from tests.fixtures.subnet_training import (
    OPTIMIZERS,
    ROWS,
    STEPS,
    batches_of,
    examples,
    recipe_for,
    state_of,
)


@pytest.fixture(autouse=True)
def interpreter():
    """Skips where the interpreter isn't installed."""
    pytest.importorskip("tflite_micro", reason="needs pip install --pre tflite-micro")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_hundred_steps_are_those_of_keras(optimizer):
    recipe = recipe_for(optimizer, label_smoothing=0.1)
    state, (features, labels) = state_of(recipe), examples()
    rates = np.linspace(3e-2, 1e-3, STEPS, dtype=np.float32)
    batches = batches_of(features, labels, rates)
    wanted, losses, _ = by_keras(recipe, state, batches)
    found = run(recipe, make_step(recipe), state, batches)
    for name, value in wanted.items():
        np.testing.assert_allclose(found.state[name], value, rtol=0, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(found.losses, losses, atol=1e-4)
    assert found.state["step"] == state["step"] + STEPS
    assert min(np.abs(found.state[n] - state[n]).max() for n in recipe.weights) > 1e-2


def test_a_subnet_on_a_small_feature_trains_in_a_quarter_of_a_mebibyte():
    adam = keras.optimizers.serialize(keras.optimizers.Adam())
    recipe = Recipe(96, (32, 32), 10, (2.0, 2.0), adam, batch_size=8)
    content = make_step(recipe)
    state = {name: np.zeros(shape, np.float32) for name, shape in recipe.shapes.items()}
    held = sum(value.nbytes for value in state.values())  # beside the arena
    arena = needed_arena(recipe, content, state)
    assert arena + held <= 256 << 10
    assert len(content) < 32 << 10
    with pytest.raises(RunError, match="TFLite Micro can't run it"):
        run(recipe, content, state, _one(recipe), arena // 2)


def _one(recipe):
    return batches_of(
        np.zeros((ROWS, recipe.feature_dim), np.float32),
        np.zeros(ROWS, np.int32),
        np.zeros(1, np.float32),
    )


def test_operators_are_those_of_tflite_micro_and_all_is_float32():
    recipe = recipe_for("adamw")
    content = make_step(recipe)
    assert {op.name for op in operators(content)} <= MICRO_OPERATORS.keys()
    found = places(content)
    assert found.inputs.keys() == {*recipe.shapes, "features", "truth", "rates"} - {"step"}
    assert sorted(found.inputs.values()) == list(range(len(found.inputs)))
    moved = {name for names in recipe.columns.values() for name in names}
    assert found.outputs.keys() == {*moved, "loss", "logits"}


def test_rates_make_up_for_moments_that_began_at_zero():
    update = recipe_for("adam").update
    np.testing.assert_allclose(rates_of(update, 0.1, 1), [0.1, 0.1 * 0.001**0.5 / 0.1], rtol=1e-6)
    np.testing.assert_allclose(rates_of(update, 0.1, 10**6), [0.1, 0.1], rtol=1e-6)
    assert rates_of(recipe_for("momentum").update, 0.5, 1).tolist() == [0.5, 0.5]
