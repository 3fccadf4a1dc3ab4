"""Files that train a subnet, in LiteRT, beside the training that makes them elsewhere."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.training.files import make_trainable
from sparse_ist_tf.export.training.recipe import Recipe
from sparse_ist_tf.export.training.reference import by_keras
from sparse_ist_tf.export.training.runtime import Trainable
from tests.fixtures.subnet_training import (
    CLASSES,
    OPTIMIZERS,
    ROWS,
    STEPS,
    batches_of,
    examples,
    recipe_for,
    state_of,
)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_hundred_steps_are_those_of_keras(optimizer, smoothing):
    recipe = recipe_for(optimizer, label_smoothing=smoothing)
    state, (features, labels) = state_of(recipe), examples()
    rates = np.linspace(3e-2, 1e-3, STEPS, dtype=np.float32)
    wanted, losses, right = by_keras(recipe, state, batches_of(features, labels, rates))
    subnet = Trainable(make_trainable(recipe))
    subnet.write(state)
    seen = [
        subnet.train(features[at : at + ROWS], labels[at : at + ROWS], rate)
        for at, rate in zip(range(0, STEPS * ROWS, ROWS), rates, strict=True)
    ]
    found = subnet.read()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)
    np.testing.assert_allclose([each.loss for each in seen], losses, atol=1e-5)
    assert round(sum(each.accuracy for each in seen) * ROWS) == right
    assert found["step"] == state["step"] + STEPS
    assert np.array_equal(found["adjustment"], state["adjustment"])
    moved = [np.abs(found[name] - state[name]).max() for name in recipe.weights]
    assert min(moved) > 1e-2


@pytest.fixture(scope="module")
def content():
    """An Adam file."""
    recipe = recipe_for("adam")
    return make_trainable(recipe, state_of(recipe))


def test_what_is_written_is_read_and_what_is_left_out_stays(content):
    recipe, subnet = recipe_for("adam"), Trainable(content)
    first, other = state_of(recipe), state_of(recipe, seed=1)
    assert subnet.shapes == recipe.shapes
    assert subnet.columns == recipe.columns
    for name, value in subnet.read().items():
        assert np.array_equal(value, first[name]), name
    part = {name: other[name] for name in ("dense_1_kernel", "step")}
    subnet.write(part)
    for name, value in subnet.read().items():
        assert np.array_equal(value, part.get(name, first[name])), name
    subnet.write(other)
    for name, value in subnet.read().items():
        assert np.array_equal(value, other[name]), name


def test_what_it_makes_of_features_is_what_the_subnet_makes(content):
    recipe, subnet = recipe_for("adam"), Trainable(content)
    state, features = state_of(recipe), examples(6)[0]
    x = features
    for i, scale in enumerate((2.0, 1.5, None)):
        x = x @ state[f"dense_{i}_kernel"] + state[f"dense_{i}_bias"]
        x = x if scale is None else np.maximum(x, 0) * scale
    np.testing.assert_allclose(subnet.infer(features), x, atol=1e-4)


def test_two_of_one_file_keep_their_ownstate_of(content):
    one, two = Trainable(content), Trainable(content)
    features, labels = examples(ROWS)
    before = two.read()
    one.train(features, labels, 0.1)
    assert not np.array_equal(one.read()["dense_0_kernel"], before["dense_0_kernel"])
    for name, value in two.read().items():
        assert np.array_equal(value, before[name])


def test_operators_are_all_built_in(content):
    model = flatbuffer.parse(content)
    names = {flatbuffer.op_name(model, o) for g in model.subgraphs for o in g.operators}
    assert not [name for name in names if name.startswith(("CUSTOM", "Flex"))]
    assert {"VAR_HANDLE", "ASSIGN_VARIABLE"} <= names


def test_a_file_of_zeros_says_each_shape_once():
    wide = recipe_for("adam", hidden=(300, 300), scales=(1.0, 1.0))
    weights = 4 * sum(int(np.prod(shape)) for shape in wide.weights.values())
    assert len(make_trainable(wide)) < 1.2 * weights  # and not 3 times, with moments


@pytest.mark.parametrize(
    ("initial", "told"),
    [
        ({"dense_0_kernal": np.zeros((24, 16))}, "has no 'dense_0_kernal'"),
        ({"dense_0_kernel": np.zeros((16, 24))}, r"is of shape \(16, 24\), must be \(24, 16\)"),
    ],
)
def test_a_file_does_not_begin_with_what_does_not_fit(initial, told):
    """A kernel that lies the other way has as many numbers."""
    with pytest.raises(RequestError, match=told):
        make_trainable(recipe_for("adam"), initial)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"step": np.array(-1)}, "step=-1: must be at least 0"),
        ({"dense_9_kernel": np.zeros(3)}, "has no 'dense_9_kernel'; it has dense_0_kernel"),
        ({"dense_0_bias": np.zeros(3)}, r"dense_0_bias is of shape \(3,\), must be \(16,\)"),
    ],
)
def test_what_does_not_fit_is_not_written(content, what, told):
    subnet = Trainable(content, "a.tflite")
    with pytest.raises(RequestError, match=rf"a\.tflite: {told}"):
        subnet.write(what)


def test_batches_that_do_not_fit_are_refused(content):
    subnet, (features, labels) = Trainable(content), examples(ROWS)
    before = subnet.read()
    with pytest.raises(RequestError, match=r"must be \(8, 24\) and \(8,\)"):
        subnet.train(features[:3], labels[:3], 0.1)
    for label in (-1, CLASSES, 0.5, np.nan):
        with pytest.raises(RequestError, match=r"labels must be in \[0, 5\)"):
            subnet.train(features, np.full(ROWS, label), 0.1)
    assert all(np.array_equal(value, before[name]) for name, value in subnet.read().items())
    for wrong in (features[0], features[:, :5], features[None]):
        with pytest.raises(RequestError, match=r"features are of shape .*, must be \(n, 24\)"):
            subnet.infer(wrong)
    assert subnet.infer(features[:0]).shape == (0, CLASSES)


def test_a_step_that_is_written_stays_a_number(content):
    """A vector of one would change the shape of the file's variable."""
    subnet = Trainable(content)
    subnet.write({"step": np.array(3)})
    assert np.shape(subnet._run(subnet._read)["step"]) == ()


