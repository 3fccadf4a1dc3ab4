"""Making .tflite files that train a subnet, of operators that LiteRT has built in."""

import tempfile
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from sparse_ist_tf.export.training.recipe import STEP, Recipe, checked
from sparse_ist_tf.export.training.step import logits_of, rates_of, step


def make_trainable(recipe: Recipe, initial: Mapping[str, np.ndarray] | None = None) -> bytes:
    """A file that keeps a subnet's state and trains it.

    Its signatures: `train` takes features float32[b, feature_dim], labels int32[b] and
    learning_rate, a float32, and gives the loss before the step, in nats, and the share of right
    answers; `infer` takes a feature float32[1, feature_dim] and gives logits; `read` gives the
    whole state by name, `write` takes it.

    Args:
        recipe: of the subnet.
        initial: arrays by the names of Recipe.shapes; zeros where left out.

    Returns:
        The file's bytes.

    Raises:
        RequestError: if a name isn't one of these, or a shape is another.
    """
    module = _Module(recipe, initial or {})
    rows, features = recipe.batch_size, recipe.feature_dim
    state = {name: tf.TensorSpec(v.shape, v.dtype, name) for name, v in module.state.items()}
    signatures = {
        "train": tf.function(module.train).get_concrete_function(
            features=tf.TensorSpec((rows, features), tf.float32, "features"),
            labels=tf.TensorSpec((rows,), tf.int32, "labels"),
            learning_rate=tf.TensorSpec((), tf.float32, "learning_rate"),
        ),
        "infer": tf.function(module.infer).get_concrete_function(
            feature=tf.TensorSpec((1, features), tf.float32, "feature")
        ),
        "read": tf.function(module.read).get_concrete_function(),
        "write": tf.function(module.write).get_concrete_function(**state),
    }
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.experimental_enable_resource_variables = True
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


class _Module(tf.Module):
    def __init__(self, recipe: Recipe, initial: Mapping[str, np.ndarray]):
        super().__init__()
        self.recipe = recipe
        zeros = {name: np.zeros(shape, _dtype(name)) for name, shape in recipe.shapes.items()}
        state = zeros | checked(initial, recipe.shapes)
        self.state = {name: tf.Variable(value, name=name) for name, value in state.items()}

    def train(self, features, labels, learning_rate):
        truth = tf.one_hot(labels, self.recipe.num_classes)
        state = {name: variable.read_value() for name, variable in self.state.items()}
        rates = rates_of(self.recipe.update, learning_rate, state[STEP] + 1)
        now, loss, logits = step(self.recipe, state, features, truth, rates)
        right = tf.equal(tf.argmax(logits, -1, tf.int32), labels)
        for name, value in {**now, STEP: state[STEP] + 1}.items():
            self.state[name].assign(value)
        return {"loss": loss, "accuracy": tf.reduce_mean(tf.cast(right, tf.float32))}

    def infer(self, feature):
        return {"logits": logits_of(self.recipe, self.state, feature)}

    def read(self):
        return {name: variable.read_value() for name, variable in self.state.items()}

    def write(self, **state):
        for name, value in state.items():
            self.state[name].assign(value)
        return {"written": tf.constant(len(state))}


def _dtype(name: str) -> type:
    return np.int32 if name == STEP else np.float32
