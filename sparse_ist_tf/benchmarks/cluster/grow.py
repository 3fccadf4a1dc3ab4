"""How a round of IST grows: measured on hosts, beside what the model says, and the model beyond."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from sparse_ist_tf.benchmarks.cluster.cells import Cell, Measured
from sparse_ist_tf.benchmarks.cluster.hosts.shapes import LinkShape
from sparse_ist_tf.benchmarks.cluster.model import PIECE_BYTES, Cost, HeadShape, Round
from sparse_ist_tf.registry import LINKS
from sparse_ist_tf.workers.ledger import human_bytes

DATASET = "digits"  # comes with a package, so that this runs anywhere
SETTINGS = ("fast", "thin", "thinnest")
WORKERS, SUBNETS, WIDTHS = (2, 4, 8), (4, 8, 16), (500, 1000, 2000)
BASE = (4, 8, 1000)  # P, N and width where another one is varied
PREDICTED = (16, 64, 256, 1024)  # P and N
WIDTH_PER_SUBNET = 125  # of the prediction: what the widest subnet is at BASE
SECONDS = 15.0  # of a cell's rounds
_FEATURES, _CLASSES = 192, 10
# Short rounds, so that little is computed in them; small batches likewise.
STEPS = 2
_KEYS = (f"ist.local_steps={STEPS}", "batch_size=8", "total_epochs=4000")
TITLES = (
    *("P", "N", "width", "setting", "rounds", "bytes", "model", "ratio"),
    *("s/round", "compute", "exchange", "model", "ratio"),
)
_PREDICTED_TITLES = ("P", "N", "width", "setting", "bytes", "exchange", "delays", "pieces")


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a training is.

    Args:
        num_workers: P.
        num_subnets: N.
        width: neurons of each of two hidden layers.
    """

    num_workers: int
    num_subnets: int
    width: int

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the configuration."""
        hidden = f"head.hidden=({self.width},{self.width})"
        return (*_KEYS, f"ist.num_subnets={self.num_subnets}", hidden)

    def cost(self, setting: str) -> Cost:
        """What the model says.

        Args:
            setting: one of SETTINGS.
        """
        head = HeadShape(_FEATURES, (self.width, self.width), _CLASSES)
        return Round(head, self.num_subnets, self.num_workers, LINKS[setting]).ist()


def sizes(
    workers: Sequence[int] = WORKERS,
    subnets: Sequence[int] = SUBNETS,
    widths: Sequence[int] = WIDTHS,
) -> list[Size]:
    """What is measured: one of P, N and width varied at a time.

    Args:
        workers: each P, which BASE's N has to suffice for.
        subnets: each N, at least BASE's P.
        widths: each width.
    """
    at = BASE
    varied = [(p, at[1], at[2]) for p in workers]
    varied += [(at[0], n, at[2]) for n in subnets]
    varied += [(at[0], at[1], width) for width in widths]
    return [Size(*each) for each in dict.fromkeys(varied)]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A size and setting, and the cells that say what it costs.

    Args:
        size: it.
        setting: one of SETTINGS.
        alone: where nothing limits a link: what is computed.
        shaped: on the link.
    """

    size: Size
    setting: str
    alone: Cell
    shaped: Cell


def rows_of(pairs: Sequence[Pair], found: Mapping[Cell, Measured]) -> list[tuple[str, ...]]:
    """The table of what was measured.

    Args:
        pairs: of it.
        found: what each cell came to; those of a pair that is left out may be missing.

    Returns:
        TITLES, and a line for each pair that was measured whole.
    """
    return [TITLES, *_lines(pairs, found)]


def _lines(pairs: Sequence[Pair], found: Mapping[Cell, Measured]) -> Iterator[tuple[str, ...]]:
    for pair in pairs:
        if pair.alone not in found or pair.shaped not in found:
            continue
        alone, shaped = found[pair.alone], found[pair.shaped]
        cost, sent = pair.size.cost(pair.setting), max(shaped.ledger)
        exchange = shaped.shortest - alone.shortest
        model = cost.seconds(pair.shaped.shape, alone.shortest)
        yield (
            *_start(pair.size, pair.setting),
            *(f"{shaped.rounds}", human_bytes(sent), human_bytes(cost.busiest)),
            *(f"{sent / cost.busiest:.2f}", f"{shaped.shortest:.2f}", f"{alone.shortest:.2f}"),
            *(f"{exchange:.2f}", f"{model:.2f}", f"{exchange / model:.2f}"),
        )


def predicted_rows(settings: Sequence[str], shape: LinkShape) -> list[tuple[str, ...]]:
    """The table of what nobody has measured.

    Args:
        settings: some of SETTINGS.
        shape: of the links.
    """
    lines: list[tuple[str, ...]] = [_PREDICTED_TITLES]
    for workers in PREDICTED:
        size = Size(workers, workers, WIDTH_PER_SUBNET * workers)
        for setting in settings:
            cost = size.cost(setting)
            beside = 8 * PIECE_BYTES * cost.ends.max() / shape.rate if shape.rate else 0.0
            seconds = (cost.seconds(shape), cost.delays * shape.delay_s, float(beside))
            sides = (human_bytes(cost.busiest), *(f"{each:.2f}" for each in seconds))
            lines.append((*_start(size, setting), *sides))
    return lines


def _start(size: Size, setting: str) -> tuple[str, ...]:
    return (f"{size.num_workers}", f"{size.num_subnets}", f"{size.width:,}", setting)


LEGEND = (
    f"rounds: measured, of {STEPS} local steps. bytes: of the worker that sent most in a round,",
    "by its ledger, the mean; model: of the one that is expected to. s/round: of the two in a row",
    "that took the least; compute: the same where nothing limits a link; exchange: the rest of a",
    "round; model: bytes with all headers / rate, and the delays that follow one another, less",
    "what crosses while the next subnet is trained. ratio: measured over model.",
)
PREDICTION = (
    "PREDICTION, not measured: what the model says of two hidden layers that grow with N, by",
    f"{WIDTH_PER_SUBNET} neurons for each subnet, where a worker trains one. delays: those of the",
    "exchange's seconds that are delays; pieces: those for what pieces cost beside their bytes.",
)
