"""Views: examples as several masks show them, another one in every pass over a shard."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from sparse_ist_tf.encoder.features import Features
from sparse_ist_tf.inputs.batches import BatchStream
from sparse_ist_tf.inputs.split import Split
from sparse_ist_tf.ist.trainer import TrainingData
from sparse_ist_tf.masks.options import MaskOptions
from sparse_ist_tf.streams import Stream
from sparse_ist_tf.workers.link import Link


class ViewOrder:
    """All views that a shard's streams draw in a training, pass after pass, rows ascending.

    A view's place in this order is a function of the configuration alone. Of the last pass, which
    is hardly ever a whole one, the order has what is drawn.

    Args:
        streams: of one shard and batch size.
        steps: of the whole training.
    """

    def __init__(self, streams: Sequence[BatchStream], steps: int):
        self.rows, self.batch_size = np.sort(streams[0].shard), streams[0].batch_size
        self.last_pass, rest = divmod(steps * self.batch_size - 1, len(self.rows))
        drawn = [stream.pass_rows(self.last_pass)[: rest + 1] for stream in streams]
        self.last_rows = np.unique(np.concatenate(drawn))
        self.size = self.last_pass * len(self.rows) + len(self.last_rows)

    def views(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What stands at some places, integers [k] below size: (rows, passes), int64[k] each."""
        passes, ranks = np.divmod(places, len(self.rows))
        rows, last = self.rows[ranks], passes == self.last_pass
        rows[last] = self.last_rows[ranks[last]]
        return rows, passes

    def places(self, passes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Where views stand, integers of the arguments' shape; the inverse of views()."""
        ranks = np.searchsorted(self.rows, rows)
        last = np.searchsorted(self.last_rows, rows)
        return passes * len(self.rows) + np.where(passes == self.last_pass, last, ranks)

    def range_of(self, step: int, steps: int) -> tuple[int, int]:
        """The places (first, behind the last) of all passes that some steps draw from."""
        first, last = step * self.batch_size, (step + steps) * self.batch_size - 1
        count = len(self.rows)
        return first // count * count, min((last // count + 1) * count, self.size)


class Views:
    """The features of the views that the next round draws.

    A pass is encoded when it begins, once for all streams of a shard, and dropped when it is over.
    Views are encoded in whole batches of the order, so that a feature never depends on the number
    of workers, the rounds or where a training went on. All workers hold all of them.

    Args:
        features: what makes them.
        split: the training images.
        link: to the other workers.
        streams: of every trainer those of all its subnets, whatever worker hosts them.
        steps: of the whole training.
    """

    def __init__(
        self,
        features: Features,
        split: Split,
        link: Link,
        streams: Sequence[Sequence[BatchStream]],
        steps: int,
    ):
        self._features_of, self._split, self._link, self._streams = features, split, link, streams
        self._batch = features.options.batch_size
        alike: dict[bytes, list[BatchStream]] = {}
        for stream in itertools.chain(*streams):
            alike.setdefault(_shard_of(stream), []).append(stream)
        self._orders = {key: ViewOrder(some, steps) for key, some in alike.items()}
        self._held = [(0, 0)] * len(alike)  # of each order the places (first, behind)
        self._features = np.zeros((0, features.encoder.feature_dim), np.float32)
        self._rows = np.zeros(0, np.int64)

    def advance(self, step: int, steps: int) -> bool:
        """Makes ready what some steps draw; called by all workers, by ascending steps.

        Args:
            step: the first.
            steps: how many, at least 1.

        Returns:
            Whether what is held has changed.

        Raises:
            RunError: as Features.of_views.
        """
        orders = self._orders.values()
        wanted = [self._whole_batches(*order.range_of(step, steps)) for order in orders]
        if wanted == self._held:
            return False
        places = [
            np.arange(max(first, held), behind)
            for (first, behind), (_, held) in zip(wanted, self._held, strict=True)
        ]
        pairs = [
            order.views(np.minimum(some, order.size - 1))  # the last batch is filled up
            for order, some in zip(orders, places, strict=True)
        ]
        rows, passes = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        features = self._features[:0]
        if len(rows):
            features = self._features_of.of_views(
                self._split, rows, passes, self._link, progress=self._link.chief
            )
        counts = [len(some) for some in places]
        self._features = self._joined(wanted, self._features, features, counts)
        self._rows = self._joined(wanted, self._rows, rows, counts)
        self._held = wanted
        return True

    def _whole_batches(self, first, behind):
        return first // self._batch * self._batch, -(-behind // self._batch) * self._batch

    def _joined(self, wanted, old, new, counts):
        """Of every order what is still wanted of the old, and what is new."""
        sizes = [behind - first for first, behind in self._held]
        olds, news = (np.split(x, np.cumsum(n)[:-1]) for x, n in ((old, sizes), (new, counts)))
        parts = []
        for (first, _), (held, _), a, b in zip(wanted, self._held, olds, news, strict=True):
            parts += [a[first - held :], b]
        return np.concatenate(parts)

    def data(self, trainer: int) -> TrainingData:
        """What is held, for a trainer.

        Args:
            trainer: its place in streams.
        """
        streams, held = self._streams[trainer], self._held
        keys = [_shard_of(stream) for stream in streams]
        sizes = [behind - first for first, behind in held]
        starts = np.cumsum([0, *sizes[:-1]]) - [first for first, _ in held]
        start_of = dict(zip(self._orders, starts, strict=True))

        def locate(subnet, passes, rows):
            key = keys[subnet]
            return self._orders[key].places(passes, rows) + start_of[key]

        labels = self._split.labels[self._rows]
        return TrainingData(self._features, labels, [s.shard for s in streams], locate)


def fixed_views(
    features: Features, split: Split, link: Link, masks: Sequence[MaskOptions]
) -> np.ndarray:
    """The features of a split as some masks show its images, one after the other.

    Called by all workers.

    Args:
        features: what makes them.
        split: the images.
        link: to the other workers.
        masks: at least one, none of them random.

    Returns:
        float32[len(masks) * split.size, feature_dim].

    Raises:
        RunError: as Features.of.
    """
    views = [features.under(some).of(split, link, progress=link.chief) for some in masks]
    return views[0] if len(views) == 1 else np.concatenate(views)


def in_turns(
    size: int, views: int, seed: int
) -> Callable[[int, np.ndarray, np.ndarray], np.ndarray] | None:
    """Which of an example's fixed views a pass shows; all views lie one behind the other.

    Every example has all views in so many passes, begins with any, and shows subnets that pass over
    it as often others. A function of the arguments alone, so that neither the number of workers nor
    a restart changes anything.

    Args:
        size: examples of a view.
        views: how many of each.
        seed: at least 0.

    Returns:
        TrainingData's locate; None for one view.
    """
    if views == 1:
        return None
    first = Stream.VIEWS.rng(seed).integers(views, size=size)
    return lambda subnet, passes, rows: rows + size * ((first[rows] + passes + subnet) % views)


def _shard_of(stream):
    return np.sort(stream.shard).tobytes()
