"""k of N subnets: the ends are known, the middle is by hand, the draw is seeded."""

import itertools
import math

import numpy as np
import pytest

from sparse_ist_tf.ist.head import HeadSpec, accuracy, init_parameters
from sparse_ist_tf.ist.partition import make_partition
from sparse_ist_tf.runs.evaluation import table_of_accuracies
from sparse_ist_tf.runs.missing import MOST_SUBSETS, missing_workers, subsets_of

SPEC = HeadSpec(8, (13, 9), 3)
WIDTHS = (13, 9)


def _case(num_subnets, scale_inputs=True):
    rng = np.random.default_rng(0)
    head = init_parameters(SPEC, 0)
    for name, value in head.items():
        head[name] = value + 0.1 * rng.standard_normal(value.shape).astype(np.float32)
    features = rng.standard_normal((200, 8)).astype(np.float32)
    labels = rng.integers(0, 3, 200)
    partition = make_partition(0, 3, WIDTHS, num_subnets)
    return head, SPEC, partition, features, labels, scale_inputs


@pytest.mark.parametrize("scale_inputs", [True, False])
def test_the_ends_are_what_the_table_of_accuracies_has(scale_inputs):
    case = _case(4, scale_inputs)
    found, table = missing_workers(*case), table_of_accuracies(*case)
    assert list(found) == ["1", "2", "3", "4"]
    assert found["1"]["merged"] == found["1"]["ensemble"]
    assert found["1"]["ensemble"] == pytest.approx(np.mean(table["subnets"]))
    assert found["4"]["merged"] == table["merged"]
    assert found["4"]["ensemble"] == table["ensembles"][-1]
    assert [found[k]["subsets"] for k in found] == [4, 6, 4, 1]


def test_the_middle_is_a_mean_over_all_subsets_of_scaled_heads():
    head, spec, partition, features, labels, _ = _case(3)
    by_hand = []
    for subset in itertools.combinations(range(3), 2):
        x = features
        for layer in range(2):
            keep = np.zeros(WIDTHS[layer], np.float32)
            for subnet in subset:
                keep[partition.indices[layer][subnet]] = 1
            x = np.maximum(x @ head[f"dense_{layer}/kernel"] + head[f"dense_{layer}/bias"], 0)
            x = x * keep * np.float32(WIDTHS[layer] / keep.sum())
        outputs = x @ head["dense_2/kernel"] + head["dense_2/bias"]
        by_hand.append(accuracy(outputs, labels))
    found = missing_workers(head, spec, partition, features, labels)["2"]["merged"]
    assert found == pytest.approx(np.mean(by_hand), abs=0.51 / 200)  # a tie may fall otherwise


def test_few_subsets_are_all_there_and_many_are_drawn():
    for count, kept in ((8, 2), (16, 1), (16, 15), (5, 5)):
        subsets = subsets_of(count, kept)
        assert len(set(subsets)) == math.comb(count, kept) <= MOST_SUBSETS
    drawn = subsets_of(16, 8, seed=1)
    assert len(set(drawn)) == 10
    assert all(len(set(s)) == 8 and s == tuple(sorted(s)) and max(s) < 16 for s in drawn)
    assert drawn == subsets_of(16, 8, seed=1) != subsets_of(16, 8, seed=2)
