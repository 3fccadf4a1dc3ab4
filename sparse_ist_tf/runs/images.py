"""A data set's images as an exported file takes them: masked and sent as in a run."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from sparse_ist_tf.codec.few_bits import Channels
from sparse_ist_tf.encoder.frozen import FrozenEncoder
from sparse_ist_tf.inputs.datasets import Split, image_errors
from sparse_ist_tf.masks import select_patches
from sparse_ist_tf.reports.data_record import DataRecord
from sparse_ist_tf.runs.parts import features_of, load_splits, mask_options, transport
from sparse_ist_tf.streams import Stream
from sparse_ist_tf.workers.link import Link

_IN_MEMORY = 1 << 30  # bytes of images that are kept rather than read again for every file


class Images:
    """A data set's images as an artefact takes them: masked and sent as in a run.

    Args:
        config: of a run.
        encoder: from load_encoder.
        known: what the data set has to be, as load_splits has it.
        channels: what a run's transport knows of features, where these cross in few bits.

    Raises:
        RequestError: as load_splits.
    """

    def __init__(
        self,
        config: ConfigDict,
        encoder: FrozenEncoder,
        known: DataRecord | None = None,
        channels: Channels | None = None,
    ):
        self.config, self.encoder = config, encoder
        self.masks, self.transport = mask_options(config), transport(config, channels)
        self.scaling = self.masks.scaling(encoder.image_size, encoder.patch_size)
        self.splits: dict[str, Split] = load_splits(config, known)
        self._kept: dict[str, list[dict]] = {}

    def examples(self, part: str) -> Iterator[dict[str, np.ndarray]]:
        """The images of a split in order.

        Args:
            part: "train" or "test".

        Yields:
            {"image": uint8[side, side, 3], "picture": uint8, as Scaling.sent makes it, "patches":
            uint8[v, pixels], "positions": int32[v], "label": int}.

        Raises:
            RunError: if an image can't be read.
        """
        if part in self._kept:
            yield from self._kept[part]
            return
        split, side = self.splits[part], self.encoder.image_size
        keep = [] if split.size * side * side * 9 < _IN_MEMORY else None
        for example in self._sent(split.dataset(self.scaling.sent)):
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

        Raises:
            RunError: if an image can't be read.
        """
        split = self.splits["train"]
        rows = stratified(split.labels, count, seed)
        return list(self._sent(split.pick(self.scaling.sent, rows)))

    def _sent(self, rows: tf.data.Dataset) -> Iterator[dict]:
        encoder = self.encoder
        received = self.transport.received(
            rows, lambda indices: self.masks.positions(indices, encoder.num_patches), self.scaling
        )
        with image_errors():
            for row in received.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
                pair = row["image"][None], row["positions"][None]
                example = {name: row[name] for name in ("image", "picture", "positions")}
                [patches] = select_patches(*pair, encoder.patch_size)
                yield example | {"patches": patches, "label": int(row["label"])}

    def features(self, part: str) -> np.ndarray:
        """Features of a split by the Keras encoder, from the cache or into it."""
        return features_of(self.config, self.encoder, self.transport.channels).of(
            self.splits[part], Link.alone()
        )


def stratified(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Rows of which each class has as nearly the same number as can be.

    Args:
        labels: int[n].
        count: how many rows; all where there are no more.
        seed: of the draw.

    Returns:
        int64[min(count, n)], ascending.
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
