"""Triplet loss for any number of parts at once, with hardest or weighted positives and negatives of a batch."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.loss import OnFeatures
from losses.options import LossOptions
from utils.precision import at_least_fp32


class Triplets(NamedTuple):
    """Distances of each anchor to its identity and to the others, (P, B) each."""

    positive: Tensor
    negative: Tensor


def same_but_not_itself(same: Tensor) -> Tensor:
    """(B, B) bool, without its diagonal."""
    return same.clone().fill_diagonal_(False)


def batch_hard(features: Tensor, labels: Tensor) -> Triplets:
    """For each anchor the farthest image of its identity and the nearest of another, within the batch.

    An identity with one image in the batch has a positive distance of zero, the anchor's to itself. An anchor without
    any negative (one identity in the batch) has an infinite negative distance.

    Args:
        features: (P, B, D); each part mines on its own.
        labels: (B,) int64.

    Source: Hermans et al. 2017, arXiv 1703.07737, equation 5.
    """
    distances = distances_between(at_least_fp32(features))
    same = labels[:, None] == labels
    # An exact zero for the anchor itself; the computed one has a rounding error.
    positive = torch.where(same_but_not_itself(same), distances, 0.0).amax(-1)
    negative = distances.masked_fill(same, torch.inf).amin(-1)
    return Triplets(positive, negative)


def batch_weighted(features: Tensor, labels: Tensor) -> Triplets:
    """For each anchor the mean distance to its identity, weighted by a softmax, and to others, weighted by a softmin.

    Anchors without positives or negatives get the distances that `batch_hard` gives them: zero and infinity.

    With the soft margin this is the weighted regularised triplet loss (Ye et al. 2021, arXiv 2001.04193),
    whose authors' code also counts the anchor itself among its positives.

    Args:
        features: (P, B, D); each part weighs on its own.
        labels: (B,) int64.

    Source: Ristani and Tomasi 2018, arXiv 1803.10859, the adaptive weights of the triplet loss.
    """
    distances = distances_between(at_least_fp32(features))
    same = labels[:, None] == labels
    positive = _weighted_mean(distances, distances, same_but_not_itself(same))
    negative = _weighted_mean(distances, -distances, ~same)
    return Triplets(positive, negative.masked_fill(same.all(-1), torch.inf))


def triplet_loss(triplets: Triplets, margin: float | Literal["soft_margin"]) -> Tensor:
    """max(0, margin + d_ap - d_an) of each anchor, or log(1 + exp(d_ap - d_an)) for "soft_margin": (P, B)."""
    difference = triplets.positive - triplets.negative
    return F.softplus(difference) if margin == "soft_margin" else F.relu(difference + margin)


def triplet_metrics(triplets: Triplets, margin: float | Literal["soft_margin"]) -> dict[str, Tensor]:
    """Metrics of the triplets, as scalars without gradient.

    Returns:
        "correct": share of anchors nearer to their identity than to others; "active": share with a loss above zero
        (missing with the soft margin, where all have one); "positive", "negative": mean distances, the latter of
        the anchors that have negatives, 0 if none has.
    """
    positive, negative = triplets.positive.detach(), triplets.negative.detach()
    finite = negative < torch.inf
    metrics = {
        "correct": (negative > positive).float().mean(),
        "positive": positive.mean(),
        "negative": torch.where(finite, negative, 0.0).sum() / finite.sum().clamp_min(1),
    }
    if margin != "soft_margin":
        metrics["active"] = (positive - negative + margin > 0).float().mean()
    return metrics


def _weighted_mean(distances: Tensor, hardness: Tensor, counted: Tensor) -> Tensor:
    """Mean of the distances (P, B, B) over the last dimension, weighted by softmax(hardness) of those counted; or 0.

    The gradient flows through the weights, too.
    """
    # Not -inf: where nothing is counted, the softmax would be NaN.
    weights = torch.where(counted, hardness, torch.finfo(hardness.dtype).min).softmax(-1)
    return torch.where(counted, weights * distances, 0.0).sum(-1)


class TripletLoss(nn.Module):
    """The triplet loss of any number of parts.

    Args:
        weight: lambda.
        margin: a number, or "soft_margin".
        adaptive_weight: `batch_weighted` instead of `batch_hard`.
    """

    def __init__(self, weight: float, margin: float | Literal["soft_margin"], adaptive_weight: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.margin: float | Literal["soft_margin"] = margin
        self.mine = batch_weighted if adaptive_weight else batch_hard

    def forward(self, features: Tensor, labels: Tensor, _step: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (P, B, D) and labels (B,) -> weighted mean over parts and anchors, and `triplet_metrics`."""
        triplets = self.mine(features, labels)
        return self.weight * triplet_loss(triplets, self.margin).mean(), triplet_metrics(triplets, self.margin)


def build_triplet(options: LossOptions) -> OnFeatures | None:
    """The triplet losses that the params describe; None: they are off."""
    if not options.triplet_is_on:
        return None
    loss = TripletLoss(options.tri_loss_lambda_tri, options.tri_loss_margin, options.tri_loss_adaptive_weight)
    return OnFeatures(
        "triplet",
        dict.fromkeys(options.tri_loss_on, loss),
        options.gather_embeddings,
        options.tri_loss_of,
        options.tri_loss_weights,
    )


def distances_between(features: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Euclidean distances of the images of each part, (P, B, D) -> (P, B, B); the gradient at distance zero is finite.

    By the binomial formula: one matrix product instead of a (P, B, B, D) difference.
    """
    squares = features.square().sum(-1)
    squares = squares[..., :, None] + squares[..., None, :]
    return torch.baddbmm(squares, features, features.transpose(1, 2), alpha=-2).clamp_min(epsilon).sqrt()
