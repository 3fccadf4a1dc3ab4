"""The flags of a comparison, and what they ask for."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from sparse_ist_tf.allowed import Number
from sparse_ist_tf.benchmarks.cluster.comparison import Request, compare, compare_weak
from sparse_ist_tf.benchmarks.cluster.hosts.network import CONGESTION
from sparse_ist_tf.benchmarks.cluster.settings import LINKS, SETTINGS
from sparse_ist_tf.errors import RequestError

FLAGS = flags.FLAGS
_DATASETS = ("aid", "cifar10")
_WORKERS = Number(2, 16)


def define_flags() -> None:
    """Defines those that no other part has."""
    text = f"What cluster compares, some of {', '.join(SETTINGS)}."
    flags.DEFINE_list("settings", list(SETTINGS), text)
    text = "unshaped, or a rate, a delay from host to host and a loss, such as 10mbit/20ms/1%."
    flags.DEFINE_list("links", list(LINKS), f"Links of cluster's hosts: {text}")
    text = "A key of train's configuration, KEY=VALUE, that holds for all that cluster compares."
    flags.DEFINE_multi_string("override", [], f"{text} May be given again.")
    text = "Rounds that cluster measures; 0 for as many as fit into --seconds, at least 2."
    flags.DEFINE_integer("rounds", 0, text, lower_bound=0)
    flags.DEFINE_float("seconds", 60.0, "See --rounds.", lower_bound=0.0)
    flags.DEFINE_bool("accuracy", True, "Whether cluster trains for the accuracy by round, too.")
    text = "Instead: IST by 4 workers, the last one held to a tenth of a core."
    flags.DEFINE_bool("weak", False, text)
    flags.DEFINE_string("congestion", CONGESTION, "TCP's congestion control on cluster's hosts.")
    flags.DEFINE_string("workdir", "runs/cluster", "What cluster finds; it goes on there.")


def run(datasets: Sequence[str], num_workers: Sequence[str], data_dir: str | None) -> int:
    """Makes the comparison that the flags ask for.

    Args:
        datasets: of --dataset; none for AID and CIFAR-10.
        num_workers: of --num_workers.
        data_dir: where TFDS looks.

    Returns:
        An exit status.

    Raises:
        RequestError: if a flag isn't allowed, or this machine can't have hosts.
    """
    try:
        workers = [int(word) for word in num_workers]
    except ValueError:
        workers = []
    if not workers or not all(number in _WORKERS for number in workers):
        words = ",".join(num_workers)
        raise RequestError(f"--num_workers={words}: must be whole numbers {_WORKERS} for cluster")
    places = (f"dataset.data_dir={Path(data_dir).absolute()}",) if data_dir else ()
    request = Request(
        datasets=tuple(datasets) or _DATASETS,
        settings=FLAGS.settings,
        links=FLAGS.links,
        num_workers=workers,
        overrides=(*places, *FLAGS.override),
        rounds=FLAGS.rounds,
        seconds=FLAGS.seconds,
        congestion=FLAGS.congestion,
        with_accuracy=FLAGS.accuracy,
    )
    return (compare_weak if FLAGS.weak else compare)(request, Path(FLAGS.workdir))
