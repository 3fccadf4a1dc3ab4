"""The flags of a comparison, and what they ask for."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from sparse_ist_tf.allowed import Number
from sparse_ist_tf.benchmarks.cluster import grow
from sparse_ist_tf.benchmarks.cluster.comparison import (
    Request,
    compare,
    compare_growth,
    compare_weak,
)
from sparse_ist_tf.benchmarks.cluster.hosts.network import CONGESTION
from sparse_ist_tf.benchmarks.cluster.hosts.shapes import UNSHAPED
from sparse_ist_tf.benchmarks.cluster.settings import LINKS, SETTINGS
from sparse_ist_tf.errors import RequestError

FLAGS = flags.FLAGS
_DATASETS = ("aid", "cifar10")
_WORKERS = Number(2, 16)
_GROWN_WORKERS, _GROWN_SUBNETS = Number(2, grow.BASE[1]), Number(grow.BASE[0], 16)
_GROWN_WIDTHS = Number(16, 16_000)
_GROWN_LINK = "10mbit/20ms"
_FIXED = ("dataset", "override", "accuracy", "weak")  # what --grow says itself


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
    p, n, width = grow.BASE
    text = f"one of P, N and width varied at a time around {p}, {n} and {width}."
    flags.DEFINE_bool("grow", False, f"Instead: rounds of IST beside a model of them, {text}")
    flags.DEFINE_list("num_subnets", list(map(str, grow.SUBNETS)), "Each N of --grow.")
    flags.DEFINE_list("widths", list(map(str, grow.WIDTHS)), "Hidden layers' widths of --grow.")
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
    if FLAGS.grow:
        return _grow(num_workers)
    for name in ("num_subnets", "widths"):
        if FLAGS[name].present:
            raise RequestError(f"--{name}: only with --grow")
    workers = _numbers("num_workers", num_workers, _WORKERS, " for cluster")
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


def _grow(num_workers: Sequence[str]) -> int:
    """As run, with --grow: what isn't given has values of its own."""
    for name in _FIXED:
        if FLAGS[name].present:
            raise RequestError(f"--{name}: must not stand beside --grow")
    links = FLAGS.links if FLAGS["links"].present else [_GROWN_LINK]
    if len(links) != 1 or links == [UNSHAPED]:
        raise RequestError(f"--links={','.join(links)}: must be one that is shaped, with --grow")
    settings = FLAGS.settings if FLAGS["settings"].present else ["fast", "thinnest"]
    if not set(settings) <= set(grow.SETTINGS):
        known = ", ".join(grow.SETTINGS)
        raise RequestError(f"--settings={','.join(settings)}: must be some of {known} with --grow")
    words = num_workers if FLAGS["num_workers"].present else list(map(str, grow.WORKERS))
    sizes = grow.sizes(
        _numbers("num_workers", words, _GROWN_WORKERS, " with --grow"),
        _numbers("num_subnets", FLAGS.num_subnets, _GROWN_SUBNETS),
        _numbers("widths", FLAGS.widths, _GROWN_WIDTHS),
    )
    request = Request(
        datasets=(grow.DATASET,),
        settings=settings,
        links=links,
        rounds=FLAGS.rounds,
        seconds=FLAGS.seconds if FLAGS["seconds"].present else grow.SECONDS,
        congestion=FLAGS.congestion,
    )
    return compare_growth(request, sizes, Path(FLAGS.workdir))


def _numbers(flag: str, words: Sequence[str], allowed: Number, where: str = "") -> list[int]:
    """Whole numbers of a flag.

    Raises:
        RequestError: if it has none, or one that isn't allowed.
    """
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or not all(number in allowed for number in numbers):
        raise RequestError(f"--{flag}={','.join(words)}: must be whole numbers {allowed}{where}")
    return numbers
