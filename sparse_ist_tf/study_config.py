"""The default configuration of study, and what it may hold."""

from ml_collections import ConfigDict

from sparse_ist_tf import config as train_config
from sparse_ist_tf.config import check_keys
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.studies.grid import cells_of


def get_config() -> ConfigDict:
    """The default: digits by 1, 2 and 4 subnets and by mask ratio, three seeds, some minutes.

    Returns:
        A new configuration; files in configs/ change it for their study.
    """
    config = ConfigDict()
    config.base = train_config.get_config()  # what all trainings share
    config.seeds = (0, 1, 2)
    # Each grid becomes a section of the report, in the order of their names: a number in front
    # isn't shown. Its axes are keys and their values, the first of them along the x axis.
    config.grids = ConfigDict(
        {
            "1_mask_ratio": (("masks.ratio", (0.0, 0.5, 0.75)), ("ist.num_subnets", (1, 4))),
            "2_subnets": (("ist.num_subnets", (1, 2, 4, 8)),),
        }
    )
    config.only = ()  # names of the grids to run; all of them where empty
    # Names for several settings at once, which an axis called "variant" has as its values:
    # (("SGD", (("optimizer.name", "sgd"), ("learning_rate", 0.1))), ...)
    config.variants = ()
    config.num_workers = 1  # of a training; it changes nothing but the bytes
    config.jobs = 0  # worker processes at a time, as many as there are cores where 0
    return config


def validate(config: ConfigDict) -> None:
    """Checks a study and every training in it before any work is done.

    Args:
        config: as get_config makes it.

    Raises:
        RequestError: naming the key, its value and what is allowed.
    """
    default = get_config()
    default.grids = config.grids
    check_keys(config, default)
    seeds = tuple(config.seeds)
    good = all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds)
    if not seeds or not good or len(set(seeds)) < len(seeds):
        raise RequestError(f"seeds={seeds}: must be whole numbers of at least 0, each once")
    if config.jobs < 0:
        raise RequestError(f"jobs={config.jobs}: must be at least 0")
    cells_of(config)
