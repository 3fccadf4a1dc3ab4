"""Smaller heads by fine-tuning: pruning, weight clustering, quantization-aware training.

All three are tensorflow-model-optimization's, on a tf_keras copy of the head, in a process of its
own: importing them switches TensorFlow to Keras 2 for whatever comes after.

    python -m sparse_ist_tf.export.compress INPUT OUTPUT OPTIONS
"""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sparse_ist_tf.errors import RequestError, RunError

_NEEDED = ("tensorflow_model_optimization", "tf_keras")
_ENVIRONMENT = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclasses.dataclass(frozen=True)
class Compression:
    """What to do to a head before it is converted.

    Args:
        qat: fine-tune under simulated int8; pipeline.py gives it int8 features for classifiers.
        prune: "" (no), "2:4" (of four neighbours at most two are not zero) or the share of zeros,
            such as "0.8".
        cluster: distinct values of each kernel; 0 for no clustering.
        epochs: of fine-tuning, for each of them.
        learning_rate: of Adam.
        seed: of batches.

    Raises:
        RequestError: if an option isn't allowed.
    """

    qat: bool = False
    prune: str = ""
    cluster: int = 0
    epochs: int = 3
    learning_rate: float = 3e-4
    seed: int = 0

    def __post_init__(self) -> None:
        share = re.fullmatch(r"0?\.\d+", self.prune)
        if self.prune and self.prune != "2:4" and not (share and float(self.prune) > 0):
            raise RequestError(f"prune={self.prune!r}: must be 2:4 or a share between 0 and 1")
        if self.cluster and not 2 <= self.cluster <= 256:
            raise RequestError(f"cluster={self.cluster}: must be between 2 and 256")
        if self.epochs < 1:
            raise RequestError(f"epochs={self.epochs}: must be at least 1")

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return self.qat or bool(self.prune) or bool(self.cluster)


