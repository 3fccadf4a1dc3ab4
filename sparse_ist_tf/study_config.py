"""The configuration of study: its keys, and what they may hold."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from sparse_ist_tf import config as train_config
from sparse_ist_tf.allowed import Number, Numbers
from sparse_ist_tf.keys import Key, check, check_types, defaults
from sparse_ist_tf.studies.grid import cells_of

_GRIDS = {
    "1_mask_ratio": (("masks.ratio", (0.0, 0.5, 0.75)), ("ist.num_subnets", (1, 4))),
    "2_subnets": (("ist.num_subnets", (1, 2, 4, 8)),),
}
_SEEDS = "whole numbers of at least 0, each once"


# fmt: off
def table() -> list[Key]:
    """Study's keys in their order in --help."""
    seeds = Numbers(_SEEDS, Number(0), whole=True, distinct=True, least=1)
    return [
        Key("base", train_config.get_config().to_dict(), None,
            "keys of train, which all trainings share"),
        Key("seeds", (0, 1, 2), seeds, "of each training"),
        # A number in front of a grid's name gives its place in the report and isn't shown.
        Key("grids", _GRIDS, None,
            "sections of the report: axes, pairs of a key and its values, the first along x; what "
            "a training doesn't use keeps its default"),
        Key("only", (), None, "names of the grids to run; all of them where empty"),
        Key("variants", (), None,
            "names for several settings, values of an axis called variant: "
            '(("SGD", (("optimizer.name", "sgd"), ("learning_rate", 0.1))), ...)'),
        Key("num_workers", 1, None, "of a training; it changes nothing but the bytes"),
        Key("jobs", 0, Number(0), "worker processes at a time; as many as cores where 0"),
    ]
# fmt: on


def get_config() -> ConfigDict:
    """The default: mnist5k by number of subnets and by mask ratio, three seeds, some minutes."""
    return defaults(table())


def paper_study(dataset: str, checkpoint_every_epochs: float = 10.0) -> ConfigDict:
    """A study of the paper's protocol: 20 local steps, float32, no head beside for comparison."""
    config = get_config()
    config.base = train_config.paper_config(dataset)
    config.base.ist.link, config.base.ist.local_steps = "fast", 20
    config.base.checkpoint_every_epochs = checkpoint_every_epochs
    config.base.centralized_baseline = False  # one subnet is the centralised head
    return config


def completed(stored: Mapping) -> ConfigDict:
    """What a study's folder says of all its trainings, as today's study would say it."""
    return ConfigDict({**stored, "base": train_config.completed(stored.get("base", {}))})


def validate(config: ConfigDict) -> None:
    """Checks a study and every training in it before any work is done.

    Args:
        config: as get_config makes it.

    Raises:
        RequestError: naming the key, its value and what is allowed.
    """
    check(config, table())
    check_types(config.base, train_config.table(), "base.")
    cells_of(config)
