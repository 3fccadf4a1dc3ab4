"""The default configuration of train, and what it may hold."""

import math
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from sparse_ist_tf.errors import RequestError

ALGORITHMS = ("ist", "data_parallel", "local_sgd", "centralized")
OPTIMIZERS = ("adam", "adamw", "sgd", "lion", "rmsprop")
SCHEDULES = ("constant", "cosine")
INITIALIZERS = (
    "subnet_he_normal",
    "he_normal",
    "lecun_normal",
    "glorot_uniform",
    "torch_uniform",
)
DATASETS = ("digits", "cifar10", "resisc45", "aid", "folder:PATH")

# What the published experiment code does, whatever the keys of these names say.
PUBLISHED = {"moments": "slot", "biases": "slot", "scale_inputs": False, "keep_last_step": False}

# In each group exactly one is above 0.
DURATIONS = ("total_steps", "total_epochs", "total_examples")
_UNITS = (
    DURATIONS,
    ("eval_every_rounds", "eval_every_epochs"),
    ("checkpoint_every_rounds", "checkpoint_every_epochs"),
)

_CHOICES = {
    "dataset.on_bad_image": ("error", "skip"),
    "dataset.shards": ("all", "iid", "dirichlet"),
    "masks.kind": ("fixed", "random", "shared"),
    "masks.pattern": ("uniform", "grid", "center", "border"),
    "transport.codec": ("none", "jpeg", "patches", "raw"),
    "transport.features": ("float32", "float16", "int8"),
    "encoder.dtype": ("float32", "bfloat16"),
    "ist.algorithm": ALGORITHMS,
    "ist.moments": ("carry", "reset", "slot"),
    "ist.biases": ("carry", "slot"),
    "ist.variant": ("corrected", "published"),
    "ist.local_steps_schedule": ("constant", "grow", "consensus"),
    "ist.widths": ("layer", "subnet"),
    "head.initializer": INITIALIZERS,
    "head.normalization": ("none", "batch"),
    "optimizer.name": OPTIMIZERS,
    "schedule": SCHEDULES,
}
_AT_LEAST_ONE = (
    "encoder.batch_size",
    "ist.num_subnets",
    "ist.local_steps",
    "batch_size",
)
_ABOVE_ZERO = (
    "learning_rate",
    "encoder.learning_rate_factor",
    "dataset.dirichlet_alpha",
    "cluster.peer_timeout_s",
)
_AT_LEAST_ZERO = (
    "seed",
    "dataset.split_seed",
    "encoder.image_size",
    "encoder.num_heads",
    "encoder.qk_scale",
    "encoder.epsilon",
    "encoder.trainable_blocks",
    "warmup_steps",
    *sum(_UNITS, ()),
)


