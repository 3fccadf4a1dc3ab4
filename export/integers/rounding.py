"""Weights to integers, each rounded so that a layer's outputs, not its weights, stay close."""

import dataclasses

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sparse_ist_tf.export.files import flatbuffer
from sparse_ist_tf.export.integers.memory import Recording

_DAMPING = 0.01  # of the mean variance, added to each
_SUMS, _KEPT_BYTES = "sums", 1 << 23  # of a tensor, for other files that have it


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a layer's inputs look like.

    Args:
        mean: float64[k]; zeros for a layer without a bias.
        covariance: float64[k, k], around that mean.
        count: of vectors that they were measured on.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int


def measure_inputs(recording: Recording, leave: int = 0) -> dict[int, Inputs]:
    """Measures the inputs of a float file's products with constant weights, by operator.

    Of one without a bias, which can't take up what remains on average, around zero. As many as
    `leave` at the end are left out.
    """
    products = _products(recording.model)
    products = products[: len(products) - leave]
    origins, memory = recording.origins, recording.memory
    sources = list(dict.fromkeys(source for _, source, _ in products))
    totals: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}
    known = {i: memory[_SUMS, origins[i]] for i in sources if (_SUMS, origins[i]) in memory}
    for index, value in recording.of([i for i in sources if i not in known]):
        rows = value.reshape(-1, value.shape[-1]).astype(np.float64)
        width = rows.shape[1]
        count, total, square = totals.get(index) or (0, np.zeros(width), np.zeros((width, width)))
        total += rows.sum(axis=0)
        square += rows.T @ rows
        totals[index] = count + len(rows), total, square
    for index, sums in totals.items():
        if sums[2].nbytes <= _KEPT_BYTES:
            memory[_SUMS, origins[index]] = sums
    known |= totals
    found = {}
    for operator, source, has_bias in products:
        if source in known:
            count, total, square = known[source]
            mean = total / count * has_bias
            found[operator] = Inputs(mean, square / count - np.outer(mean, mean), count)
    return found


def _products(model: schema.ModelT) -> list[tuple[int, int, bool]]:
    """(operator, tensor that it multiplies, whether it has a bias), in order."""
    graph = model.subgraphs[0]
    found = []
    for place, operator in enumerate(graph.operators):
        if flatbuffer.op_name(model, operator) not in ("FULLY_CONNECTED", "CONV_2D"):
            continue
        source, weights, *bias = operator.inputs
        values = flatbuffer.constant(model, graph.tensors[weights])
        width = flatbuffer.shape_of(graph.tensors[source])[-1]
        if values is not None and values.size == len(values) * width:
            found.append((place, source, bias not in ([], [-1])))
    return found


def round_weights(
    weights: np.ndarray, scale: np.ndarray, inputs: Inputs
) -> tuple[np.ndarray, np.ndarray]:
    """Integers for weights, the error of each made up for by those after it.

    Column by column to the nearest integer; the change in the outputs that this makes is taken
    back, as far as the inputs are correlated, by the columns that are still to be rounded. What
    remains on average goes into the bias. Zeros stay zeros.

    Args:
        weights: float[n, k].
        scale: float[n], of the integers of a row.
        inputs: measured by measure_inputs(); fewer vectors than k are trusted less.

    Returns:
        Integers in [-127, 127] as float64[n, k], and what is to be added to the bias, float64[n].

    Source: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
        (Frantar et al., 2023), algorithm 1; "Data-Free Quantization Through Weight Equalization
        and Bias Correction" (Nagel et al., 2019), section 4.2.
    """
    weights = np.asarray(weights, np.float64)
    width = weights.shape[1]
    covariance = inputs.covariance
    variances = np.diag(covariance)
    damping = _DAMPING * variances.mean() + np.finfo(np.float64).tiny
    doubt = width / (width + inputs.count)
    hessian = (1 - doubt) * covariance + np.diag(doubt * variances + damping)
    order = np.argsort(-variances, kind="stable")
    left = weights[:, order]  # a copy
    factor = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    integers = np.zeros_like(left)
    kept = left != 0
    for i in range(width):
        integers[:, i] = np.clip(np.round(left[:, i] / scale), -127, 127) * kept[:, i]
        error = (left[:, i] - integers[:, i] * scale) / factor[i, i]
        left[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])
    result = np.empty_like(integers)
    result[:, order] = integers
    return result, (weights - result * scale[:, None]) @ inputs.mean
