"""What a head is worth on the test images."""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from sparse_ist_tf.codec.few_bits import Channels
from sparse_ist_tf.config import ist_options
from sparse_ist_tf.encoder.frozen import FrozenEncoder
from sparse_ist_tf.inputs.split import Split
from sparse_ist_tf.ist.head import HeadSpec, accuracy, extract, logits, probabilities
from sparse_ist_tf.ist.partition import Partition
from sparse_ist_tf.ist.state import HeadState
from sparse_ist_tf.runs.missing import missing_workers
from sparse_ist_tf.runs.parts import features_of, last_partition
from sparse_ist_tf.workers.link import Link


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Measures states of one run.

    Args:
        config: valid.
        spec: the head's shape.
        encoder: of the run.
        test: the test split.
        channels: as Images has them.
    """

    config: ConfigDict
    spec: HeadSpec
    encoder: FrozenEncoder
    test: Split
    channels: Channels | None = None

    def accuracies(self, state: HeadState, rounds: int, features: np.ndarray) -> dict:
        """Every accuracy of a state: merged head, subnets of its last round, ensembles, baseline.

        Args:
            state: gathered.
            rounds: done.
            features: float32[n, feature_dim] of the test split.

        Returns:
            As table_of_accuracies, and "centralized", None where there is no baseline.
        """
        labels, scale = self.test.labels, ist_options(self.config).scale_inputs
        partition = last_partition(self.config, self.spec, rounds)
        table = table_of_accuracies(state.folded(), self.spec, partition, features, labels, scale)
        whole = state.baseline
        table["centralized"] = accuracy(logits(whole.folded(), features), labels) if whole else None
        return table

    def finished_accuracies(
        self, state: HeadState, rounds: int, features: np.ndarray, progress: bool = True
    ) -> dict:
        """Accuracies that are of interest once, at the end of a run.

        Args:
            state: gathered.
            rounds: done.
            features: float32[n, feature_dim] of the test split, masked as in training.
            progress: show a bar where something has to be encoded.

        Returns:
            {"accuracy_at": {ratio as text: of the merged head at config.masks.test_ratios},
            "missing_workers": as missing_workers, None for a head that has no subnets}.

        Raises:
            RunError: if an image can't be read.
        """
        head, labels = state.folded(), self.test.labels
        table = {
            f"{ratio:g}": accuracy(logits(head, self._features_at(ratio, progress)), labels)
            for ratio in self.config.masks.test_ratios
        }
        partition, missing = last_partition(self.config, self.spec, rounds), None
        if partition:
            scale = ist_options(self.config).scale_inputs
            missing = missing_workers(
                head, self.spec, partition, features, labels, scale, seed=self.config.seed
            )
        return {"accuracy_at": table, "missing_workers": missing}

    def _features_at(self, ratio: float, progress: bool) -> np.ndarray:
        """By the chief alone: the other workers have gone when a run is at its end."""
        features = features_of(self.config, self.encoder, self.channels).at_ratio(ratio)
        return features.of(self.test, Link.alone(), progress=progress)


def table_of_accuracies(
    parameters: Mapping[str, np.ndarray],
    spec: HeadSpec,
    partition: Partition | None,
    features: np.ndarray,
    labels: np.ndarray,
    scale_inputs: bool = True,
) -> dict:
    """Accuracy of the merged head, of every subnet alone, and of the first 1, 2, ... together.

    Args:
        parameters: the merged head.
        spec: its shape.
        partition: of the last round; None for a head that has no subnets.
        features: float32[n, feature_dim].
        labels: int[n].
        scale_inputs: as in training.

    Returns:
        {"merged": float, "subnets": [float, ...], "ensembles": [float, ...]}; an ensemble is the
        mean of its subnets' probabilities.

    Example:
        >>> import numpy as np
        >>> from sparse_ist_tf.ist.head import HeadSpec, init_parameters
        >>> from sparse_ist_tf.ist.partition import make_partition
        >>> from sparse_ist_tf.runs.evaluation import table_of_accuracies
        >>> spec = HeadSpec(8, (6,), 3)
        >>> table = table_of_accuracies(init_parameters(spec, 0), spec,
        ...                             make_partition(0, 0, (6,), 2),
        ...                             np.zeros((2, 8), "float32"), np.zeros(2, int))
        >>> len(table["subnets"])
        2
    """
    parts = [
        probabilities(extract(parameters, spec, partition, subnet, scale_inputs), features)
        for subnet in range(partition.num_subnets if partition else 0)
    ]
    return {
        "merged": accuracy(logits(parameters, features), labels),
        "subnets": [accuracy(part, labels) for part in parts],
        "ensembles": [accuracy(total, labels) for total in itertools.accumulate(parts)],
    }