def get_config() -> ConfigDict:
    """The default: handwritten digits, half of the patches hidden, 4 subnets, in a minute.

    Returns:
        A new configuration; files in configs/ change it for their experiment.

    Example:
        >>> from sparse_ist_tf.config import get_config
        >>> get_config().masks.ratio
        0.5
    """
    config = ConfigDict()
    config.seed = 0
    config.dataset = {
        "name": "digits",  # or cifar10, resisc45, aid, folder:PATH
        "data_dir": "",  # where TFDS looks; $SPARSE_IST_DATA or TFDS's own where empty
        "split_seed": 0,
        "on_bad_image": "error",
        "shards": "all",  # what each subnet draws from: all, iid, dirichlet
        "dirichlet_alpha": 0.3,
    }
    config.masks = {
        "kind": "fixed",
        "ratio": 0.5,
        "pattern": "uniform",
        "test_ratios": (),  # at which the finished head is tested too
    }
    # The link that images, or their features, cross before training and testing.
    config.transport = {
        "codec": "none",  # or jpeg (whole images), patches (the visible ones as a JPEG), raw
        "quality": 75,  # of JPEGs
        "features": "float32",  # or float16, int8
    }
    config.encoder = {
        "weights": "packaged:vit_micro",  # or hf:OWNER/MODEL, keras_hub:PRESET, a file, ...
        "dtype": "float32",
        "batch_size": 64,
        # What a checkpoint doesn't tell, or what is to be other than it tells; see load_encoder.
        "image_size": 0,
        "num_heads": 0,
        "qk_scale": 0.0,
        "activation": "",
        "epsilon": 0.0,
        "pool": "",
        "mean": (),
        "std": (),
        # How many of the last blocks train with the head, by ist.algorithm="centralized" alone.
        "trainable_blocks": 0,
        "learning_rate_factor": 0.3,  # of these blocks, over the head's
    }
    config.features = {"cache_dir": ""}  # ~/.cache/sparse_ist_tf/features where empty
    config.head = {
        "hidden": (1000, 1000),
        "initializer": "subnet_he_normal",
        "standardize": False,  # features, by mean and deviation of the training split
        "normalization": "none",  # of hidden layers: none, batch
        "dropout": 0.0,  # of hidden neurons
    }
    config.ist = {
        "algorithm": "ist",
        "num_subnets": 4,  # for the baselines the number of replicas
        "capacities": (),  # one number per subnet, equal where empty
        "widths": "layer",  # whose head.hidden is: layer, or subnet (a layer has N times as many)
        "local_steps": 20,
        "local_steps_schedule": "constant",  # or grow, consensus: see steps_of_round
        "moments": "carry",  # with their neurons; or reset every round, or stay in the slot
        "biases": "carry",  # or stay in the slot
        "scale_inputs": True,
        "keep_last_step": True,
        "variant": "corrected",  # or published: the four keys above as in the paper's code
    }
    # A flag sets kwargs whole: --config.optimizer.kwargs='{"beta_2": 0.99}'
    config.optimizer = {"name": "adam", "kwargs": {}}
    config.learning_rate = 1e-3
    config.schedule = "constant"
    config.warmup_steps = 0
    config.label_smoothing = 0.0
    config.batch_size = 64
    # How long each subnet trains: exactly one of the three is above 0.
    config.total_steps = 0
    config.total_epochs = 40.0
    config.total_examples = 0
    # True: that is how long all N of them train together, each taking 1/N of the steps.
    config.share_total = False
    # How often the merged head is tested and the run's state kept: one of each pair is above 0.
    config.eval_every_rounds = 5
    config.eval_every_epochs = 0.0
    config.checkpoint_every_rounds = 5
    config.checkpoint_every_epochs = 0.0
    config.centralized_baseline = True  # also train one whole head for the table
    config.cluster = {"peer_timeout_s": 60.0}
    return config


def lookup(config: ConfigDict, key: str):
    """The value of a dotted key.

    Args:
        config: any.
        key: such as "masks.ratio".

    Returns:
        The value.
    """
    for part in key.split("."):
        config = config[part]
    return config


def completed(config: Mapping) -> ConfigDict:
    """A stored configuration with the defaults of keys that came after it was stored.

    Args:
        config: of a run directory or an exported file.

    Returns:
        A new configuration.

    Example:
        >>> from sparse_ist_tf.config import completed
        >>> completed({"seed": 3}).masks.ratio
        0.5
    """
    out = get_config()
    with out.unlocked(), out.ignore_type():
        out.update(ConfigDict(config))
    return out


def validate(config: ConfigDict, num_workers: int) -> None:
    """Checks a configuration before any work is done.

    Args:
        config: as get_config makes it.
        num_workers: P.

    Raises:
        RequestError: naming the key, its value and what is allowed.
    """
    check_keys(config, get_config())
    for key, allowed in _CHOICES.items():
        _check(config, key, lambda v, a=allowed: v in a, f"one of {', '.join(allowed)}")
    for key in _AT_LEAST_ONE:
        _check(config, key, lambda v: v >= 1, "at least 1")
    for key in _ABOVE_ZERO:
        _check(config, key, lambda v: 0 < v < math.inf, "above 0")
    for key in _AT_LEAST_ZERO:
        _check(config, key, lambda v: 0 <= v < math.inf, "at least 0")
    for key in ("masks.ratio", "label_smoothing", "head.dropout"):
        _check(config, key, lambda v: 0 <= v < 1, "in [0, 1)")
    if config.encoder.trainable_blocks:
        _check_tunable(config)
    ratios = "numbers in [0, 1), each once"
    _check(config, "masks.test_ratios", _are_ratios, ratios)
    _check(config, "transport.quality", lambda v: 1 <= v <= 100, "in [1, 100]")
    for key in ("encoder.mean", "encoder.std"):
        _check(config, key, _is_color, "three numbers, or none")
    for keys in _UNITS:
        if sum(config[key] > 0 for key in keys) != 1:
            values = ", ".join(f"{key}={config[key]}" for key in keys)
            raise RequestError(f"{values}: exactly one must be above 0")
    name = config.dataset.name
    is_folder = name.startswith("folder:") and name != "folder:"
    if name not in DATASETS[:-1] and not is_folder:
        raise RequestError(f"dataset.name={name!r}: must be one of {', '.join(DATASETS)}")
    hidden = tuple(config.head.hidden)
    if not hidden or not all(_is_number(n) and n >= 1 and n == int(n) for n in hidden):
        raise RequestError(
            f"head.hidden={hidden}: must be whole numbers of at least 1, a layer each"
        )
    _check_subnets(config, hidden, num_workers)


