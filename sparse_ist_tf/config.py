"""The configuration of train: its keys, what they may hold, and what follows from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from ml_collections import ConfigDict

from sparse_ist_tf.allowed import Number, Numbers, OneOf, Value
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.keys import (
    Key,
    When,
    assign,
    check,
    check_optimizer,
    choice,
    defaults,
    is_used,
    lookup,
    updated,
)
from sparse_ist_tf.registry import (
    EXCHANGE,
    LINKS,
    LinkSetting,
    algorithm_names,
    algorithms_using,
    find_algorithm,
)

DATASETS = ("mnist5k", "digits", "cifar10", "resisc45", "aid", "rsscn7")
AUTO = "auto"  # as ist.link says
MIXED = "mixed"  # in all ways
INITIALIZERS = ("subnet_he_normal", "he_normal", "lecun_normal", "glorot_uniform", "torch_uniform")
RATIO = Number(0, 1, below=True)
COLOR = Numbers("three numbers, or none", counts=(0, 3))
# What the published experiment code does.
PUBLISHED = {"moments": "slot", "biases": "slot", "scale_inputs": False, "keep_last_step": False}
# Options of each optimizer that a subnet's updates honour; its moments are of the weights' shapes.
_EVERY = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm")
OPTIMIZERS = {
    "adam": ("beta_1", "beta_2", "epsilon", "amsgrad", *_EVERY),
    "adamw": ("beta_1", "beta_2", "epsilon", "amsgrad", *_EVERY),
    "sgd": ("momentum", "nesterov", *_EVERY),
    "lion": ("beta_1", "beta_2", *_EVERY),
    "rmsprop": ("rho", "momentum", "epsilon", "centered", *_EVERY),
}
# In each group exactly one is above 0.
_UNITS = (
    ("total_steps", "total_epochs", "total_examples"),
    ("eval_every_rounds", "eval_every_epochs"),
    ("checkpoint_every_rounds", "checkpoint_every_epochs"),
)
# Keys of 0.1.0 that are part of encoder.weights, and what they were where they said nothing.
_OF_THE_WEIGHTS = {"num_heads": 0, "qk_scale": 0.0, "epsilon": 0.0}
# Keys that came later, and what runs before them did; names are made only of what differs.
_LATER: dict[str, Value] = {
    "ist.link": "fast",
    **{f"ist.exchange.{name}": AUTO for name in EXCHANGE},
    "ist.outer_learning_rate": 0.7,
    "ist.outer_momentum": 0.9,
    "ist.logit_adjustment": False,
    "masks.grid": "scaled",
    "dataset.resize": "antialias",
    "masks.views": 1,
}
# What the training of the encoder's blocks needs: features change at every step.
_TUNABLE = {
    "ist.algorithm": "centralized",
    "encoder.dtype": "float32",
    "masks.views": 1,
    "transport.codec": "none",
    "transport.features": "float32",
    "head.standardize": False,
    "head.normalization": "none",
}


# fmt: off
def table() -> list[Key]:
    """Train's keys in their order in --help, with the algorithms that are registered now."""
    several, positive = _used_by("ist.num_subnets"), Number(0, above=True)
    algorithms = "; ".join(f"{name}: {find_algorithm(name).meaning}" for name in algorithm_names())
    kinds = ("folder:PATH", "npz:FILE", "tfds:NAME")
    split = (When("dataset.name", ("mnist5k", "digits", "resisc45", *kinds)),)
    ist = [
        Key("ist.num_subnets", 4, Number(1), "subnets of the head, or replicas of it"),
        Key("ist.capacities", (), Numbers("one number above 0 per subnet, or none", positive),
            "the subnets' shares; equal where empty"),
        choice("ist.widths", ("layer", "subnet"), "whose neurons head.hidden counts"),
        choice("ist.link", tuple(LINKS), "what 0 and auto stand for in the five keys below"),
        Key("ist.local_steps", 0, Number(0),
            "of a round; where 0, 500, on a thin link 100, on a fast one 20, at most an eighth"),
        choice("ist.local_steps_schedule", ("constant", "grow", "consensus"),
            "always all of them, more and more, one in the last tenth"),
        choice("ist.moments", ("carry", "reset", "slot"),
            "go with their neurons, begin anew every round, stay where they are"),
        choice("ist.biases", ("carry", "slot"), "of hidden layers, likewise"),
        Key("ist.scale_inputs", True, None, "layer width over subnet width while training"),
        Key("ist.keep_last_step", True, None, "whether the last step of a round counts"),
        choice("ist.variant", ("corrected", "published"),
            "published: the four keys above as in the paper's code"),
        choice("ist.exchange.weights", (AUTO, "float32", "bfloat16", "float16"),
            "what neurons' weights are sent to a subnet as"),
        choice("ist.exchange.differences", (AUTO, "float32", "bfloat16", "int8", "int4"),
            "what it sends back as, rounded up or down at random"),
        choice("ist.exchange.first_moment", (AUTO, "float32", "int8", "int4", "reset"),
            "what the optimizer's mean of gradients is sent as; reset: it isn't"),
        choice("ist.exchange.second_moment", (AUTO, "float32", "halvings", "neuron", "reset"),
            "of their squares; 4 bits below a neuron's greatest, the mean over its inputs"),
        Key("ist.outer_learning_rate", 0.7, positive, "of the step by replicas' mean difference"),
        Key("ist.outer_momentum", 0.9, RATIO, "of these steps, Nesterov's"),
        Key("ist.logit_adjustment", True, None,
            "whether a subnet's loss makes up for its shard's shares of the classes",
            (When("dataset.shards", ("iid", "dirichlet")),)),
    ]
    return [
        Key("seed", 0, Number(0), "of masks, partitions, batches and initial weights"),
        Key("dataset.name", DATASETS[0], OneOf((*DATASETS, *kinds), ("arrays:DIGEST",)),
            "the images"),
        Key("dataset.data_dir", "", None,
            "where TFDS looks; else $SPARSE_IST_DATA or its own place"),
        Key("dataset.split_seed", 0, Number(0), "of the split where the data has none", split),
        choice("dataset.on_bad_image", ("error", "skip"), "what a bad image does"),
        choice("dataset.resize", ("antialias", "bilinear", "area", MIXED),
            "how pixels become fewer: smoothed, blends of two as MediaPipe has them, means, or in "
            "training each of these in turns"),
        choice("dataset.shards", ("all", "iid", "dirichlet"),
            "which examples each subnet draws from", several),
        Key("dataset.dirichlet_alpha", 0.3, positive,
            "of the classes' shares; the smaller, the more unlike the subnets",
            (When("dataset.shards", ("dirichlet",)),)),
        choice("masks.kind", ("fixed", "random", "shared"),
            "one per image, one per image and epoch, one for all"),
        Key("masks.views", 1, Number(1, 64), "fixed masks of a training image, taken in turns",
            (When("masks.kind", ("fixed",)), When("masks.ratio"))),
        Key("masks.ratio", 0.5, RATIO, "hidden share of the patches"),
        choice("masks.grid", ("sensor", "scaled"),
            "patches lie on the sensor's pixels, or on the scaled image, as in the paper"),
        choice("masks.pattern", ("uniform", "grid", "center", "border"),
            "of the mask that all images share", (When("masks.kind", ("shared",)),)),
        Key("masks.test_ratios", (), Numbers("numbers in [0, 1), each once", RATIO, distinct=True),
            "at which the finished head is tested too"),
        choice("transport.codec", ("none", "jpeg", "patches", "raw"),
            "what images are sent as: they aren't, whole, visible patches as a JPEG or raw"),
        Key("transport.quality", 75, Number(1, 100), "of JPEGs, those too that are only counted"),
        choice("transport.features", ("float32", "float16", "int8", "int4", "int3", "int2"),
            "what features are sent as"),
        Key("encoder.weights", "packaged:vit_micro", None,
            "hf:OWNER/MODEL, keras_hub:PRESET, a file, ...; ?num_heads=16 and the like behind it"),
        choice("encoder.dtype", ("float32", "bfloat16"), "in which it computes"),
        Key("encoder.batch_size", 64, Number(1), "images that are encoded at a time"),
        Key("encoder.image_size", 0, Number(0), "side in pixels; the checkpoint's where 0"),
        Key("encoder.activation", "", None, "of the MLPs; the checkpoint's where empty"),
        Key("encoder.pool", "", None, "what the feature is, such as cls; as above"),
        Key("encoder.mean", (), COLOR, "of red, green and blue; as above"),
        Key("encoder.std", (), COLOR, "of red, green and blue; as above"),
        Key("encoder.trainable_blocks", 0, Number(0), "the last ones, which train with the head"),
        Key("encoder.learning_rate_factor", 0.3, positive,
            "of these blocks, over the head's", (When("encoder.trainable_blocks"),)),
        Key("features.cache_dir", "", None, "~/.cache/sparse_ist_tf/features where empty"),
        Key("head.hidden", (1000, 1000),
            Numbers("whole numbers of at least 1, a layer each", Number(1), whole=True, least=1),
            "neurons of the hidden layers"),
        choice("head.initializer", INITIALIZERS, "of the weights"),
        Key("head.standardize", False, None, "features, by mean and std of the training split"),
        choice("head.normalization", ("none", "batch"), "of hidden layers"),
        Key("head.dropout", 0.0, RATIO, "share of the hidden neurons"),
        choice("ist.algorithm", algorithm_names(), algorithms),
        *(dataclasses.replace(key, used=_used_by(key.name) + key.used) for key in ist),
        choice("optimizer.name", tuple(OPTIMIZERS), "of the head"),
        Key("optimizer.kwargs", {}, None, "its options, set whole: {'beta_2': 0.99}"),
        Key("learning_rate", 1e-3, positive, "after the warm-up"),
        choice("schedule", ("constant", "cosine"), "of the learning rate"),
        Key("warmup_steps", 0, Number(0), "over which the learning rate rises"),
        Key("label_smoothing", 0.0, RATIO, "share of the truth that all classes get"),
        Key("batch_size", 64, Number(1), "of a subnet"),
        Key("total_steps", 0, Number(0), "how long each subnet trains; or total_epochs"),
        Key("total_epochs", 16.0, Number(0), "or total_examples; one of the three is above 0"),
        Key("total_examples", 0, Number(0), "see total_steps"),
        Key("share_total", False, None, "the N subnets train so long together, 1/N each", several),
        Key("eval_every_rounds", 1, Number(0), "when the merged head is tested; or"),
        Key("eval_every_epochs", 0.0, Number(0), "likewise; one of both is above 0"),
        Key("checkpoint_every_rounds", 5, Number(0), "when the run's state is kept; or"),
        Key("checkpoint_every_epochs", 0.0, Number(0), "likewise; one of both is above 0"),
        Key("centralized_baseline", True, None, "also train one whole head for the table"),
        Key("cluster.peer_timeout_s", 60.0, positive, "that a silent peer is waited for"),
    ]
