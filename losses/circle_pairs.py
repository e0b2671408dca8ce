"""Circle loss of the pairs of a batch."""

from torch import Tensor, nn
from torch.nn import functional as F

from losses.loss import OnFeatures
from losses.options import LossOptions
from losses.pairs import Pairs, log_sum_exp, pair_metrics, pairs_of


def circle_loss(pairs: Pairs, margin: float, scale: float) -> Tensor:
    """log(1 + sum_p exp(-g a_p (s_p - (1 - m))) sum_n exp(g a_n (s_n - m))) of each anchor, (P, B).

    The weights a_p = max(0, 1 + m - s_p) and a_n = max(0, s_n + m) get no gradient. An anchor without positives or
    without negatives has a loss of zero.

    Args:
        pairs: with cosines s.
        margin: m.
        scale: g.

    Source: Sun et al. 2020, arXiv 2002.10857, equations 5 and 6.
    """
    cosines, fixed = pairs.cosines, pairs.cosines.detach()
    positive = -scale * F.relu(1 + margin - fixed) * (cosines - (1 - margin))
    negative = scale * F.relu(fixed + margin) * (cosines - margin)
    return F.softplus(log_sum_exp(positive, pairs.positive) + log_sum_exp(negative, pairs.negative))


class CirclePairsLoss(nn.Module):
    """The circle loss of any number of parts.

    Args:
        weight: lambda.
        margin, scale: of `circle_loss`.
    """

    def __init__(self, weight: float, margin: float, scale: float) -> None:
        super().__init__()
        self.weight, self.margin, self.scale = weight, margin, scale

    def forward(self, features: Tensor, labels: Tensor, _step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (P, B, D) and labels (B,) -> weighted mean over parts and anchors, and `pair_metrics`."""
        pairs = pairs_of(features, labels)
        return self.weight * circle_loss(pairs, self.margin, self.scale).mean(), pair_metrics(pairs)


def build_circle_pairs(options: LossOptions) -> OnFeatures | None:
    """The circle losses that the params describe; None: they are off."""
    section = options.circle_pairs
    if not section.weight:
        return None
    loss = CirclePairsLoss(section.weight, section.margin, section.scale)
    return OnFeatures(
        "circle_pairs", dict.fromkeys(section.on, loss), options.gather_embeddings, section.of, section.weights
    )
