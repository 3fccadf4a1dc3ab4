"""A finished run, read again: encoder, head, subnets, masks, and its real images."""

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from sparse_ist_tf.checkpoints.loading import load_configured
from sparse_ist_tf.checkpoints.spec import parse_weights
from sparse_ist_tf.config import completed, identity, ist_options
from sparse_ist_tf.encoder.bundle import vit_encoder
from sparse_ist_tf.encoder.features import make_encode
from sparse_ist_tf.errors import RequestError, RunError, warn
from sparse_ist_tf.inputs.datasets import Split, image_errors
from sparse_ist_tf.inputs.layouts.held import PREFIX
from sparse_ist_tf.ist.head import accuracy, extract, logits
from sparse_ist_tf.ist.partition import Partition
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.masks import Scaling, num_visible
from sparse_ist_tf.reports.data_record import DataRecord
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs.evaluation import Evaluation
from sparse_ist_tf.runs.images import Images
from sparse_ist_tf.runs.parts import (
    features_of,
    head_spec,
    last_partition,
    transport,
    with_tuned_encoder,
)
from sparse_ist_tf.runs.progress import Progress

# Share of the answers that may differ, with another number format of the encoder and the same.
_ROUNDING = (0.02, 0.002)


class FinishedRun:
    """What train left behind.

    Args:
        path: the run directory.
        dtype: that its encoder computes in, the run's own where empty.

    Raises:
        RequestError: if there is no finished run, or its data is gone or has changed.
        RunError: if a file is damaged.
    """

    def __init__(self, path: str | Path, dtype: str = ""):
        self.path, self.directory = Path(path), RunDirectory(path)
        config, results = completed(self.directory.config()), self.directory.results()
        found = self.directory.checkpoint()
        if results is None or found is None:
            raise RequestError(f"{path}: the run is not finished; train with its command goes on")
        arrays, progress = found
        self.results, self.rounds = results, progress["round"]
        self.state = HeadState.of_arrays(arrays)
        self.parameters = self.state.folded()
        self.config = with_tuned_encoder(config, path)
        computing = ConfigDict(self.config.to_dict())
        computing.encoder.dtype = self._dtype = dtype or config.encoder.dtype
        self.encoder = load_configured(computing.encoder)
        known = self.directory.data()
        channels = self.directory.channels()
        if transport(computing).needs_channels and channels is None:
            raise RunError(f"{path}/channels.json is missing")
        self.images = Images(computing, self.encoder, known, channels)
        test = self.images.splits["test"]
        if not known:
            self._check_features(Progress.of_dict(progress))
        self.data = known or DataRecord.of(config.dataset.name, self.images.splits)
        self.labels = self.data.class_names
        self.spec = head_spec(self.config, self.encoder.feature_dim, test.num_classes)
        for part in self.spec.parameters():
            value = self.parameters.get(part.name)
            if value is None or value.shape != part.shape:
                raise RequestError(
                    f"{path}: its checkpoint does not fit its config and its data ({part.name}); "
                    "its classes are others, or the run directory is damaged"
                )
        self.partition: Partition | None = last_partition(self.config, self.spec, self.rounds)
        self._evaluation = Evaluation(computing, self.spec, self.encoder, test, channels)

    def _check_features(self, progress: Progress) -> None:
        """Says so where a run that was begun before data.json was kept may have had other data."""
        if not progress.is_of(features_of(self.config, self.encoder).key, self.images.splits):
            warn(
                f"{self.path}: keeps no record of its data; whether its images are those that it "
                "was trained with isn't known"
            )

    @classmethod
    def for_export(cls, path: str | Path) -> "FinishedRun":
        """A run whose encoder devices can run, in float32.

        Raises:
            RequestError: if its encoder is no ViT, or as FinishedRun.
            RunError: as FinishedRun.
        """
        if RunDirectory(path).config()["encoder"]["weights"].startswith("resnet50:"):
            raise RequestError(f"{path}: its encoder is a ResNet-50, only those with a ViT export")
        run = cls(path, dtype="float32")
        vit_encoder(run.encoder, f"{path}: export")
        return run

    def confirm(self) -> None:
        """Makes sure that the head is worth on the test images what it was after its training.

        Raises:
            RunError: if it isn't, up to what another machine or number format may change.
        """
        labels, before = self.images.splits["test"].labels, self.results["accuracy"]["merged"]
        now = accuracy(self.test_logits(self.parameters), labels)
        same = self._dtype == self.config.encoder.dtype
        if abs(now - before) * len(labels) > max(1.5, _ROUNDING[same] * len(labels)):
            raise RunError(
                f"{self.path}: its head has {100 * now:.2f} % on {len(labels):,} test images, and "
                f"had {100 * before:.2f} % after its training; its images or its encoder's weights "
                "are others, or a file of it is damaged"
            )

    def accuracies(self) -> dict:
        """Every accuracy of the run, measured again.

        Raises:
            RunError: if an image can't be read.
        """
        at = (self.state, self.rounds, self.test_features)
        return self._evaluation.accuracies(*at) | self._evaluation.finished_accuracies(*at)

    @property
    def num_subnets(self) -> int:
        """N; 0 where the head was trained whole."""
        return self.partition.num_subnets if self.partition else 0

    @property
    def num_visible(self) -> int:
        """Visible patches of an image."""
        return num_visible(self.encoder.num_patches, self.config.masks.ratio)

    @property
    def prefix(self) -> str:
        """What the names of files begin with: data set, encoder and mask ratio in percent."""
        data = _short(self.config.dataset.name)
        encoder = Path(parse_weights(self.config.encoder.weights)[0].rpartition(":")[2]).stem
        return f"{data}_{encoder}_m{round(100 * self.config.masks.ratio)}"

    @property
    def digest(self) -> str:
        """sha256 of the config, the encoder and the head, in hex."""
        digest = hashlib.sha256(json.dumps(identity(self.config), sort_keys=True).encode())
        digest.update(self.encoder.digest.encode())
        for name in sorted(self.parameters):
            digest.update(name.encode() + np.ascontiguousarray(self.parameters[name]).tobytes())
        return digest.hexdigest()

    def shared_positions(self, artefact: str = "classifier") -> tuple[int, ...]:
        """The visible positions that all images share.

        Args:
            artefact: which asks for them, for errors.

        Raises:
            RequestError: if the run's masks aren't shared.
        """
        kind = self.config.masks.kind
        if kind != "shared":
            raise RequestError(
                f"artefacts={artefact}: it holds one mask for all images, the run has {kind} "
                "masks; classifier_patches takes those, or train with --config.masks.kind=shared"
            )
        positions = self.images.masks.positions([0], self.encoder.num_patches)[0]
        return tuple(int(position) for position in positions)

    @property
    def scaling(self) -> Scaling:
        """How an image becomes the encoder's patches."""
        return self.images.scaling

    def sensor_cell(self) -> tuple[int, int]:
        """Height and width in pixels of what a sensor has for a patch.

        Raises:
            RequestError: if no file can take the sensor's own pixels: masks aren't shared or don't
                lie on them, images differ in size, or their cells do or are as large as patches.
        """
        self.shared_positions("classifier_sensor")
        size, side = self.encoder.patch_size, self.scaling.side
        height, width = self.sensor_shape
        images = f"images of {height} x {width} pixels"
        if self.scaling.grid == "scaled":
            reason = "masks.grid=scaled cuts patches from the scaled image; classifier takes that"
        elif height % side or width % side:
            reason = f"{images} can't be cut into {side} x {side} equal cells"
        elif max(height, width) > side * size or min(height, width) == side * size:
            reason = f"{images} fill patches of {size} x {size}; classifier takes those"
        elif not self._is_of_one_size:
            reason = "the run's images are not all of one size"
        else:
            return height // side, width // side
        raise RequestError(f"artefacts=classifier_sensor: {reason}")

    @functools.cached_property
    def sensor_shape(self) -> tuple[int, int]:
        """Height and width in pixels of the first test image, before anything is scaled."""
        return next(_shapes(self.images.splits["test"]))

    @functools.cached_property
    def _is_of_one_size(self) -> bool:
        parts = (_shapes(split) for split in self.images.splits.values())
        return all(shape == self.sensor_shape for shape in itertools.chain(*parts))

    def head(self, subnet: int | None = None) -> dict[str, np.ndarray]:
        """The merged head, or a subnet with its scaling folded in.

        Args:
            subnet: which; None for the merged head.
        """
        if subnet is None:
            return dict(self.parameters)
        scale = ist_options(self.config).scale_inputs
        return extract(self.parameters, self.spec, self.partition, subnet, scale)

    def test_logits(self, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the Keras encoder and a head make of the test images."""
        return logits(parameters, self.test_features)

    @functools.cached_property
    def test_features(self) -> np.ndarray:
        """Features of the test images by the Keras encoder."""
        return self.images.features("test")

    @functools.cached_property
    def _encode(self) -> Callable:
        return make_encode(self.encoder)

    def calibration(self, count: int) -> list[dict[str, np.ndarray]]:
        """Training images, with their features, for ranges of integers.

        Returns:
            As Images.examples yields them, with a "feature" float32[feature_dim].
        """
        examples = self.images.drawn(count)
        for start in range(0, len(examples), 32):
            part = examples[start : start + 32]
            images = np.stack([example["image"] for example in part])
            positions = np.stack([example["positions"] for example in part])
            features = self._encode(images, positions).numpy()
            features = self.images.transport.sent_features(features)
            for example, feature in zip(part, features, strict=True):
                example["feature"] = feature
        return examples


def _short(dataset: str) -> str:
    """A data set's name as a part of a file's."""
    kind, _, rest = dataset.partition(":")
    if dataset.startswith(PREFIX):
        return "arrays"
    if kind == "tfds":
        return re.sub(r"[/:]", "_", rest)
    path = Path(rest or kind)
    return (path.stem if kind == "npz" else path.name) or kind


def _shapes(split: Split) -> Iterator[tuple[int, int]]:
    """Height and width of every image of a split, before anything is scaled."""
    shapes = split.dataset(lambda image, _: tf.shape(image)[:2])
    with image_errors():
        for row in shapes.as_numpy_iterator():
            height, width = row["image"]
            yield int(height), int(width)