# fmt: on


def _used_by(key: str) -> tuple[When, ...]:
    """By which algorithms, and by which variant, a key of ist is used, where not by all."""
    names = algorithms_using(key)
    found = () if names == algorithm_names() else (When("ist.algorithm", names),)
    variant = (When("ist.variant", ("corrected",)),)
    if key.endswith("_moment"):
        return (*found, *variant, When("ist.moments", ("carry",)))
    return found + variant if key.removeprefix("ist.") in PUBLISHED else found


def get_config() -> ConfigDict:
    """The default: 5,000 images of MNIST, half of the patches hidden, 4 subnets, in a minute."""
    return defaults(table())


def paper_config(dataset: str, published: bool = False) -> ConfigDict:
    """The paper's protocol: 30 epochs, tested after each.

    Args:
        dataset: its name.
        published: with the paper's encoder, rounds and float32, and what its code does differently
            from its text.
    """
    config = get_config()
    config.dataset.name, config.total_epochs = dataset, 30.0
    config.eval_every_rounds, config.eval_every_epochs = 0, 1.0
    config.checkpoint_every_rounds, config.checkpoint_every_epochs = 0, 3.0
    if published:
        config.encoder.weights = "hf:facebook/vit-mae-base"
        config.encoder.mean = config.encoder.std = (0.5, 0.5, 0.5)
        config.head.initializer, config.ist.variant = "torch_uniform", "published"
        config.ist.link, config.ist.local_steps = "fast", 20
        config.checkpoint_every_epochs, config.masks.grid = 1.0, "scaled"
    return config


