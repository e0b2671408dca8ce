"""Every loss of half precision inputs equals that of the same numbers in float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from losses.arcface import arcface_logits
from losses.circle_softmax import circle_logits
from losses.distillation import embedding_distillation, logits_distillation
from losses.generated import consistency_loss, outlier_loss
from losses.softmax import softmax_loss, subtract_margin
from losses.triplet import batch_hard, batch_weighted
from models.outputs import ClassScores

LABELS = torch.tensor([0, 0, 1, 1])
# Of three tensors (2, 4, 6).
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "batch hard": lambda features, _, __: torch.stack([*batch_hard(features, LABELS)]),
    "batch weighted": lambda features, _, __: torch.stack([*batch_weighted(features, LABELS)]),
    "softmax": lambda logits, _, __: softmax_loss(logits, LABELS, 0.1, 2.0),
    "no margin": lambda logits, scale, _: subtract_margin(ClassScores(logits, scale[..., 0]), LABELS, 0.0),
    "margin": lambda logits, scale, _: subtract_margin(ClassScores(logits, scale[..., 0]), LABELS, 0.35),
    "CircleSoftmax": lambda logits, scale, _: circle_logits(ClassScores(logits, scale[..., 0].abs()), LABELS, 0.35),
    "ArcFace": lambda logits, scale, _: arcface_logits(ClassScores(logits, scale[..., 0].abs()), LABELS, 0.5),
    "distilled logits": lambda student, teacher, _: logits_distillation(student, teacher[0], 4.0),
    "distilled embedding": lambda student, teacher, _: embedding_distillation(student[0], teacher[0]),
    "outliers": lambda logits, _, __: outlier_loss(logits),
    "consistency": lambda embeddings, sources, _: consistency_loss(embeddings[0], sources[0]),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    halves = [(300 * torch.randn(2, 4, 6, generator=generator)).to(dtype) for _ in range(3)]
    found, expected = LOSSES[name](*halves), LOSSES[name](*(half.float() for half in halves))  # pyright: ignore[reportCallIssue]
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert torch.equal(found, expected)
