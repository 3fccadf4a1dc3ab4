"""Pre-trains an encoder with patches dropped at random.

    python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_micro.py --workdir=runs/pretrain

The same command goes on from the last checkpoint. The encoder is written to encoder.safetensors in
the run directory, which train takes as --config.encoder.weights=PATH.
"""

import os
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from sparse_ist_tf import pretrain_config
from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.pretrain_config import validate


def decoded_images(split, image_size: int, cache_dir: str | Path) -> np.ndarray:
    """The images of a split as one array, decoded once and then mapped from a file.

    Args:
        split: from inputs.datasets.load.
        image_size: side in pixels.
        cache_dir: where the file is kept.

    Returns:
        uint8[size, image_size, image_size, 3], read-only.

    Example:
        >>> from sparse_ist_tf.inputs import datasets
        >>> from sparse_ist_tf.pretrain import decoded_images
        >>> decoded_images(datasets.load("digits")["test"], 64, "/tmp/images").shape
        (360, 64, 64, 3)
    """
    from tqdm import tqdm

    from sparse_ist_tf.inputs.datasets import image_errors

    path = Path(cache_dir) / f"{split.fingerprint[:32]}-{image_size}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        shape = (split.size, image_size, image_size, 3)
        try:
            images = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            bar = tqdm(total=split.size, desc=f"decoding {split.name}", unit="img")
            with bar, image_errors():
                for batch in split.dataset(image_size, batch_size=512).as_numpy_iterator():
                    images[batch["index"]] = batch["image"]
                    bar.update(len(batch["index"]))
            images.flush()
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def pretrain(config: ConfigDict, workdir: str | Path) -> dict:
    """Pre-trains, or goes on, and writes the encoder.

    Args:
        config: as sparse_ist_tf.pretrain_config makes it.
        workdir: the run directory.

    Returns:
        The last evaluation's record.

    Raises:
        RequestError: if the configuration or the data can't be used.
        RunError: if the loss is not finite.

    Example:
        See tests/test_pretrain.py.
    """
    validate(config)
    with quiet():
        from sparse_ist_tf.encoder.presets import PRESETS
        from sparse_ist_tf.encoder.pretraining import Images, Pretraining
        from sparse_ist_tf.encoder.weights import save_encoder
        from sparse_ist_tf.inputs import datasets

    if config.preset not in PRESETS:
        raise RequestError(f"preset={config.preset!r}: must be one of {', '.join(PRESETS)}")
    cache = Path.home() / ".cache" / "sparse_ist_tf" / "images"
    cache_dir = Path(config.dataset.cache_dir or cache).expanduser()
    splits = datasets.load(
        config.dataset.name,
        data_dir=config.dataset.data_dir or None,
        split_seed=config.dataset.split_seed,
        on_bad_image=config.dataset.on_bad_image,
    )
    size = PRESETS[config.preset]["image_size"]
    train, test = splits["train"], splits["test"]
    images = Images(
        decoded_images(train, size, cache_dir),
        train.labels,
        decoded_images(test, size, cache_dir),
        test.labels,
        train.num_classes,
    )
    run = Pretraining(config, images, workdir)
    print(f"{workdir}: {config.preset} on {config.dataset.name}, from step {run.step}", flush=True)
    record = run.train(_show)
    path = Path(workdir) / "encoder.safetensors"
    save_encoder(path, run.encoder, tuple(config.mean), tuple(config.std))
    print(f"{path}: the encoder; train with --config.encoder.weights={path}")
    return record


def _show(record: dict) -> None:
    numbers = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
    print("  ".join(numbers), flush=True)


def _main(_):
    pretrain(flags.FLAGS.config, flags.FLAGS.workdir)


def define_flags() -> None:
    """Defines the command's flags."""
    config_flags.DEFINE_config_file(
        "config",
        str(Path(pretrain_config.__file__)),
        "Configuration file; that of vit_micro where not given.",
        lock_config=True,
    )
    flags.DEFINE_string("workdir", "runs/pretrain", "Run directory.")


if __name__ == "__main__":
    run(_main, define_flags)
