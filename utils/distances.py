"""Distances between embeddings."""

from torch import Tensor


def squared_euclidean(left: Tensor, right: Tensor) -> Tensor:
    """Squared Euclidean distances, (..., M, D) and (..., N, D) -> (..., M, N), never negative.

    By the binomial formula: one matrix product instead of an (M, N, D) difference. Leading dimensions are batched.
    """
    norms = left.square().sum(-1)[..., :, None] + right.square().sum(-1)[..., None, :]
    return (norms - 2 * left @ right.transpose(-1, -2)).clamp_min(0)


def euclidean(left: Tensor, right: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Euclidean distances, shapes as `squared_euclidean`; the gradient at distance zero is finite."""
    return squared_euclidean(left, right).clamp_min(epsilon).sqrt()
