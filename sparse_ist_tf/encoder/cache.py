"""Files of features: what they depend on, and how they are written and read."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from sparse_ist_tf.codec.transport import Transport
from sparse_ist_tf.errors import warn
from sparse_ist_tf.files import replacing
from sparse_ist_tf.inputs.split import Split
from sparse_ist_tf.masks.drawing import num_visible
from sparse_ist_tf.masks.options import MaskOptions

_FORMAT = 2  # raise it when encoding changes what it returns by more than round-off
NO_TRANSPORT = Transport()


def cache_key(
    encoder,
    split: Split,
    masks: MaskOptions,
    dtype: str = "float32",
    transport: Transport = NO_TRANSPORT,
) -> str:
    """What features depend on, as a digest: the name of their cache file.

    The cache holds features as the encoder makes them; what transport.features makes of
    them is made anew, so that all number formats share a file.

    Args:
        encoder: from load_encoder.
        split: the images.
        masks: what is visible of them.
        dtype: that the encoder computes in.
        transport: that the images cross before.

    Returns:
        64 hexadecimal digits.
    """
    parts = {
        "format": _FORMAT,
        "encoder": encoder.digest,
        "split": split.fingerprint,
        "masks": dataclasses.asdict(masks) if masks.ratio else "none",
        "visible": num_visible(encoder.num_patches, masks.ratio),
        "preprocessing": [list(encoder.mean), list(encoder.std), encoder.image_size],
        "dtype": dtype,
    }
    if transport.images_key:
        parts["link"] = transport.images_key
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cache_path(cache_dir: str | Path, key: str) -> Path:
    """Where the features of a key are kept.

    Args:
        cache_dir: the cache; $XDG_CACHE_HOME/sparse_ist_tf/features where empty.
        key: from cache_key.

    Returns:
        A path in the cache.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache_dir).expanduser() if cache_dir else Path(home) / "sparse_ist_tf/features"
    return folder / f"{key}.features"


def save_features(path: Path, key: str, features: np.ndarray) -> None:
    """Writes features, with their key and a digest in front, atomically.

    Args:
        path: of the file.
        key: from cache_key.
        features: float32[n, d].

    Raises:
        OSError: if it can't be written; what stood there stays.
    """
    data = np.ascontiguousarray(features, "<f4")
    header = {"key": key, "shape": data.shape, "sha256": hashlib.sha256(data).hexdigest()}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(data)


def load_features(path: Path, key: str) -> np.ndarray | None:
    """Features from the cache; a file that is there and not used is named on stderr.

    Args:
        path: of the file.
        key: from cache_key.

    Returns:
        float32[n, d]; None if there is no file, or one that is damaged or made by another key.
    """
    try:
        line, data = path.read_bytes().split(b"\n", 1)
        header = json.loads(line)
        features = np.frombuffer(data, "<f4").reshape(header["shape"])
        if header["key"] == key and header["sha256"] == hashlib.sha256(data).hexdigest():
            return features
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    warn(f"{path} is damaged and not used")
    return None