def completed(config: Mapping) -> ConfigDict:
    """A stored configuration as one of today: keys that came later say what was done before them.

    What 0.1.0 said of the encoder's heads and norms is in encoder.weights.

    Args:
        config: of a run directory or an exported file.
    """
    stored = dict(config)
    encoder = dict(stored.get("encoder", {}))
    told = {name: encoder.pop(name, 0) for name in _OF_THE_WEIGHTS}
    if told := {name: value for name, value in told.items() if value}:
        encoder["weights"] += f"?{urlencode(told)}"
    found = get_config()
    for name, before in _LATER.items():
        assign(found, name, before)
    found = updated(found, stored | {"encoder": encoder})
    for key in _later_keys():
        if not is_used(found, key):
            assign(found, key.name, key.default)
    return found


def _later_keys() -> list[Key]:
    return [key for key in table() if key.name in _LATER]


def identity(config: ConfigDict) -> dict:
    """Plain values with the keys of 0.1.0, of which names are made that hold in every version."""
    values = config.to_dict()
    values["encoder"] |= _OF_THE_WEIGHTS
    for key in _later_keys():
        if lookup(values, key.name) == _LATER[key.name] or not is_used(config, key):
            _drop(values, key.name.split("."))
    return values


def _drop(values: dict, path: Sequence[str]) -> None:
    """Leaves a key out, and what holds nothing without it."""
    first, *rest = path
    if rest:
        _drop(values[first], rest)
    if not (rest and values[first]):
        del values[first]