# What the training of the encoder's blocks needs: features change at every step.
_TUNABLE = {
    "ist.algorithm": "centralized",
    "encoder.dtype": "float32",
    "transport.codec": "none",
    "transport.features": "float32",
    "head.standardize": False,
    "head.normalization": "none",
}


def _check_tunable(config):
    blocks = config.encoder.trainable_blocks
    for key, needed in _TUNABLE.items():
        text = f"{needed!r} for encoder.trainable_blocks={blocks}"
        _check(config, key, lambda v, needed=needed: v == needed, text)


def _check_subnets(config, hidden, num_workers):
    if num_workers < 1:
        raise RequestError(f"num_workers={num_workers}: must be at least 1")
    ist = config.ist
    if ist.algorithm == "centralized":
        if num_workers > 1:
            raise RequestError(
                f"num_workers={num_workers}: must be 1 for ist.algorithm='centralized'"
            )
        return
    if ist.num_subnets < num_workers:
        raise RequestError(
            f"ist.num_subnets={ist.num_subnets}: must be at least num_workers={num_workers}"
        )
    if ist.algorithm != "ist":
        return
    if ist.widths == "layer" and min(hidden) < ist.num_subnets:
        raise RequestError(
            f"head.hidden={hidden}: each layer needs at least ist.num_subnets="
            f"{ist.num_subnets} neurons"
        )
    capacities = tuple(ist.capacities)
    good = all(_is_number(c) and 0 < c < math.inf for c in capacities)
    if capacities and not (good and len(capacities) == ist.num_subnets):
        raise RequestError(
            f"ist.capacities={capacities}: must be one number above 0 for each of "
            f"{ist.num_subnets} subnets"
        )


def _is_color(value) -> bool:
    return len(value) in (0, 3) and all(_is_number(part) for part in value)


def _are_ratios(values) -> bool:
    return len(set(values)) == len(values) and all(_is_number(v) and 0 <= v < 1 for v in values)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(config, key, allowed, text):
    value = lookup(config, key)
    if not allowed(value):
        raise RequestError(f"{key}={value!r}: must be {text}")


def check_keys(config: ConfigDict, default: ConfigDict, prefix: str = "") -> None:
    """Makes sure that a configuration has the keys and types of values of the default.

    What is in optimizer.kwargs is left to Keras.

    Args:
        config: any.
        default: a complete configuration.
        prefix: in front of keys in messages.

    Raises:
        RequestError: naming the key that is unknown, missing, or of another type.
    """
    for key, value in config.items():
        name = prefix + key
        if key not in default:
            place = prefix.removesuffix(".") or "the configuration"
            raise RequestError(f"{name}: there is no such key; {place} has {', '.join(default)}")
        if isinstance(default[key], ConfigDict) and name != "optimizer.kwargs":
            if not isinstance(value, ConfigDict):
                raise RequestError(f"{name}={value!r}: must be a dictionary")
            check_keys(value, default[key], f"{name}.")
        elif not _like(value, default[key]):
            kind = type(default[key]).__name__
            raise RequestError(f"{name}={value!r}: must be of type {kind}")
    missing = [prefix + key for key in default if key not in config]
    if missing:
        raise RequestError(f"{missing[0]}: is missing")


def _like(value, default) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float | int):
        return isinstance(value, float | int) and not (
            isinstance(default, int) and isinstance(value, float) and value != int(value)
        )
    if isinstance(default, tuple):
        return isinstance(value, Sequence) and not isinstance(value, str)
    return isinstance(value, type(default))


def ist_options(config: ConfigDict) -> ConfigDict:
    """The keys of config.ist, with what its variant stands for.

    Args:
        config: valid.

    Returns:
        A new dictionary of the same keys.
    """
    ist = ConfigDict(config.ist.to_dict())
    if ist.variant == "published":
        ist.update(PUBLISHED)
    return ist


def hidden_widths(config: ConfigDict) -> tuple[int, ...]:
    """Neurons of each hidden layer of the merged head.

    Args:
        config: valid.

    Returns:
        config.head.hidden, times the number of subnets for IST with ist.widths="subnet".

    Example:
        >>> from sparse_ist_tf.config import get_config, hidden_widths
        >>> hidden_widths(get_config())
        (1000, 1000)
    """
    ist = config.ist
    times = ist.num_subnets if ist.algorithm == "ist" and ist.widths == "subnet" else 1
    return tuple(int(width) * times for width in config.head.hidden)
