"""The default configuration of train, and what it may hold."""

import math
from collections.abc import Sequence

from ml_collections import ConfigDict

from sparse_ist_tf.errors import RequestError

ALGORITHMS = ("ist", "data_parallel", "local_sgd", "centralized")
OPTIMIZERS = ("adam", "adamw", "sgd", "lion", "rmsprop")
SCHEDULES = ("constant", "cosine")
DATASETS = ("digits", "cifar10", "resisc45", "aid", "folder:PATH")

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
    "encoder.dtype": ("float32", "bfloat16"),
    "ist.algorithm": ALGORITHMS,
    "ist.moments": ("carry", "reset"),
    "optimizer.name": OPTIMIZERS,
    "schedule": SCHEDULES,
}
_AT_LEAST_ONE = (
    "encoder.batch_size",
    "ist.num_subnets",
    "ist.local_steps",
    "batch_size",
)
_ABOVE_ZERO = ("learning_rate", "dataset.dirichlet_alpha", "cluster.peer_timeout_s")
_AT_LEAST_ZERO = (
    "seed",
    "dataset.split_seed",
    "encoder.image_size",
    "encoder.num_heads",
    "encoder.epsilon",
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
    config.masks = {"kind": "fixed", "ratio": 0.5, "pattern": "uniform"}
    config.encoder = {
        "weights": "packaged:vit_micro",  # or hf:OWNER/MODEL, keras_hub:PRESET, a file, ...
        "dtype": "float32",
        "batch_size": 64,
        # What a checkpoint doesn't tell, or what is to be other than it tells; see load_encoder.
        "image_size": 0,
        "num_heads": 0,
        "activation": "",
        "epsilon": 0.0,
        "pool": "",
        "mean": (),
        "std": (),
    }
    config.features = {"cache_dir": ""}  # ~/.cache/sparse_ist_tf/features where empty
    config.head = {"hidden": (1000, 1000)}
    config.ist = {
        "algorithm": "ist",
        "num_subnets": 4,  # for the baselines the number of replicas
        "capacities": (),  # one number per subnet, equal where empty
        "local_steps": 20,
        "moments": "carry",
        "scale_inputs": True,
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

    Example:
        >>> from sparse_ist_tf.config import get_config, lookup
        >>> lookup(get_config(), "ist.local_steps")
        20
    """
    for part in key.split("."):
        config = config[part]
    return config


def validate(config: ConfigDict, num_workers: int) -> None:
    """Checks a configuration before any work is done.

    Args:
        config: as get_config makes it.
        num_workers: P.

    Raises:
        RequestError: naming the key, its value and what is allowed.

    Example:
        >>> from sparse_ist_tf.config import get_config, validate
        >>> validate(get_config(), num_workers=2)
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
    for key in ("masks.ratio", "label_smoothing"):
        _check(config, key, lambda v: 0 <= v < 1, "in [0, 1)")
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
    if min(hidden) < ist.num_subnets:
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

    Example:
        >>> from sparse_ist_tf.config import check_keys, get_config
        >>> check_keys(get_config(), get_config())
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


def total_steps(config: ConfigDict, num_examples: int) -> int:
    """How many steps each subnet takes.

    An epoch is one pass of a subnet over num_examples, so every subnet takes as many steps as a
    centralised head would (the paper's protocol).

    Args:
        config: valid.
        num_examples: size of the training split.

    Returns:
        At least 1.

    Example:
        >>> from sparse_ist_tf.config import get_config, total_steps
        >>> total_steps(get_config(), 1437)
        899
    """
    if config.total_steps:
        return int(config.total_steps)
    examples = config.total_examples or config.total_epochs * num_examples
    return max(1, math.ceil(examples / config.batch_size - 1e-9))


def rounds_between(config: ConfigDict, what: str, num_examples: int) -> int:
    """After how many rounds something is done again.

    Args:
        config: valid.
        what: "eval" or "checkpoint".
        num_examples: size of the training split.

    Returns:
        At least 1; whole rounds, the nearest to what epochs ask for.

    Example:
        >>> from sparse_ist_tf.config import get_config, rounds_between
        >>> rounds_between(get_config(), "eval", 1437)
        5
    """
    if rounds := config[f"{what}_every_rounds"]:
        return int(rounds)
    steps = config[f"{what}_every_epochs"] * num_examples / config.batch_size
    return max(1, round(steps / config.ist.local_steps))


def learning_rate_schedule(config: ConfigDict, steps: int):
    """The learning rate as a function of the step.

    Args:
        config: valid.
        steps: of the whole run.

    Returns:
        A function from the step, counted from 0, to the rate: a linear warm-up over
        config.warmup_steps, then constant or a cosine to 0.

    Example:
        >>> from sparse_ist_tf.config import get_config, learning_rate_schedule
        >>> learning_rate_schedule(get_config(), 100)(99)
        0.001
    """
    warmup = int(config.warmup_steps)

    def rate(step: int) -> float:
        value = config.learning_rate * min(1.0, (step + 1) / max(1, warmup))
        if config.schedule == "cosine" and step >= warmup:
            done = (step - warmup) / max(1, steps - warmup)
            value *= 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return value

    return rate
