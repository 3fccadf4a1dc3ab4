"""The range of every tensor of a float file, measured on real inputs, for its integers to cover."""

import itertools

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sparse_ist_tf.errors import RunError
from sparse_ist_tf.export.integers.memory import Recording

_BINS = 2048
_SEEN = 4096  # numbers of a tensor that a sample adds to its histogram
_STEPS = 255  # of int8
_SPAN = "span"  # the least and the largest of a tensor's numbers, and 0


def calibrate(recording: Recording, bits: int) -> dict[int, tuple[float, float]]:
    """Measures the range of every float tensor of a file on real inputs.

    For 8 bits a range is the one that loses least: of some hundred ways to cut the measured
    histogram, that with the smallest mean squared error of cutting and rounding together; for
    logits best_logits_range(). For 16 it is twice what was seen: a lost bit costs nothing there, a
    cut value does.

    Args:
        recording: of a float .tflite file.
        bits: 8 or 16.

    Returns:
        By tensor index.

    Raises:
        RunError: if there are no samples, or a value is not finite.
    """
    graph, result = recording.model.subgraphs[0], recording.output
    computed = {index for op in graph.operators for index in op.outputs}
    computed |= {port.index for port in recording.inputs}
    is_float = [tensor.type == schema.TensorType.FLOAT32 for tensor in graph.tensors]
    watched = [index for index in sorted(computed) if is_float[index]]
    gives_logits = result.name == "logits"
    keys = {
        index: (bits, gives_logits and index == result.index, recording.origins[index])
        for index in watched
    }
    memory = recording.memory
    new = [index for index in watched if keys[index] not in memory]
    for index, found in _measured(recording, new, bits).items():
        memory[keys[index]] = found
    return {index: memory[key] for index, key in keys.items()}


def _measured(recording, watched, bits):
    result, origins, memory = recording.output, recording.origins, recording.memory
    of_logits = result.index if result.name == "logits" and bits == 8 else None
    new = [i for i in watched if (_SPAN, origins[i]) not in memory or i == of_logits]
    extremes: dict[int, list[float]] = {index: [] for index in new}
    logits = []
    for index, value in recording.of(new):
        if index == of_logits:
            logits.append(value.reshape(1, -1))
        extremes[index] += float(value.min()), float(value.max())
    if not all(found and np.isfinite(found).all() for found in extremes.values()):
        raise RunError("calibration: no samples, or a tensor that is not finite")
    for index, found in extremes.items():
        memory[_SPAN, origins[index]] = min(0.0, *found), max(0.0, *found)
    spans = {index: memory[_SPAN, origins[index]] for index in watched}
    if bits == 16:
        return {index: (2 * low, 2 * high) for index, (low, high) in spans.items()}
    counts = {index: np.zeros(_BINS) for index in watched}
    turns = dict.fromkeys(watched, 0)
    for index, value in recording.of(watched):
        low, high = spans[index]
        if high > low:
            # An odd stride walks through all channels; each sample starts at another place.
            stride = max(1, value.size // _SEEN) | 1
            turns[index] += 1
            part = value.ravel()[turns[index] % stride :: stride]
            places = (part - low) * (_BINS / (high - low))
            places = np.minimum(places.astype(np.int64), _BINS - 1)
            counts[index] += np.bincount(places, minlength=_BINS)
    ranges = {index: best_range(counts[index], *spans[index]) for index in watched}
    if logits:
        ranges[result.index] = best_logits_range(np.concatenate(logits))
    return ranges


def best_range(counts: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The part of a histogram's span that int8 renders with the smallest mean squared error.

    Args:
        counts: of values in equal bins from low to high.
        low: at most 0.
        high: at least 0.

    Returns:
        (low, high), inside the span, around 0.
    """
    if not high > low or not counts.sum():
        return low, high
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    weights = counts / counts.sum()

    def loss(a, b):
        step = (b - a) / _STEPS
        cut = np.maximum(a - centres, 0) + np.maximum(centres - b, 0)
        return float((weights * cut**2).sum() + step**2 / 12 * weights[cut == 0].sum())

    best = (low, high)
    least = loss(*best)
    # Both ends in turn and once more, each over the fractions of its side.
    for side, fraction in itertools.product((0, 1, 0, 1), np.geomspace(1.0, 0.05, 60)):
        end = (low, high)[side] * fraction
        trial = (best[0], end) if side else (end, best[1])
        value = loss(*trial) if trial[1] > trial[0] else np.inf
        if value < least:
            best, least = trial, value
    return best


def best_logits_range(logits: np.ndarray) -> tuple[float, float]:
    """The range of logits that changes the probabilities least when int8 renders them.

    Logits far below an image's largest mean nothing, and those of a few images reach far above
    the others': covering both would make steps so wide that close logits become equal.

    Args:
        logits: float[n, classes].

    Returns:
        (low, high), inside the span and around 0: of a grid of them, the one with the smallest
        mean Kullback-Leibler divergence between the softmax of the logits and of their integers.
    """
    logits = np.asarray(logits, np.float64)
    span = min(logits.min(), 0.0), max(logits.max(), 0.0)
    wanted = _log_softmax(logits)
    weights = np.exp(wanted) / len(logits)

    def divergence(low, high):
        step = (high - low) / _STEPS
        integers = np.round((np.clip(logits, low, high) - low) / step)
        return float((weights * (wanted - _log_softmax(integers * step))).sum())

    best, least = span, np.inf
    for low, high in itertools.product(*(end * np.geomspace(1.0, 0.05, 30) for end in span)):
        value = divergence(low, high) if high > low else np.inf
        if value < least:
            best, least = (float(low), float(high)), value
    return best


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
