"""Pre-trains an encoder with patches dropped at random.

    python -m sparse_ist_tf.pretrain --config=configs/pretrain_vit_micro.py --workdir=runs/pretrain

With TF_CONFIG set the process joins that cluster as one worker; without it, num_workers processes
are started here, and started again where one dies. Workers share each batch and average their
gradients. The same command goes on from the last checkpoint. SIGTERM, SIGHUP and Ctrl-C end it
behind a step, with a checkpoint. The encoder is written to encoder.safetensors in the run
directory, which train takes as --config.encoder.weights=PATH.

With KERAS_BACKEND=jax set, one process trains on the accelerator that JAX has, and keeps all images
in its memory.
"""

import contextlib
import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from sparse_ist_tf import pretrain_config
from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.errors import RequestError, RunError
from sparse_ist_tf.pretrain_config import completed, validate
from sparse_ist_tf.reports.checkpoint_file import read_checkpoint
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.workers.agreement import agree, command_facts
from sparse_ist_tf.workers.cluster import Cluster, joined_cluster, lost_peers, make_strategy
from sparse_ist_tf.workers.groups.restarts import Restarts, define_restart_flags
from sparse_ist_tf.workers.launch import follow_launcher, run_local_workers
from sparse_ist_tf.workers.preparing import are_local, is_preparing, prepare_outside
from sparse_ist_tf.workers.stopping import Stop

FLAGS = flags.FLAGS
_COLLECTIVE_TIMEOUT_S = 1800.0  # others wait while the chief evaluates; a dead peer shows sooner


def pretrain(
    config: ConfigDict,
    workdir: str | Path,
    cluster: Cluster | None = None,
    stop: Stop | None = None,
) -> dict:
    """Pre-trains, or goes on, and writes the encoder: one worker's part.

    Args:
        config: as sparse_ist_tf.pretrain_config makes it.
        workdir: the run directory, written by the chief alone.
        cluster: this process's place; None for a single worker.
        stop: ends the process behind a step; None where nothing does.

    Returns:
        The last evaluation's record; on the chief alone, {} elsewhere.

    Raises:
        RequestError: if the configuration or the data can't be used.
        RunError: if a peer is lost, the loss is not finite, or a file can't be written.
    """
    cluster, stop = cluster or Cluster(0, ()), stop or Stop()
    validate(config, cluster.num_workers)
    backend = _backend(config, cluster.num_workers)
    with quiet():
        from sparse_ist_tf.checkpoints.writing import save_encoder
        from sparse_ist_tf.pretraining.report import write_pretraining_report

    _check_preset(config)
    directory, chief = RunDirectory(workdir), cluster.worker == 0
    make = {"jax": _jax_run, "tensorflow": _tensorflow_run}[backend]
    with directory.opened(config.to_dict(), completed) if chief else contextlib.nullcontext():
        if cluster.num_workers > 1 and _is_trained(directory, config):
            if not chief:
                print(f"{workdir} is trained: nothing is left for worker {cluster.worker}.")
                return {}
            cluster = Cluster(0, ())  # what is left it does alone, without meeting anyone
        with lost_peers(cluster):
            run = make(config, workdir, cluster)
            stop.take_back()
            if chief:
                where = f"{workdir}: {config.preset} on {config.dataset.name}"
                print(f"{where}, from step {run.step}", flush=True)
            record = run.train(_show, stop)
        if chief:
            if config.start_share:
                run.average(_show)
                record = directory.last_metrics()
            path = directory.path / "encoder.safetensors"
            save_encoder(path, run.encoder, tuple(config.mean), tuple(config.std))
            write_pretraining_report(directory.path, config.to_dict(), directory.metrics())
            print(f"{path}: the encoder; train with --config.encoder.weights={path}")
    return record


def _is_trained(directory: RunDirectory, config: ConfigDict) -> bool:
    """Whether its checkpoint has the last step; as the chief sees it, or who shares its disk."""
    try:
        directory.check(config.to_dict(), completed)
        progress = read_checkpoint(directory.path / "checkpoint.safetensors")[1]
    except (RequestError, RunError):
        return False
    return progress["step"] >= config.total_steps


def _backend(config, num_workers):
    """Keras' backend, which must do what is asked for."""
    try:
        with quiet():
            import keras
    except ModuleNotFoundError as error:
        raise RequestError(f"KERAS_BACKEND: {error}; pip install {error.name}") from None
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax"):  # of keras.json; that of the environment is checked
        raise RequestError(f"Keras' backend is {name}: must be tensorflow or jax")
    if name == "tensorflow":
        return name
    with quiet():
        from sparse_ist_tf.pretraining.augmentation import check_augment
        from sparse_ist_tf.pretraining.augmentation_jax import JAX_AUGMENTATIONS

    check_augment(config.augment, JAX_AUGMENTATIONS)
    if num_workers > 1:
        raise RequestError(f"num_workers={num_workers}: must be 1 with KERAS_BACKEND=jax")
    if config.probe.every:
        raise RequestError(f"probe.every={config.probe.every}: must be 0 with KERAS_BACKEND=jax")
    return name


