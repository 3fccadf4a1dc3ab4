"""The default configuration of pretrain, and what it may hold."""

import math

from ml_collections import ConfigDict

from sparse_ist_tf.config import check_keys, lookup
from sparse_ist_tf.errors import RequestError

OBJECTIVES = ("supervised", "mae")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "trapezoid")
DTYPES = ("float32", "bfloat16")
_AT_LEAST_ONE = (
    "batch_size",
    "total_steps",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "eval_images",
    "decoder.width",
    "decoder.depth",
    "decoder.num_heads",
    "probe.images",
)
_AT_LEAST_ZERO = ("seed", "projector", "dataset.split_seed", "warmup_steps", "probe.every")


def get_config() -> ConfigDict:
    """The default: vit_micro, supervised, for a few processor cores.

    The packaged weights are of configs/pretrain_vit_micro.py, configs/pretrain_vit_micro_sizes.py
    and configs/pretrain_vit_pico.py.

    Returns:
        A new configuration; files in configs/ change it.
    """
    config = ConfigDict()
    config.seed = 0
    config.dataset = {"name": "folder:tiny-imagenet", "data_dir": "", "split_seed": 0}
    config.dataset.on_bad_image = "error"
    config.dataset.cache_dir = ""  # decoded images; ~/.cache/sparse_ist_tf/images where empty

    config.preset = "vit_micro"
    config.weights = ""  # what it starts from, as encoder.weights of train; drawn where empty
    config.start_share = 0.0  # of these weights in the encoder that is written at the end
    config.dtype = "bfloat16"
    config.mean, config.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    config.objective = "supervised"
    config.label_smoothing = 0.1
    config.distillation = 0.0
    config.teacher = ""  # run directory of a pre-trained classifier to learn from; none where empty
    config.projector = 0  # hidden units of a perceptron that is thrown away; none where 0
    config.decoder = {"width": 96, "depth": 2, "num_heads": 3}  # of the masked autoencoder

    # Most steps hide much, which is cheap; some show all, so that whole images stay familiar.
    config.mask_ratios = (0.75, 0.5, 0.0)
    config.mask_probabilities = (0.5, 0.4, 0.1)
    # Sides in pixels of the images that the encoder sees, and the share of the steps that see each:
    # scaled from the preset's, which is the only one where this is empty.
    config.image_sizes, config.size_probabilities = (), ()
    # And color, three_augment, mixup, cutmix; rand_augment, but not under JAX.
    config.augment = ("flip", "crop")
    config.crop_area = 0.35  # share of an image that a crop has at least
    config.mix_probability = 0.5  # share of the images that mixup and cutmix change

    config.optimizer = {"name": "muon"}
    config.optimizer.kwargs = {"weight_decay": 0.05, "adam_weight_decay": 0.0, "adam_beta_2": 0.99}
    config.learning_rate = 2e-3
    config.scale_learning_rate = False  # learning_rate is for 256 images: times batch_size / 256
    config.schedule = "trapezoid"
    config.decay = 0.28
    config.warmup_steps = 200
    config.batch_size = 256  # of all workers together
    config.total_steps = 5000

    config.eval_mask_ratios = (0.0, 0.5, 0.75)
    config.eval_images = 2000
    # Linear accuracy of the features, every so many steps; never where 0.
    config.probe = {"every": 0, "images": 10000, "mask_ratios": (0.0,)}
    config.log_every = 20
    config.eval_every = 400
    config.checkpoint_every = 200
    config.cluster = {"peer_timeout_s": 60.0}
    return config


def accelerator_config() -> ConfigDict:
    """What the trainings of both packaged encoders have in common: long, on one accelerator.

    Returns:
        A new configuration.
    """
    config = get_config()
    config.seed = 3
    config.mask_ratios, config.mask_probabilities = (0.5, 0.75), (0.7, 0.3)
    config.augment = ("flip", "crop", "color", "three_augment", "mixup", "cutmix")
    config.crop_area = 0.25
    config.mix_probability = 0.8
    config.batch_size = 1024
    config.learning_rate = 3e-3
    config.warmup_steps = 400
    config.decay = 0.8
    config.log_every, config.eval_every, config.checkpoint_every = 100, 1000, 1000
    return config


