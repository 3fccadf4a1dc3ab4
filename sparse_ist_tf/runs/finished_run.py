"""A finished run as export needs it: encoder, head, subnets, masks, and its real images."""

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from sparse_ist_tf.checkpoints.loading import load_configured
from sparse_ist_tf.config import completed, ist_options
from sparse_ist_tf.encoder.features import make_encode, shared_features
from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.inputs.datasets import Split, image_errors
from sparse_ist_tf.ist.head import extract, logits
from sparse_ist_tf.ist.partition import Partition, make_partition
from sparse_ist_tf.masks import num_visible, select_patches
from sparse_ist_tf.reports.run_directory import RunDirectory
from sparse_ist_tf.runs.parts import (
    head_spec,
    load_splits,
    mask_options,
    parameters_of,
    thin_link,
    with_tuned_encoder,
)
from sparse_ist_tf.streams import Stream

_IN_MEMORY = 1 << 30  # bytes of images that are kept rather than read again for every file


class Images:
    """A data set's images as an artefact takes them: masked and sent as in a run.

    Args:
        config: of a run.
        encoder: from load_encoder.
    """

    def __init__(self, config: ConfigDict, encoder):
        self.config, self.encoder = config, encoder
        self.masks, self.thin_link = mask_options(config), thin_link(config)
        self.splits: dict[str, Split] = load_splits(config)
        self._kept: dict[str, list[dict]] = {}

    def examples(self, part: str) -> Iterator[dict[str, np.ndarray]]:
        """The images of a split in order.

        Args:
            part: "train" or "test".

        Yields:
            {"image": uint8[side, side, 3], "patches": uint8[v, pixels], "positions": int32[v],
            "label": int}.

        Raises:
            RunError: if an image can't be read.
        """
        if part in self._kept:
            yield from self._kept[part]
            return
        split, side = self.splits[part], self.encoder.image_size
        keep = [] if split.size * side * side * 6 < _IN_MEMORY else None
        for example in self._sent(split.dataset(side)):
            if keep is not None:
                keep.append(example)
            yield example
        if keep is not None:
            self._kept[part] = keep

    def drawn(self, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
        """Training images for calibration: as many of each class as can be.

        Args:
            count: how many; fewer where the split has fewer.
            seed: of the draw.

        Returns:
            Examples as examples() yields them.

        Raises:
            RunError: if an image can't be read.
        """
        split = self.splits["train"]
        rows = stratified(split.labels, count, seed)
        return list(self._sent(split.pick(self.encoder.image_size, rows)))

    def _sent(self, rows):
        encoder = self.encoder
        batches = self.thin_link.sent_images(
            rows,
            lambda indices: self.masks.positions(indices, encoder.num_patches),
            encoder.patch_size,
            batch_size=64,
        )
        with image_errors():
            for batch in batches.as_numpy_iterator():
                images, places = batch["image"], batch["positions"]
                patches = select_patches(images, places, encoder.patch_size)
                for image, patch, place, label in zip(
                    images, patches, places, batch["label"], strict=True
                ):
                    yield {
                        "image": image,
                        "patches": patch,
                        "positions": place,
                        "label": int(label),
                    }

    def features(self, part: str) -> np.ndarray:
        """Features of a split by the Keras encoder, from the cache or into it."""
        from sparse_ist_tf.workers.ledger import Ledger
        from sparse_ist_tf.workers.link import Link

        link = Link(tf.distribute.get_strategy(), 0, 1)
        return shared_features(
            self.encoder,
            self.splits[part],
            self.masks,
            link,
            Ledger(),
            cache_dir=self.config.features.cache_dir,
            batch_size=self.config.encoder.batch_size,
            thin_link=self.thin_link,
        )


class FinishedRun:
    """What train left behind.

    Args:
        path: the run directory.

    Raises:
        RequestError: if there is no finished run.
    """

    def __init__(self, path: str | Path):
        directory = RunDirectory(path)
        self.path = Path(path)
        config, results = completed(directory.config()), directory.results()
        found = directory.checkpoint()
        if results is None or found is None:
            raise RequestError(f"{path}: the run is not finished; train with its command goes on")
        state, progress = found
        self.parameters = parameters_of(state)
        self.config = config = with_tuned_encoder(config, path)
        if config.encoder.weights.startswith("resnet50:"):
            raise RequestError(f"{path}: its encoder is a ResNet-50, only those with a ViT export")
        self.images = Images(config, load_configured({**config.encoder, "dtype": "float32"}))
        self.encoder = self.images.encoder
        test = self.images.splits["test"]
        self.labels = test.class_names
        spec = head_spec(config, self.encoder.feature_dim, test.num_classes)
        for part in spec.parameters():
            value = self.parameters.get(part.name)
            if value is None or value.shape != part.shape:
                raise RequestError(
                    f"{path}: its checkpoint does not fit its config ({part.name}); the run "
                    "directory is damaged"
                )
        self.spec = spec
        self.partition: Partition | None = None
        if config.ist.algorithm == "ist" and config.ist.num_subnets > 1:
            self.partition = make_partition(
                config.seed,
                progress["round"] - 1,
                spec.hidden,
                config.ist.num_subnets,
                tuple(config.ist.capacities),
            )

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
        data = Path(self.config.dataset.name.removeprefix("folder:")).name or "folder"
        encoder = Path(self.config.encoder.weights.rpartition(":")[2]).stem
        return f"{data}_{encoder}_m{round(100 * self.config.masks.ratio)}"

    @property
    def digest(self) -> str:
        """sha256 of the config, the encoder and the head, in hex."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        digest.update(self.encoder.digest.encode())
        for name in sorted(self.parameters):
            digest.update(name.encode() + np.ascontiguousarray(self.parameters[name]).tobytes())
        return digest.hexdigest()

    def shared_positions(self) -> tuple[int, ...]:
        """The visible places that all images share.

        Raises:
            RequestError: if the run's masks aren't shared.
        """
        kind = self.config.masks.kind
        if kind != "shared":
            raise RequestError(
                f"artefacts=classifier: it holds one mask for all images, the run has {kind} "
                "masks; classifier_patches takes those, or train with --config.masks.kind=shared"
            )
        places = self.images.masks.positions([0], self.encoder.num_patches)[0]
        return tuple(int(place) for place in places)

    def head(self, subnet: int | None = None) -> dict[str, np.ndarray]:
        """The merged head, or a subnet with its scaling folded in.

        Args:
            subnet: which; None for the merged head.

        Returns:
            Parameters by name.
        """
        if subnet is None:
            return dict(self.parameters)
        scale = ist_options(self.config).scale_inputs
        return extract(self.parameters, self.spec, self.partition, subnet, scale)

    def test_logits(self, parameters) -> np.ndarray:
        """What the Keras encoder and a head make of the test images."""
        return logits(parameters, self.test_features)

    @functools.cached_property
    def test_features(self) -> np.ndarray:
        """Features of the test images by the Keras encoder."""
        return self.images.features("test")

    @functools.cached_property
    def _encode(self):
        return make_encode(self.encoder)

    def calibration(self, count: int) -> list[dict[str, np.ndarray]]:
        """Training images, with their features, for ranges of integers.

        Args:
            count: how many.

        Returns:
            As Images.examples yields them, with a "feature" float32[feature_dim].
        """
        examples = self.images.drawn(count)
        for start in range(0, len(examples), 32):
            part = examples[start : start + 32]
            images = np.stack([example["image"] for example in part])
            places = np.stack([example["positions"] for example in part])
            features = self._encode(images, places).numpy()
            features = self.images.thin_link.sent_features(features)
            for example, feature in zip(part, features, strict=True):
                example["feature"] = feature
        return examples


def stratified(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Rows of which each class has as nearly the same number as can be.

    Args:
        labels: int[n].
        count: how many rows; all where there are no more.
        seed: of the draw.

    Returns:
        int64[min(count, n)], ascending.

    Example:
        >>> from sparse_ist_tf.runs.finished_run import stratified
        >>> rows = stratified([0, 0, 0, 0, 1, 2], 3)
        >>> [[0, 0, 0, 0, 1, 2][row] for row in rows]
        [0, 1, 2]
    """
    labels = np.asarray(labels)
    order = Stream.CALIBRATION.rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # how many of its class come before a row
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        turn[rows] = np.arange(len(rows))
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels))
    chosen = np.lexsort((place, turn))[:count]
    return np.sort(chosen)
