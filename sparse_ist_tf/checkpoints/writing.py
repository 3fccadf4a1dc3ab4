"""Encoders written: as this library's safetensors, as timm's, and as Keras' own file."""

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from sparse_ist_tf.checkpoints.conversion import to_timm
from sparse_ist_tf.checkpoints.files import EXPORTED, FORMAT
from sparse_ist_tf.checkpoints.keras_files import PREPROCESSING_MEMBER
from sparse_ist_tf.encoder.bundle import HALF, ViTEncoder, stored_arrays
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.files import replacing, write_file, writing


def export_to_timm(encoder: ViTEncoder, path: str | os.PathLike) -> str:
    """Writes safetensors with timm's names, which timm, and load_encoder again, can load.

    Returns:
        The Python expression that makes the model in timm.

    Raises:
        RequestError: if path doesn't end with .safetensors.
        RunError: if the file can't be written.
    """
    check_suffix(path, ".safetensors")
    spec = encoder.model.spec
    tensors, arguments = to_timm(spec, stored_arrays(encoder.model))
    stated = ("num_heads", "activation", "epsilon", "pool", "positions")
    settings = {name: getattr(spec, name) for name in stated}
    settings |= dataclasses.asdict(encoder.preprocessing)
    metadata = {"format": "pt", EXPORTED: json.dumps(settings)}
    write_file(path, save(tensors, metadata=metadata))
    text = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    if spec.activation == "swiglu":
        text += ", mlp_layer=timm.layers.SwiGLUPacked"
    if spec.epsilon != 1e-6:
        text += f", norm_layer=functools.partial(torch.nn.LayerNorm, eps={spec.epsilon})"
    return f"timm.create_model('vit_base_patch16_224', checkpoint_path={str(path)!r}, {text})"


def export_to_keras(encoder: ViTEncoder, path: str | os.PathLike) -> str:
    """Writes a .keras file, which Keras (with this library imported) and load_encoder can load.

    Returns:
        The Python expression that makes the model in Keras.

    Raises:
        RequestError: if path doesn't end with .keras.
        RunError: if the file can't be written.
    """
    check_suffix(path, ".keras")
    settings = json.dumps(dataclasses.asdict(encoder.preprocessing))
    with writing(path), replacing(path) as temporary:
        encoder.model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(PREPROCESSING_MEMBER, settings)
    return f'keras.models.load_model("{path}")'


def save_encoder(
    path: str | os.PathLike,
    model: ViT,
    mean: tuple[float, float, float] = HALF,
    std: tuple[float, float, float] = HALF,
    *,
    dtype: str = "float16",
    extra_metadata: dict[str, str] | None = None,
) -> None:
    """Stores an encoder as safetensors, atomically: a good file is never left half overwritten.

    Tensors are keyed by their path in the model (`block_0/qkv/kernel`); the architecture, mean and
    std are in the file's metadata. Sine-cosine positions are computed and not stored.

    Args:
        path: where to.
        model: the encoder's model.
        mean: of red, green and blue, of pixels in [0, 1].
        std: of red, green and blue.
        dtype: "float16" or "float32", of the stored numbers.
        extra_metadata: more texts for the file's metadata.

    Raises:
        ValueError: if a weight is not finite in dtype, or dtype is another one.
        RunError: if the file can't be written.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype={dtype!r}: must be float16 or float32")
    arrays = {}
    for name, value in stored_arrays(model).items():
        with np.errstate(over="ignore"):
            arrays[name] = np.ascontiguousarray(value.astype(dtype))
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name}: not every weight is a finite {dtype}")
    metadata = dict(extra_metadata or {})
    metadata |= {"format": FORMAT, "config": json.dumps(dataclasses.asdict(model.spec))}
    metadata |= {"mean": json.dumps(list(mean)), "std": json.dumps(list(std))}
    write_file(path, save(arrays, metadata=metadata))


def check_suffix(path: str | os.PathLike, suffix: str) -> None:
    """Refuses a file name of another kind.

    Raises:
        RequestError: if it doesn't end with the suffix, such as ".keras".
    """
    if Path(path).suffix != suffix:
        raise RequestError(f"{path}: must end with {suffix}")
