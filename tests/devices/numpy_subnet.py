"""A subnet that trains in NumPy, with the methods of a training .tflite file."""

from typing import NamedTuple

import numpy as np


class Seen(NamedTuple):
    loss: float
    accuracy: float


class NumpySubnet:
    """An MLP with relu, its inputs from hidden layers scaled, trained by SGD or Adam as Keras'."""

    def __init__(self, sizes, scales, batch_size, optimizer="adam"):
        self.batch_size, self.feature_dim, self.num_classes = batch_size, sizes[0], sizes[-1]
        self.scales, self.optimizer = scales, optimizer
        kinds = ("_momentum", "_velocity") if optimizer == "adam" else ()
        self.shapes, self.columns = {"step": (), "adjustment": (sizes[-1],)}, {}
        for i in range(len(sizes) - 1):
            for what, shape in (("kernel", sizes[i : i + 2]), ("bias", sizes[i + 1 : i + 2])):
                name = f"dense_{i}_{what}"
                self.columns[f"dense_{i}/{what}"] = (name, *(name + kind for kind in kinds))
                self.shapes |= {name + kind: tuple(shape) for kind in ("", *kinds)}
        self.state = {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}

    def write(self, arrays):
        for name, array in arrays.items():
            assert np.shape(array) == self.shapes[name], name
            self.state[name] = np.array(array, np.float32 if name != "step" else np.int32)

    def read(self):
        return {name: array.copy() for name, array in self.state.items()}

    def train(self, features, labels, learning_rate):
        state, count = self.state, len(self.columns) // 2
        inputs, outputs, x = [], [], features
        for i in range(count):
            inputs.append(x)
            x = x @ state[f"dense_{i}_kernel"] + state[f"dense_{i}_bias"]
            outputs.append(x)
            if i < count - 1:
                x = np.maximum(x, 0) * np.float32(self.scales[i])
        adjusted = x + state["adjustment"]
        shifted = adjusted - adjusted.max(axis=1, keepdims=True)
        log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        rows = np.arange(len(labels))
        loss, right = -log[rows, labels].mean(), (x.argmax(axis=1) == labels).mean()
        slope = np.exp(log)
        slope[rows, labels] -= 1
        slope /= np.float32(len(labels))
        gradients = {}
        for i in reversed(range(count)):
            gradients[f"dense_{i}_kernel"] = inputs[i].T @ slope
            gradients[f"dense_{i}_bias"] = slope.sum(axis=0)
            if i:
                slope = slope @ state[f"dense_{i}_kernel"].T * np.float32(self.scales[i - 1])
                slope = slope * (outputs[i - 1] > 0)
        self._update(gradients, learning_rate)
        return Seen(float(loss), float(right))

    def _update(self, gradients, rate):
        step = int(self.state["step"]) + 1
        alpha = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        for name, gradient in gradients.items():
            if self.optimizer == "sgd":
                self.state[name] = self.state[name] - np.float32(rate) * gradient
                continue
            m, v = self.state[name + "_momentum"], self.state[name + "_velocity"]
            m = m + (gradient - m) * np.float32(0.1)
            v = v + (gradient**2 - v) * np.float32(0.001)
            change = np.float32(alpha) * m / (np.sqrt(v) + np.float32(1e-7))
            self.state |= {name: self.state[name] - change, f"{name}_momentum": m}
            self.state[f"{name}_velocity"] = v
        self.state["step"] = np.array(step, np.int32)
