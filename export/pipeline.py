"""From a finished run to proven files: what to make, make it, prove it, and only then keep it."""

import dataclasses
import functools
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sparse_ist_tf.export import compress
from sparse_ist_tf.export.card import describe, model_card
from sparse_ist_tf.export.devices import advice, bundle, edge_tpu
from sparse_ist_tf.export.devices.targets import Target
from sparse_ist_tf.export.files import metadata, micro
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.networks import Networks
from sparse_ist_tf.export.plan import BOUNDS, Job, Options, plan
from sparse_ist_tf.export.progress import FileBar
from sparse_ist_tf.export.results import Result, table, wrapped
from sparse_ist_tf.export.staging import staging
from sparse_ist_tf.export.verify import File, Reference, verify
from sparse_ist_tf.export.web import page, runtime
from sparse_ist_tf.files import write_atomically
from sparse_ist_tf.ist.head import accuracy, logits
from sparse_ist_tf.runs.finished_run import FinishedRun

RATIOS = (0.0, 0.25, 0.5, 0.75, 0.875)
_MADE = 0.5  # of a file's time; the rest goes to proving it
_ENCODERS_WORK = 4.0  # of a file that holds one, where a head's is 1


@dataclasses.dataclass(frozen=True)
class _Made:
    """A file that was made and measured, good or not."""

    job: Job
    content: bytes
    bound: float
    result: Result
    logits: np.ndarray

    @property
    def loses_accuracy(self) -> bool:
        return self.result.comparison.drop > self.bound