def _tensorflow_run(config, workdir, cluster):
    with quiet():
        from sparse_ist_tf.pretraining.tensorflow_run import Pretraining
        from sparse_ist_tf.workers.link import Link

    facts = command_facts("pretrain", config.to_dict())
    strategy = make_strategy(cluster, config.cluster.peer_timeout_s, facts)
    link = Link(strategy, cluster.worker, cluster.num_workers, _COLLECTIVE_TIMEOUT_S)
    link.check_order()
    return Pretraining(config, _load_images(config, link), workdir, link)


def _jax_run(config, workdir, _):
    with quiet():
        import tensorflow as tf

        from sparse_ist_tf.pretraining.jax_run import JaxPretraining

    tf.config.set_visible_devices([], "GPU")  # TensorFlow reads images; the memory is JAX'
    return JaxPretraining(config, _load_images(config), workdir)


def _check_preset(config):
    """Checks the preset, and that its images have patches enough for the ratios."""
    with quiet():
        from sparse_ist_tf.encoder.presets import PRESETS
        from sparse_ist_tf.masks import num_visible

    if config.preset not in PRESETS:
        raise RequestError(f"preset={config.preset!r}: must be one of {', '.join(PRESETS)}")
    preset = PRESETS[config.preset]
    patch = preset.patch_size
    for size in config.image_sizes:
        if size < patch or size % patch:
            raise RequestError(
                f"image_sizes has {size}: must be a multiple of {patch}, the side of a patch"
            )
    _check_sensors(config, preset)
    num_patches = (min(config.image_sizes or [preset.image_size]) // patch) ** 2
    for ratio in (*config.mask_ratios, *config.eval_mask_ratios, *config.probe.mask_ratios):
        try:
            num_visible(num_patches, ratio)
        except ValueError as error:
            raise RequestError(f"a mask ratio of {ratio} for {config.preset}: {error}") from None


def _check_sensors(config, preset):
    """Checks that sensors record no more than the stored images have, and a pixel per patch."""
    largest = max(config.image_sizes or [preset.image_size])
    least = largest // preset.patch_size if config.masks.grid == "sensor" else 1
    for side in config.sensor_sizes or [preset.image_size]:
        if not least <= side <= preset.image_size:
            raise RequestError(
                f"sensor_sizes has {side}: must be {least}, the patches along a side of {largest} "
                f"px, to {preset.image_size}, the images of {config.preset}"
            )


def _load_images(config, link=None):
    """The decoded images; the chief prepares and decodes them first, others find its files."""
    with quiet():
        from sparse_ist_tf.encoder.presets import PRESETS
        from sparse_ist_tf.inputs import datasets
        from sparse_ist_tf.inputs.decoded import decoded_images
        from sparse_ist_tf.inputs.split import digest
        from sparse_ist_tf.pretraining.data import Images

    if link and not link.chief:
        link.wait_for_all()
    cache_dir = Path(config.dataset.cache_dir or "~/.cache/sparse_ist_tf/images").expanduser()
    splits = datasets.load(
        config.dataset.name,
        data_dir=config.dataset.data_dir or None,
        split_seed=config.dataset.split_seed,
        on_bad_image=config.dataset.on_bad_image,
    )
    size = PRESETS[config.preset].image_size
    parts = [splits[name] for name in ("train", "test")]
    with datasets.suggesting_skip():
        decoded = [(decoded_images(part, size, cache_dir), part.labels) for part in parts]
    fingerprint = digest(*(part.fingerprint for part in parts))
    images = Images(*decoded[0], *decoded[1], parts[0].num_classes, fingerprint)
    if link and link.chief:
        link.wait_for_all()
    if link:
        agree(link, datasets.facts(splits))
    return images


def _show(record: dict) -> None:
    numbers = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
    print("  ".join(numbers), flush=True)


def main(_: list[str]) -> int:
    """Starts local workers, or is one."""
    follow_launcher(os.environ)
    config = FLAGS.config
    cluster, num_workers = joined_cluster(os.environ, FLAGS.num_workers, default=1)
    validate(config, num_workers)
    if is_preparing(os.environ):
        _load_images(config)
        return 0
    if cluster is None and num_workers > 1:
        RunDirectory(FLAGS.workdir).check(config.to_dict(), completed)
        command = [sys.executable, "-m", "sparse_ist_tf.pretrain", *sys.argv[1:]]
        restarts = Restarts(FLAGS.max_restarts, RunDirectory(FLAGS.workdir).newest_checkpoint)
        return prepare_outside(config.dataset.name, command) or run_local_workers(
            command,
            num_workers,
            restarts,
            FLAGS.grace_s,
            is_secluded=are_local(config.weights),
        )
    stop = Stop(FLAGS.grace_s)
    stop.listen()
    pretrain(config, FLAGS.workdir, cluster, stop)
    return 0


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("workdir", "runs/pretrain", "Run directory.")
    flags.DEFINE_integer("num_workers", None, "Local worker processes; 1 where not given.")
    define_restart_flags()


if __name__ == "__main__":
    run(main, define_flags, config=pretrain_config, backends=("tensorflow", "jax"))
