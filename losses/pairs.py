"""The pairs of images of a batch with their cosines, for the losses that compare them."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.triplet import same_but_not_itself
from utils.precision import at_least_fp32


class Pairs(NamedTuple):
    """All pairs of an anchor, by row, and another image of the batch."""

    cosines: Tensor
    """(P, B, B), at least float32."""
    positive: Tensor
    """(B, B) bool, of one identity; an image is no pair with itself."""
    negative: Tensor
    """(B, B) bool, of two identities."""


def pairs_of(features: Tensor, labels: Tensor) -> Pairs:
    """Features (P, B, D), of any length, and labels (B,) int64 -> pairs."""
    units = F.normalize(at_least_fp32(features), dim=-1)
    same = labels[:, None] == labels
    return Pairs(units @ units.transpose(1, 2), same_but_not_itself(same), ~same)


def log_sum_exp(values: Tensor, counted: Tensor) -> Tensor:
    """log(sum exp) over the last dimension of those counted, (P, B, B) -> (P, B).

    Where nothing is counted the lowest number and a gradient of zero, so that `softplus` of it is zero.
    """
    return torch.where(counted, values, torch.finfo(values.dtype).min).logsumexp(-1)


def pair_metrics(pairs: Pairs) -> dict[str, Tensor]:
    """Mean cosines of positive and negative pairs, as scalars without gradient; 0 where there are none."""
    cosines = pairs.cosines.detach().mean(0)
    counts = {"positive": pairs.positive, "negative": pairs.negative}
    return {
        name: torch.where(counted, cosines, 0.0).sum() / counted.sum().clamp_min(1) for name, counted in counts.items()
    }
