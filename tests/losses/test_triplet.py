import itertools
import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from losses.triplet import (
    Triplets,
    batch_hard,
    batch_weighted,
    distances_between,
    triplet_loss,
    triplet_metrics,
)

BATCHES = [
    [0, 0, 1, 1, 2, 2],
    [0, 1, 0, 1, 0, 1],
    [0, 0, 0, 0, 0, 1],
    [0, 0, 0, 1, 2, 2],
    [0, 1, 2, 3, 4, 5],
    [4, 4, 4, 4, 4, 4],
]
MINING = pytest.mark.parametrize("mine", [batch_hard, batch_weighted])
Mine = Callable[[Tensor, Tensor], Triplets]
Search = Callable[[Tensor, list[int], int], tuple[float, float]]
Margin = float | Literal["soft_margin"]


def distance(left: Tensor, right: Tensor) -> float:
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(left.tolist(), right.tolist(), strict=True)))


def hardest(features: Tensor, labels: list[int], anchor: int) -> tuple[float, float]:
    """Farthest image of the anchor's identity and nearest of the others; features (B, D)."""
    positives, negatives = [], []
    for other, label in enumerate(labels):
        if label == labels[anchor]:
            positives.append(distance(features[anchor], features[other]))
        else:
            negatives.append(distance(features[anchor], features[other]))
    return max(positives), min(negatives, default=math.inf)


def weighted(features: Tensor, labels: list[int], anchor: int) -> tuple[float, float]:
    """sum of e^d d / sum of e^d over the other images of the identity; with e^-d over other identities."""
    positives, negatives = [], []
    for other, label in enumerate(labels):
        if other != anchor:
            same = label == labels[anchor]
            (positives if same else negatives).append(distance(features[anchor], features[other]))
    positive, negative = 0.0, math.inf
    if positives:
        positive = math.fsum(math.exp(d) * d for d in positives) / math.fsum(math.exp(d) for d in positives)
    if negatives:
        negative = math.fsum(math.exp(-d) * d for d in negatives) / math.fsum(math.exp(-d) for d in negatives)
    return positive, negative


@pytest.mark.parametrize(("mine", "search"), [(batch_hard, hardest), (batch_weighted, weighted)])
@pytest.mark.parametrize("labels", BATCHES)
@pytest.mark.parametrize("parts", [1, 4])
def test_finds_what_a_plain_search_finds(parts: int, labels: list[int], mine: Mine, search: Search) -> None:
    features = torch.randn(parts, 6, 5, generator=torch.Generator().manual_seed(parts))
    triplets = mine(features, torch.tensor(labels))
    assert triplets.positive.shape == triplets.negative.shape == (parts, 6)
    for part in range(parts):
        for anchor in range(6):
            positive, negative = search(features[part], labels, anchor)
            assert triplets.positive[part, anchor].item() == pytest.approx(positive, rel=1e-4, abs=1e-5)
            assert triplets.negative[part, anchor].item() == pytest.approx(negative, rel=1e-4, abs=1e-5)


@MINING
def test_a_lone_image_has_a_positive_at_distance_zero(mine: Mine) -> None:
    features = 10 * torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert mine(features, torch.arange(5)).positive.tolist() == [[0.0] * 5] * 2


def test_the_gradient_of_the_weighted_distances_is_that_of_their_values() -> None:
    features = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = [0, 0, 0, 1, 1, 1]
    triplets = batch_weighted(features, torch.tensor(labels))
    (triplets.positive - triplets.negative).sum().backward()
    assert features.grad is not None

    def value(moved: Tensor) -> float:
        pairs = [weighted(moved, labels, anchor) for anchor in range(6)]
        return math.fsum(positive - negative for positive, negative in pairs)

    for image in range(6):
        for axis in range(3):
            step = torch.zeros(6, 3, dtype=torch.float64)
            step[image, axis] = 1e-5
            at = features.detach()[0].double()
            slope = (value(at + step) - value(at - step)) / 2e-5
            assert features.grad[0, image, axis].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("positive", "negative"), [(2.0, 1.0), (1.0, 1.0), (1.0, 1.2), (1.0, 9.0)])
