"""The losses of pairs against their formulas, one anchor after the other, and against pytorch-metric-learning."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as theirs
from pytorch_metric_learning.miners import MultiSimilarityMiner
from pytorch_metric_learning.reducers import MeanReducer, SumReducer
from torch import Tensor, nn

from losses.circle_pairs import CirclePairsLoss
from losses.multi_similarity import MultiSimilarityLoss
from losses.pairs import pair_metrics, pairs_of
from losses.supervised_contrastive import SupervisedContrastiveLoss

BATCHES = [
    [0, 0, 1, 1, 2, 2],
    [0, 1, 0, 1, 0, 1],
    [0, 0, 0, 0, 0, 1],
    [0, 0, 0, 1, 2, 2],
    [0, 1, 2, 3, 4, 5],
    [4, 4, 4, 4, 4, 4],
]
STEP = torch.tensor(0)
Formula = Callable[[list[float], list[float]], float]


def circle(positives: list[float], negatives: list[float]) -> float:
    """Of the cosines of an anchor; m 0.25, g 16."""
    return circle_of_fixed(positives, negatives, positives, negatives)


def circle_of_fixed(
    positives: list[float], negatives: list[float], fixed_positives: list[float], fixed_negatives: list[float]
) -> float:
    """With other cosines in the weights, which get no gradient."""
    near = math.fsum(
        math.exp(-16 * max(0.0, 1.25 - fixed) * (s - 0.75)) for s, fixed in zip(positives, fixed_positives, strict=True)
    )
    far = math.fsum(
        math.exp(16 * max(0.0, fixed + 0.25) * (s - 0.25)) for s, fixed in zip(negatives, fixed_negatives, strict=True)
    )
    return math.log(1 + near * far)


def multi_similarity(positives: list[float], negatives: list[float]) -> float:
    """a 2, b 40, l 0.5, mined with a margin of 0.1."""
    near = [s for s in positives if negatives and s - 0.1 < max(negatives)]
    far = [s for s in negatives if positives and s + 0.1 > min(positives)]
    pull = math.log(1 + math.fsum(math.exp(-2 * (s - 0.5)) for s in near)) / 2
    return pull + math.log(1 + math.fsum(math.exp(40 * (s - 0.5)) for s in far)) / 40


def contrastive(positives: list[float], negatives: list[float]) -> float:
    """t 0.1."""
    total = math.fsum(math.exp(s / 0.1) for s in positives + negatives)
    return -math.fsum(math.log(math.exp(s / 0.1) / total) for s in positives) / max(len(positives), 1)


CASES: dict[str, tuple[nn.Module, Formula]] = {
    "circle": (CirclePairsLoss(0.5, 0.25, 16.0), circle),
    "multi-similarity": (MultiSimilarityLoss(0.5, 2.0, 40.0, 0.5, 0.1), multi_similarity),
    "contrastive": (SupervisedContrastiveLoss(0.5, 0.1), contrastive),
}
EVERY = pytest.mark.parametrize(("loss", "formula"), CASES.values(), ids=CASES)


def draw(parts: int, dtype: torch.dtype = torch.float64) -> Tensor:
    features = torch.randn(parts, 6, 4, generator=torch.Generator().manual_seed(parts), dtype=dtype)
    return features.requires_grad_()


def cosines_of(features: Tensor, labels: list[int], anchor: int) -> tuple[list[float], list[float]]:
    """Of the anchor with the other images of its identity and with those of others; features (B, D)."""
    rows = features.tolist()
    found: tuple[list[float], list[float]] = ([], [])
    for other, label in enumerate(labels):
        if other != anchor:
            product = math.fsum(a * b for a, b in zip(rows[anchor], rows[other], strict=True))
            found[label != labels[anchor]].append(product / math.hypot(*rows[anchor]) / math.hypot(*rows[other]))
    return found


@EVERY
@pytest.mark.parametrize("labels", BATCHES)
@pytest.mark.parametrize("parts", [1, 3])
def test_equals_the_mean_of_the_formula_over_all_anchors(
    loss: nn.Module, formula: Formula, labels: list[int], parts: int
) -> None:
    features = draw(parts)
    value, metrics = loss(features, torch.tensor(labels), STEP)
    pairs = [cosines_of(part, labels, anchor) for part in features.detach() for anchor in range(6)]
    expected = math.fsum(formula(*cosines) for cosines in pairs) / len(pairs)
    assert value.item() == pytest.approx(0.5 * expected, rel=1e-9, abs=1e-12)
    for name, cosines in zip(("positive", "negative"), zip(*pairs, strict=True), strict=True):
        every = [cosine for of_anchor in cosines for cosine in of_anchor]
        assert metrics[name].item() == pytest.approx(math.fsum(every) / max(len(every), 1), abs=1e-9)


@pytest.mark.parametrize("name", ["multi-similarity", "contrastive"])
@pytest.mark.parametrize("labels", BATCHES)
def test_the_gradient_is_that_of_the_values(name: str, labels: list[int]) -> None:
    loss, _ = CASES[name]
    assert torch.autograd.gradcheck(lambda features: loss(features, torch.tensor(labels), STEP)[0], draw(2))


def test_the_weights_of_the_circle_loss_get_no_gradient() -> None:
    features, labels = draw(1), BATCHES[0]
    value, _ = CASES["circle"][0](features, torch.tensor(labels), STEP)
    value.backward()
    assert features.grad is not None
    fixed = [cosines_of(features.detach()[0], labels, anchor) for anchor in range(6)]

    def moved(step: Tensor) -> float:
        pairs = [cosines_of(features.detach()[0] + step, labels, anchor) for anchor in range(6)]
        return math.fsum(circle_of_fixed(*cosines, *own) for cosines, own in zip(pairs, fixed, strict=True)) / 6

    for image in range(6):
        for axis in range(4):
            step = torch.zeros(6, 4, dtype=torch.float64)
            step[image, axis] = 1e-5
            slope = 0.5 * (moved(step) - moved(-step)) / 2e-5
            assert features.grad[0, image, axis].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("loss", "other", "miner"),
    [
        (CirclePairsLoss(1.0, 0.4, 80.0), theirs.CircleLoss(0.4, 80, reducer=MeanReducer()), None),
        (
            MultiSimilarityLoss(1.0, 2.0, 50.0, 0.5, 0.1),
            theirs.MultiSimilarityLoss(2, 50, 0.5, reducer=SumReducer()),
            MultiSimilarityMiner(epsilon=0.1),
        ),
        (SupervisedContrastiveLoss(1.0, 0.1), theirs.SupConLoss(0.1, reducer=MeanReducer()), None),
    ],
    ids=CASES,
)
@pytest.mark.parametrize("labels", BATCHES[:2])
def test_equals_pytorch_metric_learning(loss: nn.Module, other: Any, miner: Any, labels: list[int]) -> None:
    features, targets = draw(1), torch.tensor(labels)
    value, _ = loss(features, targets, STEP)
    mined = None if miner is None else miner(features[0], targets)
    # Theirs leaves out anchors without mined pairs, and the paper does not.
    expected = other(features[0], targets, mined) / (1 if miner is None else 6)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = [torch.autograd.grad(each, features)[0] for each in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


@EVERY
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 0, 0]])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_of_equal_features_are_finite(
    loss: nn.Module, formula: Formula, labels: list[int], value: float
) -> None:
    features = torch.full((2, 4, 3), value, requires_grad=True)
    found, metrics = loss(features, torch.tensor(labels), STEP)
    found.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert all(metric.isfinite() and not metric.requires_grad for metric in metrics.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@EVERY
def test_is_computed_in_float32(loss: nn.Module, formula: Formula, dtype: torch.dtype) -> None:
    halves, labels = draw(2).detach().to(dtype), torch.tensor(BATCHES[0])
    found, _ = loss(halves, labels, STEP)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(halves.float(), labels, STEP)[0])


def test_cosines_do_not_depend_on_lengths() -> None:
    features, labels = draw(2).detach(), torch.tensor(BATCHES[0])
    lengths = torch.rand(2, 6, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    torch.testing.assert_close(pairs_of(lengths * features, labels).cosines, pairs_of(features, labels).cosines)
    assert pair_metrics(pairs_of(features, labels)).keys() == {"positive", "negative"}
