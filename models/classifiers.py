"""Classification layers of all parts at once."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.outputs import ClassScores
from utils.precision import at_least_fp32


class LinearClassifier(nn.Module):
    """P linear classifiers side by side: (P, B, D) -> logits (P, B, N)."""

    def __init__(self, num_parts: int, dim: int, num_classes: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_parts, dim, num_classes))
        self.bias = nn.Parameter(torch.zeros(num_parts, 1, num_classes)) if bias else None
        # Small, so that training starts from nearly equal probabilities.
        nn.init.normal_(self.weight, std=0.001)

    def forward(self, embeddings: Tensor) -> ClassScores:
        """(P, B, D) -> scores of (P, B, N)."""
        logits = embeddings @ self.weight
        return ClassScores(logits if self.bias is None else logits + self.bias, None)


class CosineClassifier(nn.Module):
    """P classifiers with normalised class weights: a logit is the norm of the embedding times a cosine.

    Computes in float32 in every precision.

    Args:
        num_parts: P.
        dim: D.
        num_classes: N.
        scale: norm that every embedding is scaled to; 0 = each keeps its own.

    Source: Wang et al. 2018, arXiv 1801.05599, section 3.2 (scale); Liu et al. 2017, arXiv 1704.08063 (own norm).
    """

    def __init__(self, num_parts: int, dim: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_parts, dim, num_classes))
        self.scale = scale
        # Logits do not depend on the norm of the weights, but an optimizer's step does: about 1 at the start.
        nn.init.normal_(self.weight, std=dim**-0.5)

    def forward(self, embeddings: Tensor) -> ClassScores:
        """(P, B, D) -> scores of (P, B, N), with the scale of the cosines."""
        # In bfloat16 a logit would be off by 0.06 at a scale of 15.
        with torch.autocast(embeddings.device.type, enabled=False):
            weight, embeddings = F.normalize(at_least_fp32(self.weight), dim=1), at_least_fp32(embeddings)
            if self.scale:
                logits = self.scale * (F.normalize(embeddings, dim=-1) @ weight)
                return ClassScores(logits, torch.full_like(logits[..., 0], self.scale))
            return ClassScores(embeddings @ weight, embeddings.norm(dim=-1))
