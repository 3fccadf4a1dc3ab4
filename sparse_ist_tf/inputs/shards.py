"""Which images each worker sees."""

import numpy as np

from sparse_ist_tf.errors import RequestError
from sparse_ist_tf.streams import Stream

KINDS = ("all", "iid", "dirichlet")


def shard_indices(
    labels: np.ndarray,
    num_shards: int,
    *,
    kind: str = "all",
    alpha: float = 0.3,
    seed: int = 0,
) -> list[np.ndarray]:
    """Deals the images of a split to workers or subnets.

    Kinds:
        all: everyone sees every image, as in the paper.
        iid: disjoint shards of the same size, give or take one image, drawn at random.
        dirichlet: disjoint shards that differ in their labels: each class is divided by a draw
            from a symmetric Dirichlet distribution, the less even the smaller alpha.

    Source: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification" (Hsu et al., 2019), section 3, in the per-class form of Li et al. (2022).

    Args:
        labels: int[n], the images' classes.
        num_shards: at least 1.
        kind: "all", "iid" or "dirichlet".
        alpha: of the Dirichlet distribution, above 0.
        seed: of the draw.

    Returns:
        num_shards arrays of image numbers, int64, each ascending and not empty; together, without
        repetition for iid and dirichlet, all n.

    Raises:
        RequestError: if an argument isn't allowed, or if a shard would be empty.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.inputs.datasets import shard_indices
        >>> [len(shard) for shard in shard_indices(np.zeros(10), 3, kind="iid")]
        [4, 3, 3]
    """
    labels = np.asarray(labels)
    count = len(labels)
    if kind not in KINDS:
        raise RequestError(f"shards kind={kind!r}: must be one of {', '.join(KINDS)}")
    if num_shards < 1:
        raise RequestError(f"num_shards={num_shards}: must be at least 1")
    if not count or (kind != "all" and num_shards > count):
        raise RequestError(f"num_shards={num_shards}: must be at most the {count} images")
    if kind == "all":
        return [np.arange(count, dtype=np.int64) for _ in range(num_shards)]
    stream = Stream.SHARDS_IID if kind == "iid" else Stream.SHARDS_DIRICHLET
    rng = stream.rng(seed % 2**64)
    if kind == "iid":
        owners = np.arange(count) % num_shards
        owners = owners[rng.permutation(count)]
    else:
        if not 0 < alpha < np.inf:
            raise RequestError(f"shards alpha={alpha}: must be a number above 0")
        owners = _dirichlet_owners(labels, num_shards, alpha, rng)
    shards = [np.flatnonzero(owners == shard).astype(np.int64) for shard in range(num_shards)]
    if empty := [i for i, shard in enumerate(shards) if not len(shard)]:
        raise RequestError(
            f"shards alpha={alpha}: leaves {len(empty)} of {num_shards} shards without an image; "
            "raise alpha, change the seed or take fewer shards"
        )
    return shards


def _dirichlet_owners(labels, num_shards, alpha, rng) -> np.ndarray:
    owners = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        share = rng.dirichlet(np.full(num_shards, alpha))
        ends = np.round(np.cumsum(share) * len(rows)).astype(np.int64)
        ends[-1] = len(rows)
        owners[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    return owners
