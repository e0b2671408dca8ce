"""Multi-similarity loss of the pairs of a batch that its mining keeps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.loss import OnFeatures
from losses.options import LossOptions
from losses.pairs import Pairs, log_sum_exp, pair_metrics, pairs_of


def mine(pairs: Pairs, margin: float) -> tuple[Tensor, Tensor]:
    """Positive and negative pairs, (P, B, B) bool each, that are harder than the hardest of the other kind, or nearly.

    Negatives above the lowest cosine of the anchor's positives less the margin, and positives below the highest of its
    negatives and the margin; an anchor without one kind keeps none of the other.

    Source: Wang et al. 2019, arXiv 1904.06627, its pair mining.
    """
    cosines = pairs.cosines
    lowest = torch.where(pairs.positive, cosines, torch.inf).amin(-1, keepdim=True)
    highest = torch.where(pairs.negative, cosines, -torch.inf).amax(-1, keepdim=True)
    return pairs.positive & (cosines - margin < highest), pairs.negative & (cosines + margin > lowest)


def multi_similarity_loss(
    pairs: Pairs, positive: Tensor, negative: Tensor, alpha: float, beta: float, threshold: float
) -> Tensor:
    """1/a log(1 + sum_p exp(-a (s_p - l))) + 1/b log(1 + sum_n exp(b (s_n - l))) of each anchor, (P, B).

    Args:
        pairs: with cosines s.
        positive, negative: which of them count, (P, B, B) bool.
        alpha, beta: a and b.
        threshold: l.

    Source: Wang et al. 2019, arXiv 1904.06627, L_MS.
    """
    above = pairs.cosines - threshold
    pull = F.softplus(log_sum_exp(-alpha * above, positive)) / alpha
    return pull + F.softplus(log_sum_exp(beta * above, negative)) / beta


class MultiSimilarityLoss(nn.Module):
    """The multi-similarity loss of any number of parts.

    Args:
        weight: of the loss.
        alpha, beta, threshold: of `multi_similarity_loss`.
        margin: of `mine`.
    """

    def __init__(self, weight: float, alpha: float, beta: float, threshold: float, margin: float) -> None:
        super().__init__()
        self.weight, self.margin = weight, margin
        self.alpha, self.beta, self.threshold = alpha, beta, threshold

    def forward(self, features: Tensor, labels: Tensor, _step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (P, B, D) and labels (B,) -> weighted mean over parts and anchors, and `pair_metrics`."""
        pairs = pairs_of(features, labels)
        positive, negative = mine(pairs, self.margin)
        losses = multi_similarity_loss(pairs, positive, negative, self.alpha, self.beta, self.threshold)
        return self.weight * losses.mean(), pair_metrics(pairs)


def build_multi_similarity(options: LossOptions) -> OnFeatures | None:
    """The multi-similarity losses that the params describe; None: they are off."""
    section = options.multi_similarity
    if not section.weight:
        return None
    loss = MultiSimilarityLoss(section.weight, section.alpha, section.beta, section.threshold, section.margin)
    return OnFeatures(
        "multi_similarity", dict.fromkeys(section.on, loss), options.gather_embeddings, section.of, section.weights
    )
