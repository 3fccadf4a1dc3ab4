"""TensorFlow's stateless random numbers in NumPy, bit for bit, for devices that lack TensorFlow.

Source: "Parallel random numbers: as easy as 1, 2, 3" (Salmon et al., 2011), section 3.3, for
Philox-4x32-10; TensorFlow's stateless_random_ops_v2.cc and random_distributions.h for how a seed
becomes key and counter, and bits become numbers.
"""

from collections.abc import Sequence

import numpy as np

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint32)
_ROUNDS, _MANTISSA = 10, 23
_SCRAMBLE = np.array([0x3EC8F720, 0x02461E29], np.uint32)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)

Seed = tuple[int, int]


def uniform(seed: Seed, shape: Sequence[int]) -> np.ndarray:
    """As tf.random.stateless_uniform: float32 in [0, 1)."""
    bits = _bits(seed, shape) & np.uint32((1 << _MANTISSA) - 1)
    return (bits | np.uint32(127 << _MANTISSA)).view(np.float32) - np.float32(1)


def integers(seed: Seed, shape: Sequence[int], count: int) -> np.ndarray:
    """As tf.random.stateless_uniform of int32: uint32 in [0, count)."""
    return _bits(seed, shape) % np.uint32(count)


def fold(seed: Seed, *counters: int) -> Seed:
    """As tf.random.experimental.stateless_fold_in, one counter after the other."""
    for counter in counters:
        seed = int(_bits(seed, ()).view(np.int32)), counter
    return seed


def _bits(seed: Seed, shape: Sequence[int]) -> np.ndarray:
    words = np.array([seed[0], seed[1]], np.int64).view(np.uint32)[None]  # low and high of each
    [mixed] = _philox(words, _SCRAMBLE)
    size = int(np.prod(shape))
    counters = np.zeros((-(-size // 4), 4), np.uint32)
    counters[:, 0], counters[:, 2:] = np.arange(len(counters)), (mixed[2], mixed[3])
    return _philox(counters, mixed[:2]).reshape(-1)[:size].reshape(shape)


def _philox(counters: np.ndarray, key: np.ndarray) -> np.ndarray:
    """uint32[n, 4] for as many counters."""
    a, b, c, d = (counters[:, i].astype(np.uint64) for i in range(4))
    for i in range(_ROUNDS):
        first, second = (key + np.uint32(i) * _WEYL).astype(np.uint64)
        p, q = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (q >> _HALF) ^ b ^ first, q & _LOW, (p >> _HALF) ^ d ^ second, p & _LOW
    return np.stack([a, b, c, d], axis=1).astype(np.uint32)
