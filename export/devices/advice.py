"""For microcontrollers: how memory falls with the mask ratio, and what would fit a budget."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

import numpy as np

from sparse_ist_tf.encoder.presets import PRESETS, create_encoder
from sparse_ist_tf.export.files import micro
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.folding import fold
from sparse_ist_tf.export.graphs.forms import Network
from sparse_ist_tf.ist.partition import subnet_sizes
from sparse_ist_tf.masks import num_visible, select_patches, shared_positions

_SAMPLES = 2  # ranges don't matter to memory
_SMALLEST = "vit_pico"


def arena_by_ratio(exporter, job, ratios: Iterable[float]) -> dict[float, int]:
    """The arena of a classifier at other mask ratios, each measured in TFLite Micro.

    Args:
        exporter: an Exporter of a microcontroller's target.
        job: a classifier of it.
        ratios: in [0, 1); those that would leave no patch are left out.

    Returns:
        Ratio to bytes.

    Raises:
        RunError: if TFLite Micro can't run a file.
    """
    out = {}
    vit = exporter.folded
    for ratio in sorted({*ratios, float(exporter.run.config.masks.ratio)}):
        if vit.num_patches * (1 - ratio) < 1:
            continue
        network = exporter.network(job)
        out[ratio] = measure(exporter, network, vit, ratio)[1]
    return out


def measure(exporter, network: Network, vit, ratio: float) -> tuple[int, int]:
    """Flash and arena of a network with another encoder or mask ratio.

    Args:
        exporter: an Exporter.
        network: a classifier.
        vit: a FoldedViT of the same image size.
        ratio: of hidden patches.

    Returns:
        (bytes of the file, bytes of arena).
    """
    positions = shared_positions(exporter.run.config.seed, vit.num_patches, ratio)
    network = dataclasses.replace(network, vit=vit, positions=tuple(map(int, positions)))

    def samples():
        for _, sample in zip(range(_SAMPLES), exporter.calibration(), strict=False):
            image = sample["image"]
            patches = select_patches(image, positions[None], vit.patch_size)
            yield {"image": image, "patches": patches, "positions": positions[None]}

    content = convert(network, "int8", exporter.target.interface, samples)
    example = {name: np.asarray(value)[0] for name, value in next(iter(samples())).items()}
    return len(content), micro.needed_arena(content, example)


def what_would_fit(exporter, result, arenas: Mapping[float, int]) -> list[str]:
    """Ways to meet a budget that a classifier misses.

    Args:
        exporter: an Exporter.
        result: of the file that doesn't fit.
        arenas: of arena_by_ratio.

    Returns:
        One line each: a higher mask ratio, more subnets, the smaller preset; empty where none of
        them fits.
    """
    run, target = exporter.run, exporter.target
    flash_limit, sram_limit = target.flash or np.inf, target.sram or np.inf
    out = []
    current = float(run.config.masks.ratio)
    if result.flash <= flash_limit:
        fitting = [ratio for ratio, arena in arenas.items() if arena <= sram_limit]
        if fitting:
            visible = num_visible(run.encoder.num_patches, fitting[0])
            out.append(
                f"mask ratio {fitting[0]:g} ({visible} visible patches, arena "
                f"{arenas[fitting[0]]:,} bytes)"
            )
    if result.arena <= sram_limit:
        saved = _subnets_that_fit(run, result.flash, flash_limit)
        if saved:
            out.append(saved)
    if run.encoder.model.spec.width > PRESETS[_SMALLEST].width:
        small = create_encoder(_SMALLEST, pool=run.encoder.model.spec.pool)
        small = fold(small, (0.5,) * 3, (0.5,) * 3)
        if small.image_size == run.encoder.image_size:
            out += _smaller_preset(exporter, small, current, flash_limit, sram_limit)
    return out


def _subnets_that_fit(run, flash: int, limit: float) -> str:
    """How many subnets bring a classifier's flash below a limit, by counting weights."""
    now = max(1, run.num_subnets)
    before = _head_bytes(run, now)
    for count in range(now + 1, min(run.spec.hidden) + 1):
        need = flash - before + _head_bytes(run, count)
        if need <= limit:
            return f"{count} subnets (flash about {need:,} bytes)"
    return ""


def _head_bytes(run, subnets: int) -> int:
    """Bytes of a subnet's int8 kernels and int32 biases, with their scales."""
    hidden = [subnet_sizes(width, subnets)[0] for width in run.spec.hidden]
    sizes = (run.spec.feature_dim, *hidden, run.spec.num_classes)
    return sum(a * b + 12 * b for a, b in itertools.pairwise(sizes))


def _smaller_preset(exporter, small, ratio, flash_limit, sram_limit) -> list[str]:
    jobs = [job for job in exporter.jobs if job.kind in ("classifier", "classifier_patches")]
    network = exporter.network(jobs[0])
    first, *rest = network.layers
    thinner = dataclasses.replace(first, kernel=first.kernel[: small.feature_dim])
    network = dataclasses.replace(network, layers=(thinner, *rest))
    flash, arena = measure(exporter, network, small, ratio)
    if flash > flash_limit or arena > sram_limit:
        return []
    return [f"encoder {_SMALLEST} (flash {flash:,}, arena {arena:,} bytes)"]