def validate(config: ConfigDict, num_workers: int = 1) -> None:
    """Checks a configuration of pre-training, but for its preset and data, before any work is done.

    Args:
        config: as get_config makes it.
        num_workers: P.

    Raises:
        RequestError: naming the key, its value and what is allowed.
    """
    check_keys(config, get_config())
    choices = (
        ("objective", config.objective, OBJECTIVES),
        ("optimizer.name", config.optimizer.name, OPTIMIZERS),
        ("schedule", config.schedule, SCHEDULES),
        ("dtype", config.dtype, DTYPES),
    )
    for key, value, allowed in choices:
        if value not in allowed:
            raise RequestError(f"{key}={value!r}: must be one of {', '.join(allowed)}")
    for key in ("mask_ratios", "eval_mask_ratios", "probe.mask_ratios"):
        for ratio in lookup(config, key):
            if not 0 <= ratio < 1:
                raise RequestError(f"{key} has {ratio}: must be in [0, 1)")
    odds = config.mask_probabilities
    if not _are_shares(odds, len(config.mask_ratios)):
        raise RequestError(
            f"mask_probabilities={tuple(odds)}: must be one share per mask_ratios, adding up to 1"
        )
    _check_sizes(config)
    if config.objective == "mae" and 0 in config.mask_ratios:
        raise RequestError("mask_ratios has 0: must be above 0 for objective='mae'")
    for keys, least in ((_AT_LEAST_ONE, 1), (_AT_LEAST_ZERO, 0)):
        for key in keys:
            if not least <= lookup(config, key) < math.inf:
                raise RequestError(f"{key}={lookup(config, key)}: must be at least {least}")
    for key in ("learning_rate", "cluster.peer_timeout_s"):
        if not 0 < lookup(config, key) < math.inf:
            raise RequestError(f"{key}={lookup(config, key)}: must be above 0")
    for key in ("distillation", "label_smoothing", "mix_probability", "start_share"):
        if not 0 <= config[key] <= 1:
            raise RequestError(f"{key}={config[key]}: must be in [0, 1]")
    if config.start_share and not config.weights:
        raise RequestError(f"start_share={config.start_share}: needs weights to start from")
    if config.teacher and (config.objective != "supervised" or not config.distillation):
        raise RequestError(
            f"teacher={config.teacher!r}: needs objective='supervised' and distillation above 0"
        )
    if not 0 < config.crop_area <= 1:
        raise RequestError(f"crop_area={config.crop_area}: must be in (0, 1]")
    decoder = config.decoder
    if decoder.width % 4 or decoder.width % decoder.num_heads:
        raise RequestError(
            f"decoder.width={decoder.width}: must be a multiple of 4 and of decoder.num_heads="
            f"{decoder.num_heads}"
        )
    if num_workers < 1:
        raise RequestError(f"num_workers={num_workers}: must be at least 1")
    if config.batch_size % num_workers:
        raise RequestError(
            f"batch_size={config.batch_size}: must be a multiple of num_workers={num_workers}"
        )
    mixes = {"mixup", "cutmix"}.intersection(config.augment)
    if mixes and config.batch_size % (2 * num_workers):
        raise RequestError(
            f"batch_size={config.batch_size}: must be a multiple of {2 * num_workers}, twice "
            f"num_workers, since images are mixed in pairs ({', '.join(sorted(mixes))})"
        )


def _check_sizes(config):
    sizes, odds = tuple(config.image_sizes), tuple(config.size_probabilities)
    differ = len(set(sizes)) == len(sizes)
    if (sizes or odds) and not (differ and _are_shares(odds, len(sizes))):
        raise RequestError(
            f"size_probabilities={odds}: must be one share per image_sizes={sizes}, which differ, "
            "adding up to 1"
        )
    if sizes and config.objective == "mae":
        raise RequestError(f"image_sizes={sizes}: must be empty with objective='mae'")


def _are_shares(odds, count):
    return 0 < len(odds) == count and min(odds) >= 0 and abs(sum(odds) - 1) <= 1e-6
