"""Supervised contrastive loss of the pairs of a batch."""

import torch
from torch import Tensor, nn

from losses.loss import OnFeatures
from losses.options import LossOptions
from losses.pairs import Pairs, log_sum_exp, pair_metrics, pairs_of


def contrastive_loss(pairs: Pairs, temperature: float) -> Tensor:
    """-1/|P| sum_p log(exp(s_p / t) / sum_a exp(s_a / t)) of each anchor, over all a but itself: (P, B).

    An anchor without positives has a loss of zero.

    Args:
        pairs: with cosines s.
        temperature: t.

    Source: Khosla et al. 2020, arXiv 2004.11362, equation 2.
    """
    logits = pairs.cosines / temperature
    total = log_sum_exp(logits, pairs.positive | pairs.negative)
    losses = torch.where(pairs.positive, total[..., None] - logits, 0.0)
    return losses.sum(-1) / pairs.positive.sum(-1).clamp_min(1)


class SupervisedContrastiveLoss(nn.Module):
    """The supervised contrastive loss of any number of parts.

    Args:
        weight: of the loss.
        temperature: of `contrastive_loss`.
    """

    def __init__(self, weight: float, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature

    def forward(self, features: Tensor, labels: Tensor, _step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (P, B, D) and labels (B,) -> weighted mean over parts and anchors, and `pair_metrics`."""
        pairs = pairs_of(features, labels)
        return self.weight * contrastive_loss(pairs, self.temperature).mean(), pair_metrics(pairs)


def build_supervised_contrastive(options: LossOptions) -> OnFeatures | None:
    """The contrastive losses that the params describe; None: they are off."""
    section = options.supervised_contrastive
    if not section.weight:
        return None
    loss = SupervisedContrastiveLoss(section.weight, section.temperature)
    return OnFeatures(
        "supervised_contrastive",
        dict.fromkeys(section.on, loss),
        options.gather_embeddings,
        section.of,
        section.weights,
    )
