"""Pooling of a feature map to one vector for each horizontal stripe."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from utils.precision import at_least_fp32

Pooling = Literal["avg", "max", "gem", "gem_each"]

EPSILON = 1e-6
"""Lower bound of the values: at zero the gradient of a root is infinite."""


class StripePooling(nn.Module):
    """Pools P equal horizontal stripes of a feature map, top to bottom: (B, C, h, w) -> (P, B, C).

    Args:
        num_parts: P; the map's height must be a multiple of it.
        kind: average, maximum, or generalised mean (mean of x^p)^(1/p) of the positive values, whose exponent p is
            learnt, starting from 3; p = 1 is the average, infinity the maximum. "gem_each" learns one for each stripe.

    Source: Radenovic et al. 2018, arXiv 1711.02512, equation 3 (generalised mean).
    """

    def __init__(self, num_parts: int, kind: Pooling) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.kind: Pooling = kind
        self.power: nn.Parameter | None = None
        if kind in ("gem", "gem_each"):
            self.power = nn.Parameter(torch.tensor(3.0) if kind == "gem" else torch.full((num_parts, 1), 3.0))

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, h, w) -> (P, B, C)."""
        if self.power is None:
            return pool_stripes(feature_map, self.num_parts, "max" if self.kind == "max" else "avg")
        # With logarithms: a high power of a small value is zero in float32, and its gradient NaN. In bfloat16 they
        # would be off by some thousandths.
        stripes = _stripes_of(at_least_fp32(feature_map).clamp_min(EPSILON), self.num_parts)
        # (), or (P, 1, 1, 1) of all stripes.
        power = self.power if self.kind == "gem" else self.power[..., None, None]
        logarithms = (power * stripes.log()).logsumexp((2, 3)) - math.log(stripes.shape[2] * stripes.shape[3])
        return (logarithms / self.power).exp().transpose(0, 1)


def pool_stripes(feature_map: Tensor, num_parts: int, pooling: Literal["avg", "max"]) -> Tensor:
    """Pool P equal horizontal stripes of a feature map, top to bottom: (B, C, h, w) -> (P, B, C).

    Raises:
        ValueError: P does not divide h.
    """
    # Not adaptive pooling: on a GPU its backward pass has no deterministic algorithm.
    stripes = _stripes_of(feature_map, num_parts)
    return (stripes.mean((2, 3)) if pooling == "avg" else stripes.amax((2, 3))).transpose(0, 1)


def _stripes_of(feature_map: Tensor, num_parts: int) -> Tensor:
    """(B, C, h, w) -> (B, P, h / P, w, C), the order in which a channels-last map lies in memory."""
    if feature_map.shape[2] % num_parts:
        raise ValueError(f"{num_parts} parts do not divide a feature map of height {feature_map.shape[2]}")
    return feature_map.permute(0, 2, 3, 1).unflatten(1, (num_parts, -1))
