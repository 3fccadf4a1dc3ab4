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
from sparse_ist_tf.export.networks import Networks
from sparse_ist_tf.export.results import Micro
from sparse_ist_tf.ist.partition import subnet_sizes
from sparse_ist_tf.masks import num_visible, select_patches, shared_positions
from sparse_ist_tf.runs.finished_run import FinishedRun

_SAMPLES = 2  # ranges don't matter to memory
_SMALLEST = "vit_pico"


def arena_by_ratio(
    networks: Networks, network: Network, ratios: Iterable[float]
) -> dict[float, int]:
    """Ratio to bytes of arena of a run's classifier, each measured in TFLite Micro.

    Args:
        networks: of a run, for a microcontroller.
        network: a classifier of it.
        ratios: in [0, 1); those that would leave no patch are left out.

    Raises:
        RunError: if TFLite Micro can't run a file.
    """
    return {
        ratio: _measure(networks, network, ratio)[1]
        for ratio in sorted({*ratios, float(networks.run.config.masks.ratio)})
        if networks.vit.spec.num_patches * (1 - ratio) >= 1
    }


def _measure(networks: Networks, network: Network, ratio: float) -> tuple[int, int]:
    """Bytes of flash and of arena of a classifier at another mask ratio."""
    vit = network.vit
    positions = shared_positions(networks.run.config.seed, vit.spec.num_patches, ratio)
    network = dataclasses.replace(network, positions=tuple(map(int, positions)))

    def samples():
        for sample in itertools.islice(networks.samples(network.kind), _SAMPLES):
            image = sample["image"]
            taken = {"image": image, "positions": positions[None]}
            if network.kind == "classifier_patches":
                taken["patches"] = select_patches(image, positions[None], vit.spec.patch_size)
            yield taken

    content = convert(network, "int8", networks.target.interface, samples, networks.memory)
    example = {name: np.asarray(value)[0] for name, value in next(iter(samples())).items()}
    return len(content), micro.needed_arena(content, example)


def what_would_fit(
    networks: Networks, network: Network, found: Micro, arenas: Mapping[float, int]
) -> list[str]:
    """Ways to meet a budget that a run's classifier misses, by what was found of its file.

    One line each: a higher mask ratio, of those in arenas by arena_by_ratio; more subnets, whose
    narrower layers need no more arena; both where neither is enough; the smaller preset. Empty
    where none of them fits.
    """
    run, target = networks.run, networks.target
    flash_limit, sram_limit = target.flash or np.inf, target.sram or np.inf
    out, in_flash, in_sram = [], found.flash <= flash_limit, found.arena <= sram_limit
    fitting = [(ratio, arena) for ratio, arena in arenas.items() if arena <= sram_limit]
    subnets = _subnets_that_fit(run, found.flash, flash_limit)
    if in_flash and not in_sram and fitting:
        ratio, arena = fitting[0]
        out.append(f"{_at(run, ratio)}, arena {arena:,} bytes)")
    if in_sram and not in_flash and subnets:
        count, flash = subnets
        out.append(f"{count} subnets (flash about {flash:,}, arena at most {found.arena:,} bytes)")
    if not in_flash and not in_sram and fitting and subnets:
        (ratio, arena), (count, flash) = fitting[0], subnets
        out.append(
            f"{count} subnets at {_at(run, ratio)}, flash about {flash:,}, arena at most "
            f"{arena:,} bytes)"
        )
    if network.vit.spec.width > PRESETS[_SMALLEST].width:
        small = create_encoder(_SMALLEST, pool=network.vit.spec.pool)
        small = fold(small, (0.5,) * 3, (0.5,) * 3)
        small = small.for_cells(network.vit.cell) if network.vit.cell else small
        if small.image_shape == network.vit.image_shape:
            first, *rest = network.layers
            first = dataclasses.replace(first, kernel=first.kernel[: small.spec.feature_dim])
            network = dataclasses.replace(network, vit=small, layers=(first, *rest))
            flash, arena = _measure(networks, network, float(run.config.masks.ratio))
            if flash <= flash_limit and arena <= sram_limit:
                out.append(f"encoder {_SMALLEST} (flash {flash:,}, arena {arena:,} bytes)")
    return out


def _at(run: FinishedRun, ratio: float) -> str:
    return f"mask ratio {ratio:g} ({num_visible(run.encoder.num_patches, ratio)} visible patches"


def _subnets_that_fit(run: FinishedRun, flash: int, limit: float) -> tuple[int, int] | None:
    """How many subnets bring a classifier's flash below a limit, and to what, by its weights."""
    now = max(1, run.num_subnets)
    before = _head_bytes(run, now)
    for count in range(now + 1, min(run.spec.hidden) + 1):
        need = flash - before + _head_bytes(run, count)
        if need <= limit:
            return count, need
    return None


def _head_bytes(run: FinishedRun, subnets: int) -> int:
    """Bytes of a subnet's int8 kernels and int32 biases, with their scales."""
    hidden = [subnet_sizes(width, subnets)[0] for width in run.spec.hidden]
    sizes = (run.spec.feature_dim, *hidden, run.spec.num_classes)
    return sum(a * b + 12 * b for a, b in itertools.pairwise(sizes))
