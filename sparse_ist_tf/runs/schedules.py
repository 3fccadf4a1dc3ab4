"""How long a run trains, and what changes on the way: rounds, evaluations, learning rate."""

import math
from collections.abc import Callable

from ml_collections import ConfigDict

from sparse_ist_tf.config import link_setting
from sparse_ist_tf.registry import find_algorithm

_FEWEST_ROUNDS = 8  # of a run whose rounds have no length of their own


def total_steps(config: ConfigDict, num_examples: int) -> int:
    """How many steps each subnet takes.

    An epoch is one pass of a subnet over num_examples, so every subnet takes as many steps as a
    centralised head would (the paper's protocol); with config.share_total the N subnets, or
    replicas, take as many together, each 1/N of them: equal total examples.

    Returns:
        At least 1.

    Example:
        >>> from sparse_ist_tf.config import get_config
        >>> from sparse_ist_tf.runs.schedules import total_steps
        >>> total_steps(get_config(), 1437)
        360
    """
    steps = config.total_steps
    if not steps:
        examples = config.total_examples or config.total_epochs * num_examples
        steps = examples / config.batch_size
    return max(1, math.ceil(steps / _sharing(config) - 1e-9))


def _sharing(config: ConfigDict) -> int:
    """Among how many the steps of a run are shared."""
    several = "ist.num_subnets" in find_algorithm(config.ist.algorithm).keys
    return config.ist.num_subnets if config.share_total and several else 1


def local_steps(config: ConfigDict, steps: int) -> int:
    """Steps of a round before config.ist.local_steps_schedule: config.ist.local_steps.

    Where that is 0 as many as config.ist.link asks for, fewer where shards differ, and never so
    many that the run has less than eight rounds: neurons that are dealt once or twice never meet.

    Args:
        config: valid.
        steps: of the whole run.

    Returns:
        At least 1.

    Example:
        >>> from sparse_ist_tf.config import get_config
        >>> from sparse_ist_tf.runs.schedules import local_steps
        >>> local_steps(get_config(), 1000), local_steps(get_config(), 40)
        (125, 5)
    """
    if config.ist.local_steps:
        return int(config.ist.local_steps)
    most = min(link_setting(config).local_steps, math.ceil(steps / _FEWEST_ROUNDS))
    is_few = math.ceil(steps / most) < _FEWEST_ROUNDS
    return max(1, most - is_few)


def steps_of_round(config: ConfigDict, step: int, steps: int) -> int:
    """Local steps of the round that begins at a step, by config.ist.local_steps_schedule.

    "constant": always local_steps(). "grow": from 1, in proportion to the steps done, to
    all of them at half of the run. "consensus": a single one in the last tenth of the run, so that
    the subnets agree in the end.

    Args:
        config: valid.
        step: done before the round.
        steps: of the whole run, more than step.

    Returns:
        At least 1, at most what is left.
    """
    local, schedule = local_steps(config, steps), config.ist.local_steps_schedule
    if schedule == "grow":
        local = max(1, min(local, local * 2 * step // steps))
    elif schedule == "consensus":
        until = 9 * steps // 10
        local = min(local, until - step) if step < until else 1
    return min(local, steps - step)


def rounds_between(config: ConfigDict, what: str, num_examples: int) -> int:
    """After how many rounds something is done again.

    Args:
        config: valid.
        what: "eval" or "checkpoint".
        num_examples: size of the training split.

    Returns:
        At least 1; whole rounds, the nearest to what epochs ask for.
    """
    if rounds := config[f"{what}_every_rounds"]:
        return int(rounds)
    steps = config[f"{what}_every_epochs"] * num_examples / config.batch_size / _sharing(config)
    return max(1, round(steps / local_steps(config, total_steps(config, num_examples))))


def learning_rate_schedule(config: ConfigDict, steps: int) -> Callable[[int], float]:
    """The learning rate as a function of the step.

    Returns:
        A function from the step, counted from 0, to the rate: a linear warm-up over
        config.warmup_steps, then constant or a cosine to 0.
    """
    warmup = int(config.warmup_steps)

    def rate(step: int) -> float:
        value = config.learning_rate * min(1.0, (step + 1) / max(1, warmup))
        if config.schedule == "cosine" and step >= warmup:
            done = (step - warmup) / max(1, steps - warmup)
            value *= 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return value

    return rate