def test_margin_and_soft_margin_equal_their_formulas(positive: float, negative: float) -> None:
    triplets = Triplets(torch.tensor([[positive]]), torch.tensor([[negative]]))
    assert triplet_loss(triplets, 0.3).item() == pytest.approx(max(0.0, 0.3 + positive - negative), abs=1e-6)
    soft = math.log(1 + math.exp(positive - negative))
    assert triplet_loss(triplets, "soft_margin").item() == pytest.approx(soft, rel=1e-5)


@MINING
@pytest.mark.parametrize("margin", [0.3, "soft_margin"])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 0, 0]])
def test_identical_features_have_a_finite_gradient(mine: Mine, margin: Margin, labels: list[int]) -> None:
    features = torch.ones(2, 4, 3, requires_grad=True)
    triplet_loss(mine(features, torch.tensor(labels)), margin).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


@MINING
def test_an_anchor_without_negative_adds_no_loss_and_no_gradient(mine: Mine) -> None:
    features = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for margin in (0.3, "soft_margin"):
        losses = triplet_loss(mine(features, torch.zeros(3, dtype=torch.int64)), margin)
        assert losses.tolist() == [[0.0, 0.0, 0.0]]
        (gradient,) = torch.autograd.grad(losses.sum(), features)
        assert torch.equal(gradient, torch.zeros_like(features))


@MINING
def test_distances_far_apart_stay_finite(mine: Mine) -> None:
    triplets = mine(torch.tensor([[[0.0], [1e4], [-3e4], [5e4]]]), torch.tensor([0, 0, 1, 1]))
    assert triplets.positive[0].tolist() == pytest.approx([1e4, 1e4, 8e4, 8e4])
    assert triplets.negative[0].tolist() == pytest.approx([3e4, 4e4, 3e4, 4e4])


@pytest.mark.parametrize("margin", [0.25, "soft_margin"])
def test_measures_equal_a_count_by_hand(margin: Margin) -> None:
    positive = torch.tensor([[1.0, 2.0, 3.0, 1.0], [0.5, 0.5, 4.0, 0.0]], requires_grad=True)
    negative = torch.tensor([[1.1, 2.0, 2.0, 9.0], [1.0, 0.8, math.inf, 0.3]], requires_grad=True)
    metrics = triplet_metrics(Triplets(positive, negative), margin)
    correct = active = near = 0
    distances = []
    for ap, an in zip(positive.flatten().tolist(), negative.flatten().tolist(), strict=True):
        correct += an > ap
        if margin != "soft_margin":
            active += ap - an + margin > 0
        near += ap
        distances += [an] if an < math.inf else []
    expected = {"correct": correct / 8, "positive": near / 8, "negative": sum(distances) / 7}
    if margin != "soft_margin":
        expected["active"] = active / 8
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected)
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())


def test_measures_are_finite_where_no_anchor_has_a_negative() -> None:
    metrics = triplet_metrics(batch_hard(torch.randn(1, 3, 2), torch.zeros(3, dtype=torch.int64)), 0.3)
    assert metrics["negative"].item() == 0.0
    assert (metrics["correct"].item(), metrics["active"].item()) == (1.0, 0.0)


def test_distances_equal_the_definition_in_each_part() -> None:
    features = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    distances = distances_between(features)
    assert distances.shape == (2, 4, 4)
    for part, i, j in itertools.product(range(2), range(4), range(4)):
        expected = math.dist(features[part, i].tolist(), features[part, j].tolist())
        assert distances[part, i, j].item() == pytest.approx(expected, rel=1e-4, abs=2e-3)


def test_a_distance_is_never_negative_nor_without_gradient() -> None:
    point = torch.full((1, 3, 4), 1000.1, requires_grad=True)
    assert (distances_between(point) >= 0).all()
    distances_between(point).sum().backward()
    assert point.grad is not None
    assert point.grad.isfinite().all()
