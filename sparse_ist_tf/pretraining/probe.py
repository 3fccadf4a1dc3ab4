"""How much a linear classifier makes of an encoder's features: its linear accuracy."""

import functools

import numpy as np

from sparse_ist_tf.encoder import fast
from sparse_ist_tf.encoder.bundle import Preprocessing, ViTEncoder
from sparse_ist_tf.encoder.features import make_encode
from sparse_ist_tf.encoder.vit import ViT
from sparse_ist_tf.masks import fixed_positions
from sparse_ist_tf.pretraining.data import Images
from sparse_ist_tf.pretraining.resolution import Resolution, resampled

_BATCH = 256


class LinearProbe:
    """A linear classifier on the features of an encoder that stays as it is.

    Logistic regression on standardised features, run to convergence, so that the result depends on
    nothing but the features.

    Args:
        model: the encoder; its weights may change between two measurements.
        mean: of red, green and blue, of pixels in [0, 1].
        std: of red, green and blue.
        most_images: how many training images it learns from, evenly spaced; as many test images
            are measured.
        seed: of the masks.
    """

    def __init__(
        self,
        model: ViT,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        most_images: int = 10000,
        seed: int = 0,
    ):
        self.most_images, self.seed, self.num_patches = most_images, seed, model.num_patches
        seen = Preprocessing(mean, std)
        self._encode = make_encode(
            ViTEncoder(model, seen, digest="", name="probed"),
            functools.partial(fast.features, model),  # its weights change
        )

    def accuracy(
        self, images: Images, mask_ratio: float = 0.0, resolution: Resolution | None = None
    ) -> float:
        """The accuracy, in [0, 1], on test images of a classifier that is trained on the others.

        Args:
            images: stored at the side of the encoder's.
            mask_ratio: share of the patches, in [0, 1), that fixed masks hide.
            resolution: at which they are seen, of the encoder's size; by default as stored.
        """
        from sklearn.linear_model import LogisticRegression

        features, labels = self._features(images.train, images.train_labels, mask_ratio, resolution)
        mean, std = features.mean(axis=0), features.std(axis=0) + 1e-6
        classifier = LogisticRegression(max_iter=1000, tol=1e-3)
        classifier.fit((features - mean) / std, labels)
        features, labels = self._features(images.test, images.test_labels, mask_ratio, resolution)
        return float(classifier.score((features - mean) / std, labels))

    def _features(self, images, labels, mask_ratio, resolution):
        count = min(self.most_images, len(labels))
        chosen = np.linspace(0, len(labels) - 1, count).astype(np.int64)
        out = []
        for start in range(0, count, _BATCH):
            rows = chosen[start : start + _BATCH]
            visible = fixed_positions(self.seed, rows, self.num_patches, mask_ratio)
            pixels = images[rows]
            if resolution is not None:
                pixels = resampled(pixels.astype(np.float32), resolution.matrix)
                pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
            out.append(self._encode(pixels, visible).numpy())
        return np.concatenate(out), labels[chosen]