def require(compression: Compression) -> None:
    """Checks that what a compression needs is installed.

    Raises:
        RequestError: if not, with the command that brings it.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if compression.any and missing:
        raise RequestError(
            "qat, prune and cluster need tensorflow-model-optimization; run `pip install tf-keras "
            "dm-tree && pip install --no-deps tensorflow-model-optimization`"
        )


def compress(
    parameters: Mapping[str, np.ndarray],
    features: np.ndarray,
    labels: np.ndarray,
    compression: Compression,
) -> dict[str, np.ndarray]:
    """Compresses a head or a subnet.

    Args:
        parameters: by name, as ist.head has them.
        features: float32[n, feature_dim], of the training images.
        labels: int[n].
        compression: what to do.

    Returns:
        Parameters of the same names and shapes: zeros where pruned, cluster values where clustered.

    Raises:
        RequestError: if the optimization toolkit isn't installed.
        RunError: if the fine-tuning fails.
    """
    require(compression)
    if not compression.any:
        return dict(parameters)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.npz"), Path(folder, "after.npz")
        data = {"features": features, "labels": np.asarray(labels, np.int32)}
        np.savez(before, **data, **dict(parameters))  # type: ignore[arg-type]  # none is allow_pickle
        options = json.dumps(dataclasses.asdict(compression))
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(before), str(after), options],
            env={**os.environ, **_ENVIRONMENT, "KERAS_HOME": folder},  # not its keras.json
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not after.exists():
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise RunError(f"compression failed: {lines[-1][:300]}")
        with np.load(after) as found:
            return {name: found[name] for name in found.files}


def _main(argv: list[str]) -> None:
    before, after, options = argv
    with np.load(before) as data:
        arrays = {name: data[name] for name in data.files}
    features, labels = arrays.pop("features"), arrays.pop("labels")
    worker = _Worker(arrays, features, labels, Compression(**json.loads(options)))
    np.savez(after, **worker.run())  # type: ignore[arg-type]  # likewise


class _Worker:
    """The steps, one after the other, in the process that may use Keras 2."""

    def __init__(self, parameters, features, labels, compression):
        import tensorflow_model_optimization as tfmot
        import tf_keras

        self.tfmot, self.keras, self.compression = tfmot, tf_keras, compression
        self.features, self.labels = features, labels
        tf_keras.utils.set_random_seed(compression.seed)
        self.count = len(parameters) // 2
        self.model = self._build(parameters)

    def _build(self, parameters):
        layers = self.keras.layers
        model = self.keras.Sequential([layers.Input((self.features.shape[1],))])
        for i in range(self.count):
            kernel, bias = (parameters[f"dense_{i}/{part}"] for part in ("kernel", "bias"))
            activation = "relu" if i < self.count - 1 else None
            model.add(layers.Dense(kernel.shape[1], activation=activation, name=f"dense_{i}"))
            model.layers[-1].set_weights([kernel, bias])
        return model

    def run(self) -> dict[str, np.ndarray]:
        if self.compression.prune:
            self.model = self._prune()
        if self.compression.cluster:
            self.model = self._cluster()
        parameters = {}
        for i in range(self.count):
            kernel, bias = self.model.get_layer(f"dense_{i}").get_weights()
            parameters |= {f"dense_{i}/kernel": kernel, f"dense_{i}/bias": bias}
        return self._train_quantized(parameters) if self.compression.qat else parameters

    def _fit(self, model, callbacks=()):
        optimizer = self.keras.optimizers.Adam(self.compression.learning_rate)
        loss = self.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss)
        options = {"batch_size": 64, "epochs": self.compression.epochs, "verbose": 0}
        model.fit(self.features, self.labels, callbacks=list(callbacks), **options)

    def _prune(self):
        sparsity = self.tfmot.sparsity.keras
        if self.compression.prune == "2:4":
            schedule = sparsity.ConstantSparsity(0.5, begin_step=0, frequency=20)
            options = {"pruning_schedule": schedule, "sparsity_m_by_n": (2, 4)}
        else:
            steps = self.compression.epochs * -(-len(self.labels) // 64)
            schedule = sparsity.PolynomialDecay(
                initial_sparsity=0.0,
                final_sparsity=float(self.compression.prune),
                begin_step=0,
                end_step=max(1, steps * 2 // 3),
                frequency=max(1, steps // 50),
            )
            options = {"pruning_schedule": schedule}
        model = sparsity.prune_low_magnitude(self.model, **options)
        self._fit(model, [sparsity.UpdatePruningStep()])
        return sparsity.strip_pruning(model)

    def _cluster(self):
        from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

        clustering = self.tfmot.clustering.keras
        model = cluster.cluster_weights(
            self.model,
            number_of_clusters=self.compression.cluster,
            cluster_centroids_init=clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=bool(self.compression.prune),
        )
        self._fit(model)
        return clustering.strip_clustering(model)

    def _train_quantized(self, parameters):
        """Fine-tunes under simulated int8; zeros stay zero and clusters stay clusters."""
        model = self.tfmot.quantization.keras.quantize_model(self._build(parameters))
        variables = {}
        for name in parameters:  # the wrapped layer's own kernel is the simulated one
            layer, part = name.split("/")
            weights = model.get_layer(f"quant_{layer}").trainable_weights
            variables[name] = next(v for v in weights if v.name.split(":")[0].endswith(part))
        kernels = {name: value for name, value in parameters.items() if name.endswith("kernel")}
        groups = {n: np.unique(v, return_inverse=True)[1].ravel() for n, v in kernels.items()}

        def project(*_, **__):
            for name, before in kernels.items():
                kernel, group = variables[name].numpy(), groups[name]
                if self.compression.cluster:
                    totals = np.bincount(group, kernel.ravel())
                    means = totals / np.maximum(1, np.bincount(group))
                    kernel = means[group].reshape(kernel.shape).astype(np.float32)
                if self.compression.prune:
                    kernel = np.where(before == 0, np.float32(0), kernel)
                variables[name].assign(kernel)

        callbacks = []
        if self.compression.prune or self.compression.cluster:
            callbacks = [self.keras.callbacks.LambdaCallback(on_batch_end=project)]
        self._fit(model, callbacks)
        return {name: variable.numpy() for name, variable in variables.items()}


if __name__ == "__main__":
    _main(sys.argv[1:])
