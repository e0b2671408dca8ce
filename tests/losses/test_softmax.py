import math

import pytest
import torch

from losses.softmax import softmax_loss


def reference(logits: list[float], label: int, smoothing: float) -> float:
    """-sum of target * log(softmax), one class after the other."""
    total = math.fsum(math.exp(value) for value in logits)
    target = [smoothing / len(logits) + (1 - smoothing) * (index == label) for index in range(len(logits))]
    return -math.fsum(share * math.log(math.exp(value) / total) for share, value in zip(target, logits, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("parts", [1, 3])
def test_equals_the_definition_for_every_part_and_image(parts: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(parts)
    logits = 3 * torch.randn(parts, 5, 7, generator=generator)
    labels = torch.tensor([0, 6, 3, 3, 1])
    losses = softmax_loss(logits, labels, smoothing)
    assert losses.shape == (parts, 5)
    for part in range(parts):
        for image in range(5):
            expected = reference(logits[part, image].tolist(), int(labels[image]), smoothing)
            assert losses[part, image].item() == pytest.approx(expected, rel=1e-5)


def test_is_computed_in_single_precision_whatever_the_logits_are() -> None:
    logits = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert softmax_loss(logits, torch.tensor([0, 1])).dtype == torch.float32


def test_survives_huge_logits() -> None:
    logits = torch.tensor([[[1e4, 0.0], [1e4, 0.0]]])
    assert softmax_loss(logits, torch.tensor([0, 1])).tolist() == [[0.0, 1e4]]
