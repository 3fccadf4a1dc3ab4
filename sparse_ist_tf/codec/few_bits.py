"""Features in a few bits a channel, by what sender and receiver know of each channel beforehand.

A channel less its mean over training images, over their standard deviation, is cut into 2**bits
steps of one size around zero; what lies beyond is in the outermost. Channels differ too much for a
scale of the image's own, and so nothing but the bits has to be sent.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

BITS = {"int4": 4, "int3": 3, "int2": 2}
# Steps with the least squared error, of a standard deviation.
# Source: "Quantizing for Minimum Distortion" (Max, 1960), table II.
_STEPS = {4: 0.3352, 3: 0.5860, 2: 0.9957}


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """What both sides of a link know of a feature's channels.

    Args:
        mean: float32[d], over training images.
        std: float32[d], likewise, at least 0.

    Raises:
        ValueError: if they are not two rows of one length, finite, or std is below 0.
    """

    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, np.array(getattr(self, name), "<f4"))
        same = self.mean.ndim == 1 and self.mean.shape == self.std.shape
        if not (same and np.isfinite([self.mean, self.std]).all() and (self.std >= 0).all()):
            raise ValueError("channels: must be finite means and deviations, as many of both")

    @classmethod
    def of(cls, features: np.ndarray) -> "Channels":
        """Those of training images' features, float32[n, d]."""
        return cls(features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64))

    @classmethod
    def of_dict(cls, values: Mapping) -> "Channels":
        """The inverse of as_dict().

        Raises:
            KeyError: if one is missing; TypeError or ValueError if they aren't numbers.
        """
        return cls(values["mean"], values["std"])

    def as_dict(self) -> dict[str, list[float]]:
        """Plain values, from which the same bits can be made."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def as_bytes(self) -> bytes:
        """All means and then all deviations, little-endian float32."""
        return self.mean.tobytes() + self.std.tobytes()

    def codes(self, features: np.ndarray, bits: int) -> np.ndarray:
        """Numbers of steps, uint8[..., d] below 2**bits, of features, float32[..., d]."""
        half, step = 2 ** (bits - 1), self.std * np.float32(_STEPS[bits])
        with np.errstate(over="ignore"):
            steps = np.floor((features - self.mean) / np.where(step > 0, step, np.float32(1)))
        return (np.clip(steps, -half, half - 1) + half).astype(np.uint8)

    def values(self, codes: np.ndarray, bits: int) -> np.ndarray:
        """The middles of steps, float32[..., d], from their numbers, uint8[..., d]."""
        middles = codes.astype(np.float32) - np.float32(2 ** (bits - 1) - 0.5)
        return middles * (self.std * np.float32(_STEPS[bits])) + self.mean


def pack_bits(codes: np.ndarray, bits: int) -> bytes:
    """Packs numbers, uint8[n] below 2**bits, one behind the other, lowest bits first."""
    each = codes[:, None] >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(each.ravel(), bitorder="little").tobytes()


def unpack_bits(data: bytes, bits: int, count: int) -> np.ndarray:
    """Takes count numbers, uint8[count], out of what pack_bits packed."""
    each = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    return (each.reshape(count, bits) << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)


def packed_size(count: int, bits: int) -> int:
    """Bytes of so many numbers."""
    return (count * bits + 7) // 8
