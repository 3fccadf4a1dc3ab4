"""Files of features: how they are written, read and never trusted blindly."""

import hashlib
import json
from pathlib import Path

import numpy as np

from sparse_ist_tf.errors import warn
from sparse_ist_tf.files import cache_home, replacing


def cache_path(cache_dir: str | Path, key: str) -> Path:
    """Where the features of a key are kept.

    Args:
        cache_dir: the cache; $XDG_CACHE_HOME/sparse_ist_tf/features where empty.
        key: from Features.key.
    """
    folder = Path(cache_dir).expanduser() if cache_dir else cache_home() / "features"
    return folder / f"{key}.features"


def save_features(path: Path, key: str, features: np.ndarray) -> None:
    """Writes features, with their key and a digest in front, atomically.

    Raises:
        OSError: if it can't be written; what stood there stays.
    """
    data = np.ascontiguousarray(features, "<f4")
    header = {"key": key, "shape": data.shape, "sha256": hashlib.sha256(data.data).hexdigest()}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(data.data)


def load_features(path: Path, key: str) -> np.ndarray | None:
    """Features from the cache; a file that is there and not used is named on stderr.

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
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        pass
    warn(f"{path} is damaged and not used")
    return None
