"""Measures this machine: encoding, local steps and the exchange, beside its matrix-multiply peak.

    python -m sparse_ist_tf.benchmark
    python -m sparse_ist_tf.benchmark encode
    python -m sparse_ist_tf.benchmark leak --dataset=cifar10 --image_size=64,128

The second measures ViT-B/16, beside timm's where that is installed. Speed is measured in one run
and each figure is the best of several repetitions: quote ratios, machines are noisy. The third
measures no speed but what visible patches tell of hidden pixels, and `bytes` what images cost.
`faults` makes every fault that workers have to survive or to name, `soak` kills them for long.
`cluster` puts workers on hosts of their own, as root, behind links that are really thin.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from sparse_ist_tf.allowed import Number
from sparse_ist_tf.benchmarks.cluster import flags as cluster_flags
from sparse_ist_tf.commands import quiet, run
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.registry import EXCHANGE, LINKS
from sparse_ist_tf.reports.report import format_table
from sparse_ist_tf.workers.launch import follow_launcher, run_local_workers

if TYPE_CHECKING:
    from sparse_ist_tf.ist.rounds import IstTrainer
    from sparse_ist_tf.workers.link import Link

FLAGS = flags.FLAGS
PARTS = ("encode", "train", "exchange", "export", "quantize", "leak", "bytes")
PARTS += ("faults", "soak", "cluster")
_COUNTED = 20  # rounds whose bytes are counted: each deals neurons anew
_BY_DEFAULT = PARTS[:4]  # what is behind needs packages of its own, is of images, or no speed


def best_time(function: Callable[[], object], repetitions: int = 5) -> float:
    """The shortest of several runs, after two to warm up."""
    for _ in range(2):
        function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_peak(size: int = 2048) -> float:
    """FLOP/s of a square float32 matrix product.

    Returns:
        2 * size**3 over the best time.
    """
    import tensorflow as tf

    a = tf.random.normal((size, size))
    product = tf.function(lambda: tf.linalg.matmul(a, a))
    return 2 * size**3 / best_time(lambda: product().numpy())


def _trainer(
    num_subnets: int, local_steps: int, link: "Link", setting: str = "fast"
) -> "IstTrainer":
    from sparse_ist_tf.ist.exchange.parameters import Forms
    from sparse_ist_tf.ist.head import HeadSpec
    from sparse_ist_tf.ist.rounds import IstTrainer
    from sparse_ist_tf.ist.trainer import TrainerOptions, TrainingData

    rng = np.random.default_rng(0)
    features = rng.normal(size=(4096, 192)).astype(np.float32)
    labels = rng.integers(0, 10, 4096).astype(np.int32)
    forms = Forms(**{name: getattr(LINKS[setting], name) for name in EXCHANGE})
    return IstTrainer(
        HeadSpec(192, (1000, 1000), 10),
        TrainerOptions(num_subnets=num_subnets, local_steps=local_steps, forms=forms),
        link,
        TrainingData(features, labels, [np.arange(4096)] * num_subnets),
    )


def step_and_exchange(trainer: "IstTrainer") -> tuple[float, float]:
    """Seconds of one local step of all hosted subnets, and of all else in a round together.

    From rounds of 20 and of 40 steps: the step is a twentieth of the difference, and the exchange,
    with the plan of the next round and whatever Python does, is what 20 steps don't explain.
    """
    short = best_time(lambda: trainer.run_round(20), 12)
    long = best_time(lambda: trainer.run_round(40), 12)
    step = (long - short) / 20
    return step, short - 20 * step


def subnet_flops(trainer: "IstTrainer") -> float:
    """FLOP of the matrix products of one local step of all hosted subnets.

    A kernel takes part in three of them, but the features need no gradient.
    """
    entries = 0
    for columns in trainer.subnets.values():
        shapes = (variable.shape for variable, *_ in columns)
        first, *others = (a * b for a, b in (s for s in shapes if len(s) == 2))
        entries += 2 * first + 3 * sum(others)
    return 2.0 * trainer.options.batch_size * entries


def bench_train(peak: float) -> None:
    """Prints examples/s for 1, 2 and 4 subnets on one worker."""
    from sparse_ist_tf.workers.link import Link

    rows = [("subnets", "examples/s", "ms/step", "GFLOP/s", "of peak")]
    for num_subnets in (1, 2, 4):
        trainer = _trainer(num_subnets, 20, Link.alone())
        step, _ = step_and_exchange(trainer)
        flops = subnet_flops(trainer) / step
        rows.append(
            (
                f"{num_subnets}",
                f"{num_subnets * 64 / step:.0f}",
                f"{1e3 * step:.2f}",
                f"{flops / 1e9:.0f}",
                f"{flops / peak:.0%}",
            )
        )
    print("Local steps, head 192-1000-1000-10, batches of 64, Adam, one worker")
    print(format_table(rows), flush=True)


def bench_exchange_worker() -> None:
    """One worker's part of the measurement of the exchange; the chief prints."""
    with quiet():
        import tensorflow  # noqa: F401
    from sparse_ist_tf.workers.cluster import make_strategy, read_tf_config
    from sparse_ist_tf.workers.link import Link

    cluster = read_tf_config(os.environ)
    strategy = make_strategy(cluster, 60.0)
    link = Link(strategy, cluster.worker, cluster.num_workers)
    titles = ("workers", "ist.link", "sent", "of bound", "ms/exchange", "ms/step", "steps", "share")
    rows = [titles, *(_exchange_row(link, setting) for setting in ("fast", "thinnest"))]
    if link.chief:
        print(format_table(rows), flush=True)


