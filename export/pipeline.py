"""From a finished run to proven files: what to make, make it, prove it, and only then keep it."""

import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import sparse_ist_tf
from sparse_ist_tf.export import compress
from sparse_ist_tf.export.card import model_card
from sparse_ist_tf.export.devices import bundle, edge_tpu
from sparse_ist_tf.export.devices.targets import Target
from sparse_ist_tf.export.files import metadata, micro
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.folding import FoldedViT, fold
from sparse_ist_tf.export.graphs.forms import Network, layers_of
from sparse_ist_tf.export.plan import BOUNDS, Job, Options, plan
from sparse_ist_tf.export.verify import Result, table, verify
from sparse_ist_tf.files import write_atomically
from sparse_ist_tf.ist.head import accuracy, logits
from sparse_ist_tf.runs.finished_run import FinishedRun

RATIOS = (0.0, 0.25, 0.5, 0.75, 0.875)


class Exporter:
    """Makes and proves the files of one run for one target.

    Args:
        run: finished.
        target: a row of TARGETS.
        options: the user's.
        output: the folder that good files go to.
        report: prints a line.

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
        self.results: list[Result] = []
        self.extra: dict = {}
        self._parameters: dict[tuple[int | None, bool], dict] = {}
        self._logits: dict[int | None, np.ndarray] = {}
        self._examples = None

    def export(self) -> bool:
        """Makes everything.

        Returns:
            Whether every file is good.

        Raises:
            RunError: if a file can't be made or written.
        """
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export.", dir=self.output.parent) as folder:
            self._stage = Path(folder)
            for job in self.jobs:
                for quantize in self.options.quantize or self.target.quantize[:1]:
                    self._make(job, quantize)
            self._ensembles()
            if self.target.interpreter == "micro":
                self._advise()
            if any(r.mapping and r.mapping.decided_by == "table" for r in self.results):
                self.extra.setdefault("lines", []).append(
                    f"{edge_tpu.COMPILER} is not installed: the published table of operators "
                    "decides what the Edge TPU runs"
                )
            self._deliver()
        self.report(table(self.results))
        for line in self.extra.get("lines", []):
            self.report(line)
        failed = [result.name for result in self.results if not result.good]
        if failed:
            self.report(f"Not kept: {', '.join(failed)}")
        self.report(f"Kept in {self.output}: {len(self.results) - len(failed)} files")
        return not failed

    @functools.cached_property
    def folded(self) -> FoldedViT:
        """The encoder's weights as devices take them."""
        encoder = self.run.encoder
        return fold(encoder.model, encoder.mean, encoder.std)

    def parameters(self, subnet: int | None, behind_int8: bool = False) -> dict:
        """A head's parameters, compressed as asked for.

        Args:
            subnet: which; None for the merged head.
            behind_int8: it stands behind the int8 encoder, and qat trains it on what that gives.

        Returns:
            Parameters by name.
        """
        compression = self.options.compression
        behind_int8 = behind_int8 and compression.qat
        if (subnet, behind_int8) not in self._parameters:
            parameters = self.run.head(subnet)
            if compression.any:
                images = self.run.images
                features = self._int8_features if behind_int8 else images.features("train")
                labels = images.splits["train"].labels
                parameters = compress.compress(parameters, features, labels, compression)
            self._parameters[subnet, behind_int8] = parameters
        return self._parameters[subnet, behind_int8]

    @functools.cached_property
    def _int8_features(self) -> np.ndarray:
        """Features of the training images by the encoder in int8, as inside a classifier."""
        vit, count = self.folded, self.run.num_visible
        encoder = Network("encoder", (), vit, tuple(range(count)))
        content = convert(encoder, "int8", self.target.interface, self.calibration)
        runtime = LiteRT(content)
        return np.array([runtime.run(example) for example in self.run.images.examples("train")])

    def network(self, job: Job, quantize: str = "int8") -> Network:
        """What a job computes."""
        tuned = self.options.compression.any
        if job.kind == "head":
            return Network("head", layers_of(self.parameters(job.subnet)), tuned=tuned)
        positions, layers = tuple(range(self.run.num_visible)), ()
        if job.kind == "classifier":
            positions = self.run.shared_positions()
        if job.kind != "encoder":
            layers = layers_of(self.parameters(job.subnet, behind_int8=quantize == "int8"))
        return Network(job.kind, layers, self.folded, positions, tuned)

    def calibration(self):
        """Makes an iterator of real training examples, batch 1."""
        if self._examples is None:
            self._examples = self.run.calibration(self.options.calibration)
        for example in self._examples:
            yield {name: np.asarray(value)[None] for name, value in example.items()}

    def _test_examples(self, job: Job):
        if job.kind != "head":
            yield from self.run.images.examples("test")
            return
        for feature in self.run.test_features:
            yield {"feature": feature}

    def _make(self, job: Job, quantize: str) -> None:
        bound = self.options.bound
        if bound < 0:
            bound = BOUNDS[quantize][job.kind != "head"]
        network = self.network(job, quantize)
        content = convert(network, quantize, self.target.interface, self.calibration)
        name = f"{self.run.prefix}_{job.name}_{quantize}.tflite"
        about = self._metadata(job, quantize, name, {})
        # Against the run's own head: what compression costs counts.
        reference = logits(self.run.head(job.subnet), self.run.test_features)
        to_logits = (lambda out: out) if job.kind != "encoder" else self._head_of
        result, found = verify(
            metadata.attach(content, about),
            name,
            job.kind,
            quantize,
            self.target,
            examples=lambda: self._test_examples(job),
            reference=reference,
            labels=self.run.images.splits["test"].labels,
            to_logits=to_logits,
            bound=bound,
            micro_images=self.options.micro_images,
            progress=self.options.progress,
        )
        lost_accuracy = result.drop > bound
        allowed = "int16x8" in self.target.quantize and "int16x8" not in self.options.quantize
        if lost_accuracy and quantize == "int8" and allowed:
            self.report(
                f"{name} loses {result.drop:.2f} points, more than {bound}: int16x8 instead"
            )
            self._make(job, "int16x8")
            self.results[-1].notes.append(
                f"in place of int8, which loses {result.drop:.2f} points of accuracy"
            )
            return
        self.results.append(result)
        if not result.good:
            if lost_accuracy and quantize == "int8" and not self.options.compression.qat:
                result.notes.append("--qat may win it back")
            return
        measured = {"accuracy": result.accuracy, "float_accuracy": result.float_accuracy}
        about = self._metadata(job, quantize, name, measured)
        final = metadata.attach(content, about)
        result.size = len(final)
        (self._stage / name).write_bytes(final)
        if job.kind == "head":
            self._logits[job.subnet] = found
        if self.target.interpreter == "micro":
            self._bundle(job, name, final, result)

    def _head_of(self, features):
        return logits(self.run.head(), features)

    def _metadata(self, job: Job, quantize: str, name: str, measured: dict) -> metadata.Metadata:
        run = self.run
        mask = {"kind": run.config.masks.kind, "ratio": run.config.masks.ratio}
        mask |= {"seed": run.config.seed, "visible": run.num_visible}
        mask["pattern"] = run.config.masks.pattern
        if job.kind == "classifier":
            mask["positions"] = list(run.shared_positions())
        about = {
            "format": "sparse_ist_tf.export/1",
            "artefact": {"name": job.name, "kind": job.kind, "subnet": job.subnet},
            "target": self.target.name,
            "numbers": quantize,
            "mask": mask,
            "encoder": {
                "name": run.encoder.name,
                "digest": run.encoder.digest,
                "image_size": run.encoder.image_size,
                "patch_size": run.encoder.patch_size,
            },
            "normalisation": {"mean": list(run.encoder.mean), "std": list(run.encoder.std)},
            "config": run.config.to_dict(),
            "digest": run.digest,
            "compression": dataclasses.asdict(self.options.compression),
            "measured": measured,
        }
        labels = () if job.kind == "encoder" else run.labels
        description = (
            f"{job.name} of a head trained by Independent Subnetwork Training on "
            f"{run.config.dataset.name}; {100 * run.config.masks.ratio:g} % of the patches hidden."
        )
        version = sparse_ist_tf.__version__
        return metadata.Metadata(Path(name).stem, description, labels, about, version=version)

    def _bundle(self, job: Job, name: str, content: bytes, result: Result) -> None:
        example = next(iter(self._test_examples(job)))
        expected = micro.run(metadata.strip(content), [example]).outputs[0]
        stem = Path(name).stem
        folder = self._stage / f"{stem}_bundle"
        bundle.write_bundle(folder, content, stem, example, expected, result.arena)

    def _ensembles(self) -> None:
        """Mean probabilities of the subnets' files, in order, beside the merged head."""
        labels = self.run.images.splits["test"].labels
        subnets = sorted(n for n in self._logits if n is not None)
        if len(subnets) < 2:
            return
        total, found = 0.0, []
        for subnet in subnets:
            total = total + _softmax(self._logits[subnet])
            found.append(accuracy(total, labels))
        merged = accuracy(self.run.test_logits(self.run.head()), labels)
        self.extra["ensembles"] = {"subnets": subnets, "accuracy": found, "merged_float": merged}
        parts = ", ".join(f"{i + 1}: {100 * value:.2f} %" for i, value in enumerate(found))
        lines = self.extra.setdefault("lines", [])
        lines.append(
            f"Ensembles of subnet files, {parts}; merged head in float {100 * merged:.2f} %"
        )
        if None in self._logits:
            value = accuracy(self._logits[None], labels)
            self.extra["ensembles"]["merged_file"] = value
            lines[-1] += f", its file {100 * value:.2f} %"

    def _advise(self) -> None:
        """How the arena falls with the mask ratio, and what would fit where a file doesn't."""
        from sparse_ist_tf.export.devices.advice import arena_by_ratio, what_would_fit

        jobs = [job for job in self.jobs if job.kind in ("classifier", "classifier_patches")]
        if not jobs:
            return
        arenas = arena_by_ratio(self, jobs[0], RATIOS)
        self.extra["arena_by_mask_ratio"] = [[ratio, arena] for ratio, arena in arenas.items()]
        falls = ", ".join(f"{ratio:g}: {arena:,}" for ratio, arena in arenas.items())
        lines = self.extra.setdefault("lines", [])
        lines.append(f"Arena of {jobs[0].name} by mask ratio, bytes: {falls}")
        for result in self.results:
            missed = [line for line in result.problems if line.startswith("needs ")]
            if missed and result.kind != "head":
                fits = what_would_fit(self, result, arenas)
                result.notes.append(f"would fit: {'; '.join(fits) if fits else 'nothing found'}")

    def _deliver(self) -> None:
        """Moves what is good to where it is expected, and what no longer is away."""
        results = [*self._still_good(), *self.results]
        self.output.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._stage.iterdir()):
            path.replace(self.output / path.name)
        summary = {
            "run": str(self.run.path),
            "digest": self.run.digest,
            "target": self.target.name,
            "files": [result.as_dict() for result in results],
            **{key: value for key, value in self.extra.items() if key != "lines"},
        }
        text = json.dumps(summary, indent=2) + "\n"
        write_atomically(self.output / "verification.json", text)
        if not any(result.good for result in results):
            for name in ("labels.txt", "model_card.md"):
                (self.output / name).unlink(missing_ok=True)
            return
        write_atomically(self.output / "labels.txt", "".join(f"{n}\n" for n in self.run.labels))
        card = model_card(self.run, self.target, results, self.extra.get("lines", []))
        write_atomically(self.output / "model_card.md", card)

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
