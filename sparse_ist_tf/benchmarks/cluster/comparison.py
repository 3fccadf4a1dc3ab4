"""All cells of a comparison, one behind the other, and its tables."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sparse_ist_tf.benchmarks.cluster import grow, tables, weak
from sparse_ist_tf.benchmarks.cluster.cells import LEAST, Cell, Measured, measure
from sparse_ist_tf.benchmarks.cluster.figure import accuracy_by_bytes
from sparse_ist_tf.benchmarks.cluster.hosts.network import CONGESTION, check_machine
from sparse_ist_tf.benchmarks.cluster.hosts.shapes import UNSHAPED, LinkShape
from sparse_ist_tf.benchmarks.cluster.settings import DATASETS, LINKS, REFERENCE, SETTINGS
from sparse_ist_tf.benchmarks.cluster.store import Store
from sparse_ist_tf.benchmarks.cluster.trainings import Case, Point, curve, encode
from sparse_ist_tf.benchmarks.cluster.workplace import Workplace, signals_as_ctrl_c
from sparse_ist_tf.errors import RequestError, RunError, did_you_mean
from sparse_ist_tf.files import write_file
from sparse_ist_tf.reports.report import format_table

_WIDTH, _FEATURES = 1000, 192  # of the default head, behind the default encoder


@dataclasses.dataclass(frozen=True)
class Request:
    """What is compared.

    Args:
        datasets: some of DATASETS.
        settings: some of SETTINGS.
        links: as LinkShape.parse takes them.
        num_workers: each P that is measured, at least 2.
        overrides: keys of train's configuration that hold for all, NAME=VALUE.
        rounds: how many are measured; 0 for as many as fit.
        seconds: that the rounds of a cell take together where rounds is 0.
        congestion: TCP's way to meet a full link.
        with_accuracy: also train by one worker, for accuracy by round.
    """

    datasets: Sequence[str]
    settings: Sequence[str] = tuple(SETTINGS)
    links: Sequence[str] = LINKS
    num_workers: Sequence[int] = (2, 4)
    overrides: tuple[str, ...] = ()
    rounds: int = 0
    seconds: float = 60.0
    congestion: str = CONGESTION
    with_accuracy: bool = True

    def check(self) -> None:
        """Makes sure that it can be met, before anything is done.

        Raises:
            RequestError: naming the flag, and what is allowed.
        """
        for flag, words, known in (
            ("dataset", self.datasets, DATASETS),
            ("settings", self.settings, SETTINGS),
        ):
            for word in words:
                if word not in known:
                    near = did_you_mean(word, known)
                    raise RequestError(f"--{flag}={word}: must be some of {', '.join(known)}{near}")
        for text in self.links:
            LinkShape.parse(text)
        for override in self.overrides:
            if "=" not in override:
                raise RequestError(f"--override={override}: must be KEY=VALUE")
        if self.rounds and self.rounds < LEAST:
            raise RequestError(f"--rounds={self.rounds}: must be 0, or at least {LEAST}")
        check_machine(self.congestion)

    def cells(self, dataset: str, num_workers: int) -> list[Cell]:
        """Those of a data set and a number of workers, link by link."""
        return [
            self.cell(Case(dataset, setting, self.overrides), num_workers, text)
            for text in self.links
            for setting in self.settings
        ]

    def cell(self, case: Case, num_workers: int, link: str, weak_share: float = 0.0) -> Cell:
        """One cell.

        Args:
            case: what is trained.
            num_workers: P.
            link: as LinkShape.parse takes it.
            weak_share: of a core, that the last worker has; 0 for as much as the others.
        """
        shape = LinkShape.parse(link)
        rounds, seconds = self.rounds, self.seconds
        return Cell(case, num_workers, shape, self.congestion, rounds, seconds, weak_share)


def compare(request: Request, workdir: Path) -> int:
    """Measures what isn't measured yet, and prints tables.

    Args:
        request: what.
        workdir: where what is found stays; the same one goes on.

    Returns:
        1 if a cell or a training failed, else 0.

    Raises:
        RequestError: if the request can't be met, or this machine can't have hosts.
    """
    return _run(request, workdir, lambda bench: map(bench.compare_dataset, request.datasets))


def compare_weak(request: Request, workdir: Path) -> int:
    """Measures IST with a weak worker among four, with equal capacities and with some that fit.

    Args:
        request: what; of its settings and numbers of workers nothing is used.
        workdir: as of compare.

    Returns:
        As compare.

    Raises:
        RequestError: as compare.
    """
    return _run(request, workdir, lambda bench: map(bench.compare_weak, request.datasets))


def compare_growth(request: Request, sizes: Sequence[grow.Size], workdir: Path) -> int:
    """Measures how a round of IST grows, and prints it beside the model's prediction.

    Args:
        request: what, on one shaped link; of its data sets and numbers of workers nothing is used.
        sizes: each that is measured.
        workdir: as of compare.

    Returns:
        As compare.

    Raises:
        RequestError: as compare.
    """
    return _run(request, workdir, lambda bench: map(bench.compare_growth, [sizes]))


def _run(request: Request, workdir: Path, parts: Callable[["_Bench"], Iterable[None]]) -> int:
    """Makes all parts of a comparison, if it can be met."""
    request.check()
    with signals_as_ctrl_c():
        bench = _Bench(request, Workplace(workdir))
        for _ in parts(bench):
            pass
    return bench.status


class _Bench:
    """Cells and trainings of a request.

    Args:
        request: it.
        workplace: where.
    """

    def __init__(self, request: Request, workplace: Workplace):
        self.request, self.workplace, self.status = request, workplace, 0
        workplace.folder.mkdir(parents=True, exist_ok=True)
        self.store = Store(workplace.folder / "cells.jsonl")

    def compare_dataset(self, dataset: str) -> None:
        """Trains, measures, and prints the tables of a data set."""
        curves = self._curves(dataset) if self.request.with_accuracy else {}
        if curves:
            print(f"Accuracy on {dataset}, trained by one worker", flush=True)
            print(format_table(tables.accuracy_rows(curves)), flush=True)
        for num_workers in self.request.num_workers:
            cells = self.request.cells(dataset, num_workers)
            rows = [tables.Row(cell, found) for cell, found in self._measured(cells)]
            if rows:
                print(f"{dataset}, {num_workers} workers, TCP {self.request.congestion}")
                print(format_table(tables.rows_of(rows, curves)), flush=True)
                self._draw(f"{dataset}, {num_workers} workers", rows, curves)
        print("\n".join(tables.LEGEND), flush=True)

    def _draw(self, title, rows, curves):
        if svg := accuracy_by_bytes(title, rows, curves):
            name = title.replace(", ", "_").replace(" ", "_")
            write_file(self.workplace.folder / f"accuracy_{name}.svg", svg)

    def compare_weak(self, dataset: str) -> None:
        """Measures, and prints the table of a data set with a weak worker."""
        cores = len(os.sched_getaffinity(0))
        fitting = weak.fitting(weak.speeds(cores), _WIDTH, _FEATURES)
        kinds = {
            "equal, none is weak": ((), 0.0),
            "equal": ((), weak.SHARE),
            "fitting": ((f"ist.capacities={fitting}".replace(" ", ""),), weak.SHARE),
        }
        named = {}
        for link in self.request.links:
            for what, (keys, share) in kinds.items():
                case = Case(dataset, "fast", (*self.request.overrides, *keys))
                named[self.request.cell(case, weak.NUM_WORKERS, link, share)] = what
        rows = [(named[cell], tables.Row(cell, found)) for cell, found in self._measured(named)]
        if rows:
            print(f"{dataset}, {weak.NUM_WORKERS} workers, the last held to {weak.SHARE} of a core")
            print(f"fitting: {', '.join(map(str, fitting))}, for {cores} cores")
            print(format_table(tables.weak_rows(rows)), flush=True)

    def compare_growth(self, sizes: Sequence[grow.Size]) -> None:
        """Measures, and prints what was measured and what is predicted."""
        (link,) = self.request.links
        pairs = []
        for size in sizes:
            for setting in self.request.settings:
                case = Case(grow.DATASET, setting, size.keys)
                cells = (self.request.cell(case, size.num_workers, on) for on in (UNSHAPED, link))
                pairs.append(grow.Pair(size, setting, *cells))
        found = dict(self._measured([cell for pair in pairs for cell in (pair.alone, pair.shaped)]))
        shape = LinkShape.parse(link)
        print(f"{shape}, TCP {self.request.congestion}, {len(os.sched_getaffinity(0))} cores")
        print(format_table(grow.rows_of(pairs, found)))
        print("\n".join(grow.LEGEND))
        print("\n".join(grow.PREDICTION))
        print(format_table(grow.predicted_rows(self.request.settings, shape)), flush=True)

    def _curves(self, dataset: str) -> Mapping[str, Sequence[Point]]:
        """Accuracy by round of all settings that could be trained; none without the reference."""
        curves = {}
        for setting in dict.fromkeys((*self.request.settings, REFERENCE)):
            case = Case(dataset, setting, self.request.overrides)
            try:
                curves[setting] = curve(self.workplace, case)
            except RunError as error:
                self._fail(f"{dataset}, {setting}: {error}")
        return curves if REFERENCE in curves else {}

    def _measured(self, cells: Sequence[Cell] | Mapping[Cell, str]) -> Iterator:
        """Each cell with what was measured; without those that fail."""
        for number, cell in enumerate(cells, 1):
            where = f"[{number}/{len(cells)}] {cell}"
            found = self.store.find(cell)
            if found is None:
                try:
                    found = self._measure(cell)
                except RunError as error:
                    self._fail(f"{where}: {error}")
                    continue
            print(f"{where}: {found.seconds:.2f} s a round, over {found.rounds}", flush=True)
            yield cell, found

    def _measure(self, cell: Cell) -> Measured:
        encode(self.workplace, Case(cell.case.dataset, "fast", self.request.overrides))
        found = measure(cell, self.workplace)
        self.store.add(cell, found)
        return found

    def _fail(self, text: str) -> None:
        print(f"failed: {text}", flush=True)
        self.status = 1
