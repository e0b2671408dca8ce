"""Metrics of classification and counts of confusions against plain loops, with ties, and classes without images."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.samples import Sample
from evaluate.core.classification.accuracy import Classified
from evaluate.core.classification.confusion import confusion_counts, most_confused


def classified(truth: Sequence[int], scores: Sequence[Sequence[float]]) -> Classified:
    samples = [Sample(Path(f"{row}.jpg"), index + 1, 0) for row, index in enumerate(truth)]
    names = [f"class {index}" for index in range(len(scores[0]))]
    return Classified(samples, torch.tensor(truth), torch.tensor(scores, dtype=torch.float32), names)


@st.composite
def problems(draw: st.DrawFn) -> Classified:
    """Scores on a coarse grid, so that they often tie, and more classes than some problems have images."""
    num_classes = draw(st.integers(2, 6))
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, num_classes - 1),
                st.lists(st.integers(-2, 2), min_size=num_classes, max_size=num_classes),
            ),
            min_size=1,
            max_size=12,
        )
    )
    return classified([truth for truth, _ in rows], [scores for _, scores in rows])


def order_of(scores: list[float]) -> list[int]:
    """Classes from the highest score to the lowest; at equal scores the earlier one first."""
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))


@given(problems())
def test_every_metric_is_what_its_definition_says(found: Classified) -> None:
    truth, orders = found.truth.tolist(), [order_of(scores) for scores in found.scores.tolist()]
    assert found.places.tolist() == [order.index(true) for true, order in zip(truth, orders, strict=True)]
    assert found.predicted.tolist() == [order[0] for order in orders]
    for k in range(1, found.num_classes + 1):
        hits = [true in order[:k] for true, order in zip(truth, orders, strict=True)]
        assert found.top(k) == pytest.approx(sum(hits) / len(hits))
    assert found.top(found.num_classes) == 1.0
    accuracies = {}
    for index in range(found.num_classes):
        own = [order[0] == true for true, order in zip(truth, orders, strict=True) if true == index]
        assert found.num_images[index] == len(own)
        if own:
            accuracies[index] = sum(own) / len(own)
            assert found.class_accuracy[index].item() == pytest.approx(accuracies[index])
        else:
            assert math.isnan(found.class_accuracy[index].item())
    assert found.mean_class_accuracy == pytest.approx(sum(accuracies.values()) / len(accuracies))
    assert found.worst_class == min(accuracies, key=lambda index: accuracies[index])


@given(problems(), st.integers(1, 7))
def test_confusions_are_counted_image_by_image(found: Classified, count: int) -> None:
    truth, predicted, size = found.truth.tolist(), found.predicted.tolist(), found.num_classes
    pairs = list(zip(truth, predicted, strict=True))

    def errors(index: int) -> int:
        return sum(true != taken_for and index in (true, taken_for) for true, taken_for in pairs)

    ranking = sorted(range(size), key=lambda index: (-errors(index), index not in truth, index))
    classes = most_confused(found.truth, found.predicted, size, count)
    assert classes.tolist() == sorted(ranking[:count])
    shown = classes.tolist()
    expected = [
        [
            *(pairs.count((true, taken_for)) for taken_for in shown),
            sum(pair[0] == true and pair[1] not in shown for pair in pairs),
        ]
        for true in shown
    ]
    assert confusion_counts(found.truth, found.predicted, size, classes).tolist() == expected


@given(problems())
def test_confidence_is_the_softmax_of_the_class_chosen(found: Classified) -> None:
    for row, scores in enumerate(found.scores.tolist()):
        expected = math.exp(max(scores)) / sum(map(math.exp, scores))
        assert found.confidence[row].item() == pytest.approx(expected, rel=1e-5)


def test_large_scores_do_not_overflow() -> None:
    found = classified([0, 1], [[1e30, 0.0], [0.0, -1e30]])
    assert found.confidence.tolist() == [1.0, 1.0]
    assert found.top(1) == 0.5