class Exporter:
    """Makes and proves the files of one run for one target; good ones go to the folder `output`.

    Raises:
        RequestError: if something asked for can't be made.
    """

    def __init__(
        self,
        run: FinishedRun,
        target: Target,
        options: Options,
        output: Path,
        report: Callable[[str], None] = print,
    ):
        self.run, self.target, self.options = run, target, options
        self.output, self.report = Path(output), report
        self.jobs = plan(run, target, options)
        if target.interpreter == "micro":
            micro.require()
        compress.require(options.compression)
        if target.page:
            page.check(output)
        self._runtime = runtime.load(options.wasm) if target.page else {}
        self.networks = Networks(run, target, options)
        self.results: list[Result] = []
        self._findings: dict = {}  # what verification.json holds besides
        self._lines: list[str] = []  # what is printed below the table, and stands in the card
        self._after: list[str] = []  # what is printed at the end
        self._logits: dict[int | None, np.ndarray] = {}

    def export(self) -> bool:
        """Makes everything.

        Raises:
            RunError: if the run's head isn't worth what it was, or a file can't be made or written.
        """
        self.run.confirm()
        self._say_if_strict()
        with staging(self.output) as self._stage:
            for job, quantize in self._all():
                self._keep(self._make(job, quantize))
            self._bar.close()
            self._ensembles()
            if self.target.interpreter == "micro":
                self._advise()
            if any(r.mapping and r.mapping.decided_by == "table" for r in self.results):
                self._lines.append(
                    f"{edge_tpu.COMPILER} is not installed: the published table of operators "
                    "decides what the Edge TPU runs"
                )
            self._say_how_phones_scale()
            self._deliver()
        self.report(table(self.results))
        for line in self._lines:
            self.report(wrapped(line))
        failed = [result.name for result in self.results if not result.good]
        if failed:
            self.report(wrapped(f"Not kept: {', '.join(failed)}"))
        self.report(f"Kept in {self.output}: {len(self.results) - len(failed)} files")
        for line in self._after:
            self.report(line)
        return not failed

    def _all(self) -> Iterator[tuple[Job, str]]:
        """The files to make, behind a bar."""
        several = self.options.quantize or self.target.quantize[:1]
        files = {self._name(j, q): (j, q) for j, q in itertools.product(self.jobs, several)}
        weights = {n: _ENCODERS_WORK ** (job.kind != "head") for n, (job, _) in files.items()}
        self._bar = FileBar(weights, self.options.progress)
        try:
            for name, file in files.items():
                self._bar.begin(name)
                yield file
        finally:
            self._bar.close()

    def _name(self, job: Job, quantize: str) -> str:
        return f"{self.run.prefix}_{job.name}_{quantize}.tflite"

    def _bound(self, job: Job, quantize: str) -> float:
        bound = self.options.bound
        return BOUNDS[quantize][job.kind != "head"] if bound < 0 else bound

    def _say_if_strict(self) -> None:
        """That one image decides, where that is so."""
        images = len(self.run.images.splits["test"].labels)
        several = self.options.quantize or self.target.quantize[:1]
        bounds = {self._bound(*pair) for pair in itertools.product(self.jobs, several)}
        strict = sorted(bound for bound in bounds if 0 < bound < 100 / images)
        if strict:
            named = " and ".join(f"{bound:g}" for bound in strict)
            self.report(
                wrapped(
                    f"One of {images:,} test images is {100 / images:.2f} points of accuracy, more "
                    f"than files may lose ({named}): none may be lost; --bound sets another bound"
                )
            )

    def _make(self, job: Job, quantize: str) -> _Made:
        """Makes a file; where int8 loses too much accuracy, int16x8 takes its place."""
        made = self._attempt(job, quantize)
        left = {*self.target.quantize} - {*self.options.quantize}
        if quantize != "int8" or "int16x8" not in left or not made.loses_accuracy:
            return made
        lost = f"loses {made.result.comparison.drop:.2f} points"
        text = f"{made.result.name} {lost}, more than {made.bound:g}: int16x8 instead"
        self._bar.aside(self.report, wrapped(text))
        made = self._attempt(job, "int16x8")
        made.result.notes.append(f"in place of int8, which {lost} of accuracy")
        return made

    def _attempt(self, job: Job, quantize: str) -> _Made:
        bound = self._bound(job, quantize)
        network = self.networks.network(job, quantize)
        samples = functools.partial(self.networks.samples, job.kind)
        content = convert(network, quantize, self.target.interface, samples, self.networks.memory)
        self._bar.advance(_MADE)
        name = self._name(job, quantize)
        # Against the run's own head: what compression costs counts.
        reference = Reference(
            lambda: self._shown(self.networks.test_examples(job)),
            self._expected(job),
            self.run.images.splits["test"].labels,
            functools.partial(logits, self.run.head()) if job.kind == "encoder" else np.asarray,
        )
        result, found = verify(
            File(name, job.kind, quantize, self._described(name, content, job, quantize, {})),
            self.target,
            reference,
            bound=bound,
            micro_images=self.options.micro_images,
            progress=False,
        )
        return _Made(job, content, bound, result, found)

    def _expected(self, job: Job) -> np.ndarray:
        """What a job's file would give of the test images, were it exact; by a head an encoder."""
        found = self.run.test_logits(self.run.head(job.subnet))
        gives = self.target.interface.output(job.kind)
        return _softmax(found.astype(np.float64)) if gives == "probabilities" else found

    def _shown(self, examples: Iterator[Mapping]) -> Iterator[Mapping]:
        """The test images, with the bar behind them."""
        count = len(self.run.images.splits["test"].labels)
        for index, example in enumerate(examples):
            if index % 64 == 0:
                self._bar.advance(_MADE + (1 - _MADE) * index / count)
            yield example

    def _described(
        self, name: str, content: bytes, job: Job, quantize: str, measured: Mapping
    ) -> bytes:
        about = {
            "numbers": quantize,
            "compression": dataclasses.asdict(self.options.compression),
            "measured": measured,
        }
        described = describe(self.run, Path(name).stem, job, self.target, about)
        return metadata.attach(content, described)

    def _keep(self, made: _Made) -> None:
        """Remembers a file's result, and puts a good file where it is delivered from."""
        result, job = made.result, made.job
        self.results.append(result)
        if not result.good:
            qat = self.options.compression.qat
            if made.loses_accuracy and result.quantize == "int8" and not qat:
                result.notes.append("--qat may win it back")
            return
        right = result.comparison
        measured = {"accuracy": right.accuracy, "float_accuracy": right.float_accuracy}
        final = self._described(result.name, made.content, job, result.quantize, measured)
        result.size = len(final)
        (self._stage / result.name).write_bytes(final)
        if job.kind == "head":
            self._logits[job.subnet] = made.logits
        if result.micro:
            example = next(iter(self.networks.test_examples(job)))
            expected = micro.run(metadata.strip(final), [example]).outputs[0]
            stem = Path(result.name).stem
            folder = self._stage / f"{stem}_bundle"
            found = result.micro
            bundle.write_bundle(
                folder, final, stem, example, expected, found.arena, found.difference
            )

    def _ensembles(self) -> None:
        """Mean probabilities of the subnets' files, in order, beside the merged head."""
        labels = self.run.images.splits["test"].labels
        subnets = sorted(n for n in self._logits if n is not None)
        if len(subnets) < 2:
            return
        totals = itertools.accumulate(_softmax(self._logits[subnet]) for subnet in subnets)
        found = [accuracy(total, labels) for total in totals]
        merged = accuracy(self.run.test_logits(self.run.head()), labels)
        ensembles = {"subnets": subnets, "accuracy": found, "merged_float": merged}
        parts = ", ".join(f"{i + 1}: {100 * value:.2f} %" for i, value in enumerate(found))
        line = f"Ensembles of subnet files, {parts}; merged head in float {100 * merged:.2f} %"
        if None in self._logits:
            ensembles["merged_file"] = value = accuracy(self._logits[None], labels)
            line += f", its file {100 * value:.2f} %"
        self._findings["ensembles"] = ensembles
        self._lines.append(line)

    def _say_how_phones_scale(self) -> None:
        """Where MediaPipe would make other pixels of the run's images than the run did."""
        kinds = {result.kind for result in self.results if result.good}
        softmax, scaling = self.target.interface.softmax, self.run.scaling
        larger = min(self.run.sensor_shape) > scaling.image_size
        if "classifier" in kinds and softmax and larger and scaling.resize != "bilinear":
            self._lines.append(
                f"The run's images are larger than {scaling.image_size} px, and MediaPipe reduces "
                "images without smoothing them: its answers differ from classify's; train with "
                "--config.dataset.resize=bilinear for the pixels that it makes"
            )

    def _advise(self) -> None:
        """How the arena falls with the mask ratio, and what would fit where a file doesn't."""
        jobs = [job for job in self.jobs if job.kind not in ("head", "encoder")]
        if not jobs:
            return
        # A sensor's pixels need no more memory than whole patches.
        job = min(jobs, key=lambda job: job.kind == "classifier_sensor")
        network = self.networks.network(job)
        arenas = advice.arena_by_ratio(self.networks, network, RATIOS)
        self._findings["arena_by_mask_ratio"] = [list(pair) for pair in arenas.items()]
        falls = ", ".join(f"{ratio:g}: {arena:,}" for ratio, arena in arenas.items())
        self._lines.append(f"Arena of {job.name} by mask ratio, bytes: {falls}")
        for result in self.results:
            missed = [line for line in result.problems if line.startswith("needs ")]
            if missed and result.kind != "head":
                fits = advice.what_would_fit(self.networks, network, result.micro, arenas)
                result.notes.append(f"would fit: {'; '.join(fits) if fits else 'nothing found'}")

    def _deliver(self) -> None:
        """Moves what is good to where it is expected, and what no longer is away."""
        results = [*self._still_good(), *self.results]
        self.output.mkdir(parents=True, exist_ok=True)
        if self.target.page:
            self._add_page(results)
        for path in sorted(self._stage.iterdir()):
            path.replace(self.output / path.name)
        summary = {
            "run": str(self.run.path),
            "digest": self.run.digest,
            "target": self.target.name,
            "files": [result.as_dict() for result in results],
            **self._findings,
        }
        text = json.dumps(summary, indent=2) + "\n"
        write_atomically(self.output / "verification.json", text)
        labels, card = self.output / "labels.txt", self.output / "model_card.md"
        if not any(result.good for result in results):
            labels.unlink(missing_ok=True)
            card.unlink(missing_ok=True)
            return
        write_atomically(labels, "".join(f"{name}\n" for name in self.run.labels))
        write_atomically(card, model_card(self.run, self.target, results, self._lines, self.output))

    def _add_page(self, results: Sequence[Result]) -> None:
        """Puts a page for all good classifiers, those made now first, where files come from."""
        names = sorted((r.name for r in results if r.good), key=self._is_earlier)
        paths = [self._stage / name for name in names]
        paths = [path if path.exists() else self.output / path.name for path in paths]
        if paths:
            page.write(self._stage, {p.name: p.read_bytes() for p in paths}, self._runtime)
            self._after.append(f"A browser opens it: python -m http.server -d {self.output}")
        page.remove(self.output)

    def _is_earlier(self, name: str) -> bool:
        return not (self._stage / name).exists()

    def _still_good(self) -> list[Result]:
        """What an earlier export proved of the same run and this one didn't make again.

        The earlier files of another run, and those made again, are removed.
        """
        try:
            earlier = json.loads((self.output / "verification.json").read_text(encoding="utf-8"))
            files = [Result.from_dict(values) for values in earlier["files"]]
            same = earlier["digest"] == self.run.digest and earlier["target"] == self.target.name
        except (OSError, ValueError, TypeError, KeyError):
            return []
        made = {result.name for result in self.results}
        kept = []
        for result in files:
            path = self.output / Path(result.name).name
            if same and result.good and result.name not in made and path.exists():
                kept.append(result)
                continue
            path.unlink(missing_ok=True)
            shutil.rmtree(path.with_name(f"{path.stem}_bundle"), ignore_errors=True)
        return kept


def _softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)
