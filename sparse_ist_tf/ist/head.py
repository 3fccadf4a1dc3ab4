"""The head: an MLP on features, its parameters by name, and subnets as classifiers of their own."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np

from sparse_ist_tf.ist.partition import Partition
from sparse_ist_tf.streams import Stream

EPSILON = 1e-5  # added to variances


@dataclasses.dataclass(frozen=True)
class ParameterSpec:
    """One parameter of the head, and along which hidden layers its axes are partitioned.

    Args:
        name: such as "dense_0/kernel".
        shape: of the whole parameter; a vector or a matrix.
        layers: per axis the hidden layer whose neurons it runs over, None where it belongs to all
            subnets.
    """

    name: str
    shape: tuple[int, ...]
    layers: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """The shape of a head.

    Args:
        feature_dim: inputs.
        hidden: neurons of each hidden layer, at least one layer.
        num_classes: outputs.

    Example:
        >>> from sparse_ist_tf.ist.head import HeadSpec
        >>> HeadSpec(192, (1000, 1000), 10).num_parameters
        1204010
    """

    feature_dim: int
    hidden: tuple[int, ...]
    num_classes: int

    def parameters(self) -> list[ParameterSpec]:
        """Kernels and biases in the order of the layers."""
        sizes = (self.feature_dim, *self.hidden, self.num_classes)
        axes = (None, *range(len(self.hidden)), None)
        specs = []
        for i in range(len(sizes) - 1):
            kernel, bias = f"dense_{i}/kernel", f"dense_{i}/bias"
            specs.append(ParameterSpec(kernel, (sizes[i], sizes[i + 1]), (axes[i], axes[i + 1])))
            specs.append(ParameterSpec(bias, (sizes[i + 1],), (axes[i + 1],)))
        return specs

    @property
    def num_parameters(self) -> int:
        """Entries of all parameters."""
        return sum(int(np.prod(spec.shape)) for spec in self.parameters())


def init_parameter(
    spec: ParameterSpec,
    seed: int,
    position: int,
    initializer: str = "he_normal",
    num_subnets: int = 1,
) -> np.ndarray:
    """The initial value of a parameter: random kernels, zero biases.

    Source: "Delving Deep into Rectifiers" (He et al., 2015), equation 10; "Understanding the
    difficulty of training deep feedforward neural networks" (Glorot and Bengio, 2010), equation 16.

    Args:
        spec: which.
        seed: at least 0.
        position: of the parameter in the head; its stream of random numbers.
        initializer: of kernels with f inputs and g outputs: "he_normal" (variance 2 / f),
            "subnet_he_normal" (behind a hidden layer 2 / (f N), so that a subnet with the scaling
            of its inputs begins as he_normal), "lecun_normal" (1 / f), "glorot_uniform" (2 / (f +
            g)), or "torch_uniform" (1 / (3 f), as torch.nn.Linear, which the paper's code uses).
        num_subnets: N.

    Returns:
        float32 of spec.shape, a function of the arguments alone.
    """
    rows = [slice(0, spec.shape[0] if len(spec.shape) == 2 else 1)]
    (block,) = init_blocks(spec, seed, position, initializer, num_subnets, rows)
    return block.reshape(spec.shape)


def init_blocks(
    spec: ParameterSpec,
    seed: int,
    position: int,
    initializer: str,
    num_subnets: int,
    rows: Iterable[slice],
) -> Iterator[np.ndarray]:
    """What init_parameter gives, some rows at a time.

    Args:
        spec: as init_parameter, and the next four; a vector counts as a matrix of one row.
        seed: at least 0.
        position: of the parameter.
        initializer: of kernels.
        num_subnets: N.
        rows: all of them, one slice behind the other.

    Yields:
        float32[rows, entries of a row, 1].
    """
    if len(spec.shape) == 1:
        yield from (np.zeros((1, *spec.shape, 1), np.float32) for _ in rows)
        return
    rng = Stream.INITIAL_WEIGHTS.rng(seed, position)
    inputs, outputs = spec.shape
    variances = {
        "he_normal": 2 / inputs,
        "subnet_he_normal": 2 / (inputs * (1 if spec.layers[0] is None else num_subnets)),
        "lecun_normal": 1 / inputs,
        "glorot_uniform": 2 / (inputs + outputs),
        "torch_uniform": 1 / (3 * inputs),
    }
    std = np.sqrt(variances[initializer])
    limit = np.sqrt(3) * std
    for some in rows:
        shape = some.stop - some.start, outputs
        if initializer.endswith("_normal"):
            block = rng.standard_normal(shape, np.float32) * std
        else:
            block = rng.uniform(-limit, limit, shape)
        yield block.astype(np.float32)[..., None]


def init_parameters(
    spec: HeadSpec, seed: int, initializer: str = "he_normal", num_subnets: int = 1
) -> dict[str, np.ndarray]:
    """Initial values of a whole head.

    Args:
        spec: the head's shape.
        seed: at least 0.
        initializer: as init_parameter.
        num_subnets: as init_parameter.

    Returns:
        float32 arrays by name.
    """
    specs = enumerate(spec.parameters())
    return {part.name: init_parameter(part, seed, i, initializer, num_subnets) for i, part in specs}


def extract(
    parameters: Mapping[str, np.ndarray],
    spec: HeadSpec,
    partition: Partition,
    subnet: int,
    scale_inputs: bool = True,
) -> dict[str, np.ndarray]:
    """One subnet as a standalone MLP, with the scaling of its inputs folded into the kernels.

    Returns:
        float32 arrays by name; a kernel behind a hidden layer is multiplied by (layer width /
        subnet width).

    Example:
        >>> from sparse_ist_tf.ist.head import HeadSpec, extract, init_parameters
        >>> from sparse_ist_tf.ist.partition import make_partition
        >>> spec = HeadSpec(8, (6,), 3)
        >>> partition = make_partition(0, 0, (6,), 2)
        >>> extract(init_parameters(spec, 0), spec, partition, 1)["dense_0/kernel"].shape
        (8, 3)
    """
    scales = partition.scales(subnet)
    out = {}
    for part in spec.parameters():
        value = np.asarray(parameters[part.name])
        axes = [
            np.arange(size) if layer is None else partition.indices[layer][subnet]
            for size, layer in zip(part.shape, part.layers, strict=True)
        ]
        value = value[np.ix_(*axes)]
        if scale_inputs and len(part.shape) == 2 and part.layers[0] is not None:
            value = value * np.float32(scales[part.layers[0]])
        out[part.name] = value
    return out


def logits(parameters: Mapping[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """The outputs of a head or an extracted subnet.

    Args:
        parameters: arrays by name.
        features: float32[n, feature_dim].

    Returns:
        float32[n, num_classes].
    """
    x, layers = features, len(parameters) // 2
    for i in range(layers):
        x = x @ parameters[f"dense_{i}/kernel"] + parameters[f"dense_{i}/bias"]
        if i < layers - 1:
            x = np.maximum(x, 0)
    return x


class Standard(NamedTuple):
    """What standardises some numbers: (x - mean) / std.

    Args:
        mean: float32[n].
        std: float32[n], above 0.
    """

    mean: np.ndarray
    std: np.ndarray


def hidden_statistics(
    parameters: Mapping[str, np.ndarray], features: np.ndarray
) -> dict[str, Standard]:
    """Mean and standard deviation of every hidden neuron of a head with batch normalisation.

    What a batch's own are in training, those of all training examples are in the finished head.

    Args:
        parameters: arrays by name, as trained.
        features: float32[n, feature_dim].

    Returns:
        float32[width] each, by hidden layer: {"dense_0": ..., ...}.
    """
    x, out = features, {}
    for i in range(len(parameters) // 2 - 1):
        x = x @ parameters[f"dense_{i}/kernel"]
        mean, std = out[f"dense_{i}"] = Standard(x.mean(axis=0), np.sqrt(x.var(axis=0) + EPSILON))
        x = np.maximum((x - mean) / std + parameters[f"dense_{i}/bias"], 0)
    return out


def fold(
    parameters: Mapping[str, np.ndarray], statistics: Mapping[str, Standard]
) -> dict[str, np.ndarray]:
    """A head of plain Dense layers that does what a head with its statistics does.

    Args:
        parameters: arrays by name, as trained.
        statistics: of normalised hidden layers by their names, of standardised "features"; any of
            them, or none.

    Returns:
        Arrays of the same names and shapes.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.ist.head import HeadSpec, Standard, fold, init_parameters
        >>> head, two = init_parameters(HeadSpec(8, (6,), 3), 0), np.full(8, 2, "float32")
        >>> folded = fold(head, {"features": Standard(two, two)})
        >>> bool(np.allclose(2 * folded["dense_0/kernel"], head["dense_0/kernel"]))
        True
    """
    out = dict(parameters)
    for i in range(len(parameters) // 2):
        kernel, bias = f"dense_{i}/kernel", f"dense_{i}/bias"
        if f"dense_{i}" in statistics:
            mean, std = statistics[f"dense_{i}"]
            out[kernel] = out[kernel] / std
            out[bias] = out[bias] - mean / std
    if "features" in statistics:
        mean, std = statistics["features"]
        out["dense_0/kernel"] = out["dense_0/kernel"] / std[:, None]
        out["dense_0/bias"] = out["dense_0/bias"] - mean @ out["dense_0/kernel"]
    return out


def probabilities(parameters: Mapping[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Softmax of logits().

    Args:
        parameters: arrays by name.
        features: float32[n, feature_dim].

    Returns:
        float32[n, num_classes]; rows add up to 1.
    """
    x = logits(parameters, features)
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose largest output is the label's.

    Args:
        outputs: [n, num_classes], logits or probabilities.
        labels: int[n].

    Returns:
        In [0, 1].
    """
    return float(np.mean(outputs.argmax(axis=1) == labels))


def build_model(parameters: Mapping[str, np.ndarray], name: str = "head") -> keras.Model:
    """A plain Keras model with a head's parameters.

    Args:
        parameters: arrays by name, of the merged head or of an extracted subnet.
        name: of the model.

    Returns:
        A Sequential of Dense layers: float32[b, feature_dim] to logits float32[b, num_classes].
    """
    count = len(parameters) // 2
    kernels: Sequence[np.ndarray] = [parameters[f"dense_{i}/kernel"] for i in range(count)]
    inputs = keras.Input((kernels[0].shape[0],), dtype="float32")
    model = keras.Sequential([inputs], name=name)
    for i, kernel in enumerate(kernels):
        activation = "relu" if i < count - 1 else None
        kind = {"activation": activation, "dtype": "float32", "name": f"dense_{i}"}
        layer = keras.layers.Dense(kernel.shape[1], **kind)
        model.add(layer)
        layer.set_weights([kernel, parameters[f"dense_{i}/bias"]])
    return model


def parameters_of(model: keras.Model) -> dict[str, np.ndarray]:
    """A head's parameters, the inverse of build_model: float32 arrays by name."""
    out = {}
    for i, layer in enumerate(model.layers):
        out[f"dense_{i}/kernel"], out[f"dense_{i}/bias"] = layer.get_weights()
    return out