def _exchange_row(link: "Link", setting: str) -> tuple[str, ...]:
    """What an exchange in a link's forms takes, and its share of a round of that link's steps."""
    from sparse_ist_tf.workers.ledger import human_bytes

    trainer, steps = _trainer(4, 20, link, setting), LINKS[setting].local_steps
    trainer.run_round(1)
    before = link.ledger.training
    for _ in range(_COUNTED):
        trainer.run_round(1)
    sent = (link.ledger.training - before) / _COUNTED
    step, exchange = step_and_exchange(trainer)
    return (
        f"{link.num_workers}",
        setting,
        human_bytes(sent),
        f"{sent / trainer.exchange.lower_bound_bytes():.3f}",
        f"{1e3 * exchange:.1f}",
        f"{1e3 * step:.2f}",
        f"{steps}",
        f"{exchange / (exchange + steps * step):.1%}",
    )


def _numbers(flag: str, words: list[str], allowed: Number, whole: bool = False) -> list:
    """The numbers of a flag, whose name is its own; RequestError where one isn't allowed."""
    try:
        numbers = [int(word) if whole else float(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or not all(number in allowed for number in numbers):
        kind = "whole numbers" if whole else "numbers"
        raise RequestError(f"--{flag}={','.join(words)}: must be {kind} {allowed}")
    return numbers


def _image_settings(part: str) -> tuple[list, dict]:
    """Arguments of compare in leak and bytes; RequestError where a flag isn't allowed."""
    sizes = _numbers("image_size", FLAGS.image_size, Number(1), whole=True)
    ratios = _numbers("ratio", FLAGS.ratio, Number(0, 1, above=part == "leak", below=True))
    of_part = {"images": Number(1)} if part == "leak" else {"quality": Number(1, 100)}
    for name, allowed in ({"patch_size": Number(1)} | of_part).items():
        if getattr(FLAGS, name) not in allowed:
            raise RequestError(f"--{name}={getattr(FLAGS, name)}: must be {allowed}")
    rest = {name: getattr(FLAGS, name) for name in ("patch_size", *of_part, "data_dir")}
    return [FLAGS.dataset or ["mnist5k", "digits"], sizes, ratios], rest


def _train_for_real(parts: Sequence[str]) -> int:
    """The parts that are whole trainings; an exit status, 0 where none is asked for."""
    status = 0
    if "cluster" in parts:
        status = cluster_flags.run(FLAGS.dataset or (), FLAGS.num_workers, FLAGS.data_dir)
    if "faults" in parts:
        from sparse_ist_tf.benchmarks.faults import catalogue

        status = catalogue.compare(catalogue.chosen(FLAGS.drill)) or status
    if "soak" in parts:
        from sparse_ist_tf.benchmarks import soak

        status = soak.soak(soak.Plan(FLAGS.minutes, FLAGS.every_minutes, FLAGS.seed)) or status
    return status


def main(argv: list[str]) -> int:
    """Measures the parts that are named, as words or by --only."""
    follow_launcher(os.environ)
    if os.environ.get("TF_CONFIG"):
        bench_exchange_worker()
        return 0
    parts = argv[1:] or FLAGS.only or _BY_DEFAULT
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise RequestError(f"--only={unknown[0]}: must be some of {', '.join(PARTS)}")
    if argv[1:] and FLAGS.only:
        raise RequestError(f"--only={','.join(FLAGS.only)}: must not stand beside {argv[1]!r}")
    if "exchange" in parts and not {"2", "3", "4"}.issuperset(FLAGS.num_workers):
        raise RequestError(f"--num_workers={','.join(FLAGS.num_workers)}: must be some of 2, 3, 4")
    preset, batch_size = ("vit_base", 32) if set(parts) == {"encode"} else ("vit_micro", 64)
    batch_size = batch_size if FLAGS.batch_size is None else FLAGS.batch_size
    if batch_size < 1:
        raise RequestError(f"--batch_size={batch_size}: must be at least 1")
    of_images = {part: _image_settings(part) for part in ("leak", "bytes") if part in parts}
    if status := _train_for_real(parts):
        return status
    if {"faults", "soak", "cluster"}.issuperset(parts):
        return 0
    with quiet():
        import tensorflow  # noqa: F401
    if "encode" in parts:
        from sparse_ist_tf.benchmarks.encoding import compare

        compare(FLAGS.preset or preset, batch_size)
    if "train" in parts:
        peak = matmul_peak()
        print(f"Peak: {peak / 1e9:.0f} GFLOP/s, float32 matrix product, {os.cpu_count()} cores")
        bench_train(peak)
    if "export" in parts:
        from sparse_ist_tf.benchmarks import export as speed

        speed.compare(FLAGS.preset or "vit_micro")
    if "quantize" in parts:
        from sparse_ist_tf.benchmarks import quantize

        quantize.compare([FLAGS.preset] if FLAGS.preset else quantize.PRESETS)
    for part, (positional, named) in of_images.items():
        from sparse_ist_tf.benchmarks import bytes as of_bytes
        from sparse_ist_tf.benchmarks import leak

        {"leak": leak, "bytes": of_bytes}[part].compare(*positional, **named)
    if "exchange" in parts:
        print(
            "Exchange on loopback, 4 subnets of the same head, Adam, and its share of a round of "
            "that link's steps",
            flush=True,
        )
        for num_workers in map(int, FLAGS.num_workers):
            status = run_local_workers([sys.executable, "-m", __spec__.name], num_workers)
            if status:
                return status
    return 0


def define_flags() -> None:
    """Defines the command's flags."""
    text = f"What to measure, some of {', '.join(PARTS)}; by default the first four."
    flags.DEFINE_list("only", [], text)
    text = "where not given, vit_micro; vit_base where only encoding is measured."
    flags.DEFINE_string("preset", None, f"Encoder, a preset; {text}")
    text = "where not given, 64; 32 where only encoding is measured."
    flags.DEFINE_integer("batch_size", None, f"Images of an encoding batch; {text}")
    text = "Workers of the exchange, each 2 to 4, or of cluster, to 16."
    flags.DEFINE_list("num_workers", "2,4", text)
    text = "Data sets of leak and bytes (mnist5k,digits) or of cluster (aid,cifar10)."
    flags.DEFINE_list("dataset", None, text)
    flags.DEFINE_string("data_dir", None, "Where TFDS looks, as dataset.data_dir of train.")
    flags.DEFINE_list("image_size", "64", "Sides in pixels that their images are scaled to.")
    flags.DEFINE_integer("patch_size", 8, "Side of their patches in pixels.")
    flags.DEFINE_list("ratio", "0.5,0.75", "Hidden shares of their patches.")
    flags.DEFINE_integer("images", 32, "Test images that leak attacks.")
    flags.DEFINE_integer("quality", 75, "JPEGs of bytes, 1 to 100.")
    flags.DEFINE_list("drill", [], "Faults that are made, by their names; all where not given.")
    flags.DEFINE_float("minutes", 30.0, "How long a soak lasts.", lower_bound=0.1)
    flags.DEFINE_float("every_minutes", 2.0, "How often a soak kills a worker.", lower_bound=0.1)
    flags.DEFINE_integer("seed", 0, "Of which workers a soak kills.", lower_bound=0)
    cluster_flags.define_flags()


if __name__ == "__main__":
    run(main, define_flags, PARTS)
