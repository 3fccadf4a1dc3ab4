"""Encoders written for other libraries: timm's safetensors and Keras' own file."""

import json
import os
import tempfile
from pathlib import Path

from safetensors.numpy import save

from sparse_ist_tf.checkpoints.conversion import to_timm
from sparse_ist_tf.checkpoints.files import EXPORTED
from sparse_ist_tf.checkpoints.keras_files import PREPROCESSING_MEMBER, add_member
from sparse_ist_tf.encoder.bundle import Encoder, architecture, stored_arrays
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.files import write_atomically

_PREPROCESSING = ("mean", "std", "crop_fraction", "interpolation")


def export_to_timm(encoder: Encoder, path: str | os.PathLike) -> str:
    """Writes safetensors with timm's names, which timm, and load_encoder again, can load.

    Args:
        encoder: from load_encoder.
        path: where to, ending with .safetensors.

    Returns:
        The Python expression that makes the model in timm.

    Raises:
        RequestError: if path has another ending.
        RunError: if the file can't be written.
    """
    check_suffix(path, ".safetensors")
    config = architecture(encoder.model)
    tensors, arguments = to_timm(config, stored_arrays(encoder.model))
    stated = ("num_heads", "activation", "epsilon", "pool", "positions")
    settings = {name: config[name] for name in stated} | _preprocessing_of(encoder)
    metadata = {"format": "pt", EXPORTED: json.dumps(settings)}
    write_file(path, save(tensors, metadata=metadata))
    text = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    if config["activation"] == "swiglu":
        text += ", mlp_layer=timm.layers.SwiGLUPacked"
    if config["epsilon"] != 1e-6:
        text += f", norm_layer=functools.partial(torch.nn.LayerNorm, eps={config['epsilon']})"
    return f"timm.create_model('vit_base_patch16_224', checkpoint_path={str(path)!r}, {text})"


def export_to_keras(encoder: Encoder, path: str | os.PathLike) -> str:
    """Writes a .keras file, which Keras (with this library imported) and load_encoder can load.

    Args:
        encoder: from load_encoder.
        path: where to, ending with .keras.

    Returns:
        The Python expression that makes the model in Keras.

    Raises:
        RequestError: if path has another ending.
        RunError: if the file can't be written.
    """
    check_suffix(path, ".keras")
    try:
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / "encoder.keras"
            encoder.model.save(temporary)
            content = temporary.read_bytes()
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror or error}") from None
    settings = json.dumps(_preprocessing_of(encoder))
    write_file(path, add_member(content, PREPROCESSING_MEMBER, settings))
    return f'keras.models.load_model("{path}")'


def write_file(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file, atomically.

    Args:
        path: of the file.
        content: of it.

    Raises:
        RunError: if it can't be written.
    """
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror or error}") from None


def check_suffix(path: str | os.PathLike, suffix: str) -> None:
    """Refuses a file name of another kind.

    Args:
        path: of a file to be.
        suffix: that it must have, such as ".keras".

    Raises:
        RequestError: if it has another.
    """
    if Path(path).suffix != suffix:
        raise RequestError(f"{path}: must end with {suffix}")


def _preprocessing_of(encoder):
    return {name: getattr(encoder.preprocessing, name) for name in _PREPROCESSING}
