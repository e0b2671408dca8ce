"""Triplet loss with batch-hard mining, for any number of parts at once."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.distances import euclidean


class HardTriplets(NamedTuple):
    """Distances of each anchor to its hardest positive and negative, (P, B) each."""

    positive: Tensor
    negative: Tensor


def batch_hard(features: Tensor, labels: Tensor) -> HardTriplets:
    """For each anchor the farthest image of its identity and the nearest of another, within the batch.

    The anchor itself counts as a positive at distance zero, so an identity with one image in the batch asks only
    that others stay away. An anchor without any negative (one identity in the batch) gets an infinite distance.

    Args:
        features: (P, B, D); each part mines on its own.
        labels: (B,) int64.

    Source: Hermans et al. 2017, arXiv 1703.07737, equation 5.
    """
    distances = euclidean(features.float(), features.float())
    same = labels[:, None] == labels
    positive = distances.masked_fill(~same, 0.0).amax(-1)
    negative = distances.masked_fill(same, torch.inf).amin(-1)
    return HardTriplets(positive, negative)


def triplet_loss(triplets: HardTriplets, margin: float | Literal["soft_margin"]) -> Tensor:
    """max(0, margin + d_ap - d_an) of each anchor, or log(1 + exp(d_ap - d_an)) for "soft_margin": (P, B)."""
    difference = triplets.positive - triplets.negative
    return F.softplus(difference) if margin == "soft_margin" else F.relu(difference + margin)
