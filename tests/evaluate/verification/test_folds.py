"""Thresholds and the accuracy of folds against trying every threshold there is."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluate.core.verification.folds import accuracy, best_threshold, fold_accuracies


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def share_right(pairs, threshold):
    """Accuracy of (distance, is genuine) pairs."""
    return sum((distance <= threshold) == is_genuine for distance, is_genuine in pairs) / len(pairs)


def reference_threshold(pairs):
    """The first best of: reject all, midway between neighbouring distances, accept all."""
    distances = sorted({distance for distance, _ in pairs})
    candidates = [distances[0] - 1e-3]
    candidates += [(low + high) / 2 for low, high in pairwise(distances)]
    candidates.append(distances[-1])
    return max(candidates, key=lambda candidate: share_right(pairs, candidate))  # max takes the first of equals


few = st.lists(st.integers(0, 8), min_size=1, max_size=12)


@given(genuine=few, impostor=few)
def test_best_threshold_is_that_of_trying_all(genuine, impostor):
    pairs = [(distance, True) for distance in genuine] + [(distance, False) for distance in impostor]
    threshold, expected = best_threshold(tensor(genuine), tensor(impostor)), reference_threshold(pairs)
    assert threshold == pytest.approx(expected, abs=2e-3)
    assert accuracy(tensor(genuine), tensor(impostor), threshold) == pytest.approx(share_right(pairs, expected))


def test_the_threshold_parts_neighbouring_floats():
    low = torch.tensor([1.0])
    for _ in range(4):  # halfway between them rounds down and up by turns
        high = low.nextafter(torch.tensor(2.0))
        threshold = best_threshold(low, high)
        assert threshold == low
        assert accuracy(low, high, threshold) == 1.0
        low = high
    assert best_threshold(tensor([1]), tensor([2])) == 1.5


def test_all_may_be_best_rejected_or_accepted():
    assert best_threshold(tensor([1, 5]), tensor([0, 0, 2])) < 0
    assert best_threshold(tensor([1, 5, 5]), tensor([3, 0])) == 5.0


@given(folds=st.lists(st.tuples(few, few), min_size=1, max_size=4))
def test_each_fold_is_judged_by_the_others(folds):
    pairs = [
        (distance, is_genuine, fold)
        for fold, sides in enumerate(folds)
        for is_genuine, side in zip((True, False), sides, strict=True)
        for distance in side
    ]
    expected = []
    for fold in range(len(folds)):
        others = [pair[:2] for pair in pairs if pair[2] != fold or len(folds) == 1]
        expected.append(share_right([pair[:2] for pair in pairs if pair[2] == fold], reference_threshold(others)))
    distances, is_genuine, fold_of = zip(*pairs, strict=True)
    assert fold_accuracies(tensor(distances), torch.tensor(is_genuine), torch.tensor(fold_of)) == pytest.approx(
        expected
    )


def test_a_fold_is_not_judged_by_its_own_threshold():
    # Alone each fold is perfect; by the other's threshold one kind of pair is wrong.
    distances, is_genuine = tensor([1, 3, 5, 7]), torch.tensor([True, False, True, False])
    folds = torch.tensor([0, 0, 1, 1])
    assert fold_accuracies(distances, is_genuine, folds) == [0.5, 0.5]
    assert fold_accuracies(distances[:2], is_genuine[:2], folds[:2]) == [1.0]
