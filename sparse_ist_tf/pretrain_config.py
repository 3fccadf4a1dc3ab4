"""The default configuration of pretrain, and what it may hold."""

from ml_collections import ConfigDict

from sparse_ist_tf.config import check_keys
from sparse_ist_tf.errors import RequestError

OBJECTIVES = ("supervised", "mae")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "trapezoid")
DTYPES = ("float32", "bfloat16")


def get_config() -> ConfigDict:
    """The default: vit_micro, supervised, as the packaged weights were made.

    Returns:
        A new configuration; files in configs/ change it.

    Example:
        >>> from sparse_ist_tf.pretrain_config import get_config
        >>> get_config().preset
        'vit_micro'
    """
    config = ConfigDict()
    config.seed = 0
    config.dataset = {"name": "folder:tiny-imagenet", "data_dir": "", "split_seed": 0}
    config.dataset.on_bad_image = "error"
    config.dataset.cache_dir = ""  # decoded images; ~/.cache/sparse_ist_tf/images where empty

    config.preset = "vit_micro"
    config.weights = ""  # what the encoder starts from, as encoder.weights of train; drawn where empty
    config.dtype = "bfloat16"
    config.mean, config.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    config.objective = "supervised"
    config.label_smoothing = 0.1
    config.distillation = 0.0
    config.decoder = {"width": 96, "depth": 2, "num_heads": 3}  # of the masked autoencoder

    # Most steps hide much, which is cheap; some show all, so that whole images stay familiar.
    config.mask_ratios = (0.75, 0.5, 0.0)
    config.mask_probabilities = (0.5, 0.4, 0.1)
    config.augment = ("flip", "crop")

    config.optimizer = {"name": "muon"}
    config.optimizer.kwargs = {"weight_decay": 0.05, "adam_weight_decay": 0.0, "adam_beta_2": 0.99}
    config.learning_rate = 2e-3
    config.schedule = "trapezoid"
    config.decay = 0.28
    config.warmup_steps = 200
    config.batch_size = 256
    config.total_steps = 5000

    config.eval_mask_ratios = (0.0, 0.5, 0.75)
    config.eval_images = 2000
    config.log_every = 20
    config.eval_every = 400
    config.checkpoint_every = 200
    return config


def validate(config: ConfigDict) -> None:
    """Checks a configuration of pre-training, but for its preset and data, before any work is done.

    Args:
        config: as get_config makes it.

    Raises:
        RequestError: naming the key, its value and what is allowed.

    Example:
        >>> from sparse_ist_tf.pretrain_config import get_config, validate
        >>> validate(get_config())
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
    for key in ("mask_ratios", "eval_mask_ratios"):
        for ratio in config[key]:
            if not 0 <= ratio < 1:
                raise RequestError(f"{key} has {ratio}: must be in [0, 1)")
    odds = config.mask_probabilities
    if len(odds) != len(config.mask_ratios) or abs(sum(odds) - 1) > 1e-6 or min(odds) < 0:
        raise RequestError(
            f"mask_probabilities={tuple(odds)}: must be one share per mask_ratios, adding up to 1"
        )
    if config.objective == "mae" and 0 in config.mask_ratios:
        raise RequestError("mask_ratios has 0: must be above 0 for objective='mae'")
    for key in ("batch_size", "total_steps", "log_every", "eval_every", "checkpoint_every"):
        if config[key] < 1:
            raise RequestError(f"{key}={config[key]}: must be at least 1")
    for key in ("distillation", "label_smoothing"):
        if not 0 <= config[key] <= 1:
            raise RequestError(f"{key}={config[key]}: must be in [0, 1]")
