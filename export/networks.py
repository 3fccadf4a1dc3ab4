"""A run's artefacts as networks to convert: encoder folded, heads compressed, real examples."""

import functools
from collections.abc import Iterator, Mapping

import numpy as np

from sparse_ist_tf.encoder.bundle import vit_encoder
from sparse_ist_tf.export import compress
from sparse_ist_tf.export.devices.targets import Target
from sparse_ist_tf.export.files.runtimes import LiteRT
from sparse_ist_tf.export.graphs.convert import convert
from sparse_ist_tf.export.graphs.folding import FoldedViT, fold
from sparse_ist_tf.export.graphs.forms import Network, layers_of
from sparse_ist_tf.export.graphs.interface import OF_IMAGES, example_for
from sparse_ist_tf.export.integers.memory import Memory
from sparse_ist_tf.export.plan import Job, Options
from sparse_ist_tf.runs.finished_run import FinishedRun


class Networks:
    """What the artefacts of a run compute, each part made once."""

    def __init__(self, run: FinishedRun, target: Target, options: Options):
        self.run, self.target, self.options = run, target, options
        self.memory = Memory()
        self._parameters: dict[tuple[int | None, bool], dict[str, np.ndarray]] = {}

    @functools.cached_property
    def vit(self) -> FoldedViT:
        """The encoder's weights as devices take them."""
        encoder = vit_encoder(self.run.encoder, "export")
        return fold(encoder.model, encoder.mean, encoder.std)

    def parameters(self, subnet: int | None, behind_int8: bool = False) -> dict[str, np.ndarray]:
        """A head's parameters, compressed as asked for.

        Args:
            subnet: which; None for the merged head.
            behind_int8: it stands behind the int8 encoder, and qat trains it on what that gives.
        """
        compression = self.options.compression
        key = subnet, behind_int8 and compression.qat
        if key not in self._parameters:
            parameters = self.run.head(subnet)
            if compression.any:
                images = self.run.images
                features = self._int8_features if key[1] else images.features("train")
                labels = images.splits["train"].labels
                parameters = compress.compress(parameters, features, labels, compression)
            self._parameters[key] = parameters
        return self._parameters[key]

    @functools.cached_property
    def _int8_features(self) -> np.ndarray:
        """Features of the training images by the encoder in int8, as inside a classifier."""
        encoder = Network("encoder", (), self.vit, tuple(range(self.run.num_visible)))
        samples = functools.partial(self.samples, "encoder")
        runtime = LiteRT(convert(encoder, "int8", self.target.interface, samples, self.memory))
        return np.array([runtime.run(example) for example in self.run.images.examples("train")])

    def network(self, job: Job, quantize: str = "int8") -> Network:
        """What a job computes in a file of this arithmetic, of interface.QUANTIZATIONS."""
        tuned = self.options.compression.any
        if job.kind == "head":
            return Network("head", layers_of(self.parameters(job.subnet)), tuned=tuned)
        positions, layers, vit = tuple(range(self.run.num_visible)), (), self.vit
        if job.kind in OF_IMAGES:
            positions = self.run.shared_positions()
        if job.kind == "classifier_sensor":
            vit = vit.for_cells(self.run.sensor_cell())
        if job.kind != "encoder":
            layers = layers_of(self.parameters(job.subnet, behind_int8=quantize == "int8"))
        return Network(job.kind, layers, vit, positions, tuned)

    @functools.cached_property
    def _drawn(self) -> list[dict[str, np.ndarray]]:
        return self.run.calibration(self.options.calibration)

    def samples(self, kind: str) -> Iterator[dict[str, np.ndarray]]:
        """Real training examples as files of a kind take them, batch 1, for integers' ranges."""
        for example in self._drawn:
            taken = example_for(kind, example)
            yield {name: np.asarray(value)[None] for name, value in taken.items()}

    def test_examples(self, job: Job) -> Iterator[Mapping[str, np.ndarray]]:
        """The test images as a job's file takes them, in order."""
        if job.kind == "head":
            return ({"feature": feature} for feature in self.run.test_features)
        return (example_for(job.kind, example) for example in self.run.images.examples("test"))
