import math

import pytest
import torch
from torch import Tensor

from losses.softmax import MarginSchedule, softmax_loss, subtract_margin
from models.outputs import ClassScores

LABELS = [0, 6, 3, 3, 1]


def reference(logits: list[float], label: int, smoothing: float, gamma: float = 0.0) -> float:
    """-(1 - p)^gamma * sum of target * log(softmax), one class after the other."""
    total = math.fsum(math.exp(value) for value in logits)
    target = [smoothing / len(logits) + (1 - smoothing) * (index == label) for index in range(len(logits))]
    loss = -math.fsum(share * math.log(math.exp(value) / total) for share, value in zip(target, logits, strict=True))
    return (1 - math.exp(logits[label]) / total) ** gamma * loss


def margin_logits(embedding: Tensor, weights: Tensor, label: int, margin: float, scale: float) -> list[float]:
    """Length times (cosine - m) for the true class, length times cosine for the others; weights (D, N)."""
    own = math.sqrt(math.fsum(value**2 for value in embedding.tolist()))
    length = scale or own
    logits = []
    for index, weight in enumerate(weights.T.tolist()):
        product = math.fsum(a * b for a, b in zip(embedding.tolist(), weight, strict=True))
        cosine = product / own / math.sqrt(math.fsum(value**2 for value in weight))
        logits.append(length * (cosine - margin * (index == label)))
    return logits


def draw_cosine(parts: int, scale: float) -> tuple[Tensor, Tensor, ClassScores]:
    """Embeddings (P, 5, 6), weights (P, 6, 7) and what a cosine classifier says of them."""
    generator = torch.Generator().manual_seed(parts)
    embeddings = 2 * torch.randn(parts, 5, 6, generator=generator)
    weights = torch.randn(parts, 6, 7, generator=generator)
    norms = embeddings.norm(dim=-1)
    scales = torch.full_like(norms, scale) if scale else norms
    cosines = (embeddings / norms[..., None]) @ (weights / weights.norm(dim=1, keepdim=True))
    return embeddings, weights, ClassScores(scales[..., None] * cosines, scales)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("parts", [1, 3])
def test_equals_the_definition_for_every_part_and_image(parts: int, smoothing: float, gamma: float) -> None:
    generator = torch.Generator().manual_seed(parts)
    logits = 3 * torch.randn(parts, 5, 7, generator=generator)
    losses = softmax_loss(logits, torch.tensor(LABELS), smoothing, gamma)
    assert losses.shape == (parts, 5)
    for part in range(parts):
        for image in range(5):
            expected = reference(logits[part, image].tolist(), LABELS[image], smoothing, gamma)
            assert losses[part, image].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("smoothing", "gamma"), [(0.0, 0.0), (0.0, 2.0), (0.1, 1.0)])
@pytest.mark.parametrize("scale", [0.0, 15.0])
@pytest.mark.parametrize("margin", [0.0, 0.35])
def test_margin_softmax_equals_its_definition(margin: float, scale: float, smoothing: float, gamma: float) -> None:
    embeddings, weights, scores = draw_cosine(2, scale)
    logits = subtract_margin(scores, torch.tensor(LABELS), margin)
    losses = softmax_loss(logits, torch.tensor(LABELS), smoothing, gamma)
    for part in range(2):
        for image, label in enumerate(LABELS):
            lowered = margin_logits(embeddings[part, image], weights[part], label, margin, scale)
            expected = reference(lowered, label, smoothing, gamma)
            assert losses[part, image].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_gradient_of_a_length_of_its_own_knows_of_the_margin() -> None:
    scales = torch.full((1, 1), 4.0, requires_grad=True)
    logits = scales[..., None] * torch.tensor([[[0.5, 0.1]]])
    subtract_margin(ClassScores(logits, scales), torch.tensor([0]), 0.3).sum().backward()
    assert scales.grad is not None
    assert scales.grad.item() == pytest.approx(0.5 + 0.1 - 0.3)


def test_a_linear_classifier_has_no_margin() -> None:
    scores = ClassScores(torch.zeros(1, 2, 3), None)
    assert torch.equal(subtract_margin(scores, torch.tensor([0, 1]), 0.0), scores.logits)
    with pytest.raises(ValueError, match="cosine classifier"):
        subtract_margin(scores, torch.tensor([0, 1]), 0.1)


def test_each_margin_of_a_list_holds_for_so_many_steps_and_the_last_to_the_end() -> None:
    schedule = MarginSchedule((0.0, 0.1, 0.3), 2)
    margins = [schedule(torch.tensor(step)).item() for step in range(9)]
    assert margins == pytest.approx([0.0, 0.0, 0.1, 0.1, 0.3, 0.3, 0.3, 0.3, 0.3])


def test_the_only_margin_of_a_list_holds_always() -> None:
    schedule = MarginSchedule((0.2,), 0)
    assert [schedule(torch.tensor(step)).item() for step in (0, 1000)] == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize(("margins", "every"), [((), 5), ((0.1, 0.2), 0)])
def test_a_list_that_says_no_margin_is_refused(margins: tuple[float, ...], every: int) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        MarginSchedule(margins, every)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_focal_gradient_of_a_certain_image_is_finite(gamma: float, smoothing: float) -> None:
    logits = torch.tensor([[[80.0, 0.0, 0.0]]], requires_grad=True)
    softmax_loss(logits, torch.tensor([0]), smoothing, gamma).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_survives_huge_logits() -> None:
    logits = torch.tensor([[[1e4, 0.0], [1e4, 0.0]]])
    assert softmax_loss(logits, torch.tensor([0, 1])).tolist() == [[0.0, 1e4]]
    assert softmax_loss(logits, torch.tensor([0, 1]), focal_gamma=2.0).tolist() == [[0.0, 1e4]]
