import math

import pytest
import torch
from torch import Tensor

from losses.triplet import HardTriplets, batch_hard, triplet_loss


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


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1], [4, 4, 4, 4, 4, 4]])
@pytest.mark.parametrize("parts", [1, 4])
def test_mining_finds_what_a_plain_search_finds(parts: int, labels: list[int]) -> None:
    features = torch.randn(parts, 6, 5, generator=torch.Generator().manual_seed(parts))
    triplets = batch_hard(features, torch.tensor(labels))
    assert triplets.positive.shape == triplets.negative.shape == (parts, 6)
    for part in range(parts):
        for anchor in range(6):
            positive, negative = hardest(features[part], labels, anchor)
            assert triplets.positive[part, anchor].item() == pytest.approx(positive, rel=1e-4, abs=1e-5)
            assert triplets.negative[part, anchor].item() == pytest.approx(negative, rel=1e-4, abs=1e-5)


def test_a_lone_image_has_itself_as_positive_at_distance_zero() -> None:
    triplets = batch_hard(torch.tensor([[[0.0], [3.0]]]), torch.tensor([0, 1]))
    assert triplets.positive[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert triplets.negative[0].tolist() == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize(("positive", "negative"), [(2.0, 1.0), (1.0, 1.0), (1.0, 1.2), (1.0, 9.0)])
def test_margin_and_soft_margin_equal_their_formulas(positive: float, negative: float) -> None:
    triplets = HardTriplets(torch.tensor([[positive]]), torch.tensor([[negative]]))
    assert triplet_loss(triplets, 0.3).item() == pytest.approx(max(0.0, 0.3 + positive - negative), abs=1e-6)
    soft = math.log(1 + math.exp(positive - negative))
    assert triplet_loss(triplets, "soft_margin").item() == pytest.approx(soft, rel=1e-5)


def test_identical_features_have_a_finite_gradient() -> None:
    features = torch.ones(1, 4, 3, requires_grad=True)
    triplet_loss(batch_hard(features, torch.tensor([0, 0, 1, 1])), 0.3).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_an_anchor_without_negative_adds_no_loss() -> None:
    triplets = batch_hard(torch.randn(1, 3, 2), torch.zeros(3, dtype=torch.int64))
    assert triplet_loss(triplets, 0.3).tolist() == [[0.0, 0.0, 0.0]]
    assert triplet_loss(triplets, "soft_margin").tolist() == [[0.0, 0.0, 0.0]]