def validate(config: ConfigDict, num_workers: int) -> None:
    """Checks a configuration before any work is done.

    Args:
        config: as get_config makes it.
        num_workers: P.

    Raises:
        RequestError: naming the key, its value and what is allowed.
    """
    check(config, table())
    for names in _UNITS:
        if sum(config[name] > 0 for name in names) != 1:
            values = ", ".join(f"{name}={config[name]}" for name in names)
            raise RequestError(f"{values}: exactly one must be above 0")
    if blocks := config.encoder.trainable_blocks:
        for key, needed in _TUNABLE.items():
            if lookup(config, key) != needed:
                raise RequestError(
                    f"{key}={lookup(config, key)!r}: must be {needed!r} for "
                    f"encoder.trainable_blocks={blocks}"
                )
    check_optimizer(config, OPTIMIZERS)
    if config.dataset.resize == MIXED:
        _check_mixed(config)
    _check_moments(config)
    _check_transport(config)
    _check_subnets(config, num_workers)


def _check_mixed(config):
    """What is encoded anew in every pass is scaled in one way."""
    for key, allowed in (("masks.kind", ("fixed", "shared")), ("encoder.trainable_blocks", (0,))):
        if (value := lookup(config, key)) not in allowed:
            words = " or ".join(map(repr, allowed))
            raise RequestError(f"{key}={value!r}: must be {words} for dataset.resize={MIXED!r}")


def _check_moments(config):
    """An optimizer that keeps no such moment sends none, whatever form is asked for."""
    kwargs, name = config.optimizer.kwargs, config.optimizer.name
    has_momentum = name not in ("sgd", "rmsprop") or kwargs.get("momentum", 0.0) > 0
    kept = {"first": has_momentum, "second": name in ("adam", "adamw", "rmsprop")}
    for kind, is_kept in kept.items():
        value = config.ist.exchange[f"{kind}_moment"]
        if value != AUTO and not is_kept:
            raise RequestError(
                f"ist.exchange.{kind}_moment={value!r}: must be {AUTO!r} for "
                f"optimizer.name={name!r}, which keeps none"
            )


def _check_transport(config):
    masks = config.masks
    hidden = [ratio for ratio in (masks.ratio, *masks.test_ratios) if ratio]
    if config.transport.codec == "jpeg" and masks.grid == "sensor" and hidden:
        raise RequestError(
            f"transport.codec='jpeg': whole images carry what a mask ratio of {hidden[0]:g} hides; "
            "must be 'patches', 'raw' or 'none' there, or masks.grid='scaled'"
        )


def _check_subnets(config, num_workers):
    if num_workers < 1:
        raise RequestError(f"num_workers={num_workers}: must be at least 1")
    ist, hidden = config.ist, tuple(config.head.hidden)
    if find_algorithm(ist.algorithm).single_worker:
        if num_workers > 1:
            raise RequestError(
                f"num_workers={num_workers}: must be 1 for ist.algorithm={ist.algorithm!r}"
            )
        return
    if ist.num_subnets < num_workers:
        raise RequestError(
            f"ist.num_subnets={ist.num_subnets}: must be at least num_workers={num_workers}"
        )
    dealt = ist.algorithm in algorithms_using("ist.widths")
    if dealt and ist.widths == "layer" and min(hidden) < ist.num_subnets:
        raise RequestError(
            f"head.hidden={hidden}: each layer needs at least ist.num_subnets="
            f"{ist.num_subnets} neurons"
        )
    shares = f"one number above 0 for each of {ist.num_subnets} subnets"
    shares = Numbers(shares, Number(0, above=True), counts=(0, ist.num_subnets))
    if ist.capacities not in shares:
        raise RequestError(f"ist.capacities={tuple(ist.capacities)}: must be {shares}")


def ist_options(config: ConfigDict) -> ConfigDict:
    """The keys of config.ist, with what its variant and link stand for; a new dictionary."""
    ist = ConfigDict(config.ist.to_dict())
    if ist.variant == "published":
        ist.update(PUBLISHED)
    for name in EXCHANGE:
        if ist.exchange[name] == AUTO:
            ist.exchange[name] = getattr(link_setting(config), name)
    return ist


def link_setting(config: ConfigDict) -> LinkSetting:
    """What config.ist.link stands for; with unlike shards "thinnest" is no more than "thin".

    A long round is then a long way from what the other subnets learn (docs/thin_links.md).
    """
    is_unlike = config.dataset.shards == "dirichlet"
    return LINKS["thin" if is_unlike and config.ist.link == "thinnest" else config.ist.link]


def hidden_widths(config: ConfigDict) -> tuple[int, ...]:
    """Neurons of each hidden layer of the merged head.

    Returns:
        config.head.hidden, times the number of subnets with ist.widths="subnet".
    """
    ist = config.ist
    by_subnet = ist.widths == "subnet" and ist.algorithm in algorithms_using("ist.widths")
    return tuple(int(width) * (ist.num_subnets if by_subnet else 1) for width in config.head.hidden)