@pytest.mark.parametrize("rows", [1, 3])
def test_examples_lie_in_memory_as_they_like_and_threads_change_nothing(rows):
    recipe = recipe_for("adam", batch_size=rows)
    file, state, (features, labels) = make_trainable(recipe), state_of(recipe), examples(2 * rows)
    found = []
    for threads, batch in ((1, features[::2].copy()), (2, np.asfortranarray(features)[::2])):
        subnet = Trainable(file, threads=threads)
        subnet.write({n: np.asfortranarray(v) if v.ndim else v for n, v in state.items()})
        subnet.train(batch, labels[::2], 0.01)
        found.append(subnet.read())
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], atol=1e-6, err_msg=name)


def test_other_files_are_refused(head_file):
    with pytest.raises(RequestError, match="trains nothing; export --trainable"):
        Trainable(head_file)
    with pytest.raises(RequestError, match="damaged"):
        Trainable(b"nothing")


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        (keras.optimizers.Lion(), "must be one of sgd, adam, adamw"),
        (keras.optimizers.Adam(amsgrad=True), "amsgrad=True"),
        (keras.optimizers.SGD(clipnorm=1.0), "clipnorm=1.0"),
        (keras.optimizers.Adam(gradient_accumulation_steps=4), "gradient_accumulation_steps=4"),
        (keras.optimizers.Adam(loss_scale_factor=4.0), "loss_scale_factor=4.0"),
    ],
)
def test_what_no_step_honours_is_refused(optimizer, told):
    with pytest.raises(RequestError, match=told):
        Recipe(4, (3,), 2, (1.0,), keras.optimizers.serialize(optimizer))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"scales": (2.0,)}, r"scales=\(2.0,\): must be one for each of 2 hidden layers"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(change, told):
    with pytest.raises(RequestError, match=told):
        recipe_for("adam", **change)


_LIGHT = """
import json, sys
from pathlib import Path
import numpy as np
from sparse_ist_tf.export.training.runtime import Trainable
subnet = Trainable(Path(sys.argv[1]).read_bytes())
seen = subnet.train(np.ones((8, 24), np.float32), np.zeros(8, np.int32), 0.1)
heavy = sorted({"tensorflow", "keras"} & sys.modules.keys())
print(json.dumps([heavy, seen.loss]))
"""


def test_a_device_needs_no_tensorflow(content, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    command = [sys.executable, "-c", _LIGHT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    heavy, loss = json.loads(done.stdout)
    assert heavy == []
    assert loss > 0
