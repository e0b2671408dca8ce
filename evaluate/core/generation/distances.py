"""How far the distribution of generated images is from that of real ones, and how much images differ among themselves.

Images are given as finite features (N, D), at least two; `quality.as_features` checks them. All is computed in float64.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
import torch

ROWS = 512
"""Rows of a matrix of all pairs in memory at once."""
FACTOR_ROWS = 8192
"""Features added to a factor of the covariance at once; many more than D, as D rows are worked through again."""


class FeatureStatistics(NamedTuple):
    """What the Fréchet distance needs to know of N images."""

    mean: np.ndarray
    """(D,) float64."""
    factor: np.ndarray
    """(R, D) float64, R the smaller of N and D: a matrix F with F^T F = the covariance (divisor N - 1).

    Factorising the covariance itself would lose half the digits of its small eigenvalues.
    """


def statistics_of(features: np.ndarray) -> FeatureStatistics:
    """Mean and covariance of features (N, D)."""
    features = features.astype(np.float64, copy=False)
    mean = features.mean(axis=0)
    factor = np.empty((0, features.shape[1]))
    for start in range(0, len(features), FACTOR_ROWS):
        factor = np.concatenate([factor, features[start : start + FACTOR_ROWS] - mean])
        if len(factor) > features.shape[1]:
            # Orthogonal columns drop out of F^T F. torch's decomposition takes a quarter of the time of NumPy's.
            factor = torch.linalg.qr(torch.from_numpy(factor), mode="r").R.numpy()
    return FeatureStatistics(mean, factor / sqrt(len(features) - 1))


def frechet_distance(real: FeatureStatistics, generated: FeatureStatistics) -> float:
    """FID: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the distance of two normal distributions; 0 at best.

    With C = F^T F, the trace of (C1 C2)^(1/2) is the sum of the singular values of F1 F2^T: no square root of a matrix
    is taken, so that fewer images than dimensions do no harm. The distance grows as images get fewer, on either side:
    compare only figures from equal numbers.

    Source: Heusel et al. 2017, arXiv 1706.08500, equation 6; Dowson and Landau 1982.
    """
    common = np.linalg.svd(real.factor @ generated.factor.T, compute_uv=False).sum()
    spreads = np.square(real.factor).sum() + np.square(generated.factor).sum()
    # Of equal statistics, rounding can make this slightly negative.
    return max(0.0, float(np.square(real.mean - generated.mean).sum() + spreads - 2.0 * common))


def kernel_distance(real: np.ndarray, real_mean: float, generated: np.ndarray) -> float:
    """KID: the unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3.

    Over all images instead of random subsets: exact, without a seed. Its expectation does not depend on the number of
    images and is 0 for equal distributions, so that a single figure can be slightly negative.

    Args:
        real, generated: (N, D) and (M, D).
        real_mean: `kernel_mean(real)`.

    Source: Bińkowski et al. 2018, arXiv 1801.01401, section 4; Gretton et al. 2012, equation 3.
    """
    real, generated = real.astype(np.float64, copy=False), generated.astype(np.float64, copy=False)
    blocks = (_kernel(generated[start : start + ROWS], real) for start in range(0, len(generated), ROWS))
    across = sum(float(block.sum()) for block in blocks)
    return real_mean + kernel_mean(generated) - 2.0 * across / (len(real) * len(generated))


def kernel_mean(features: np.ndarray) -> float:
    """The mean of the kernel of `kernel_distance` over all pairs of two different images; features (N, D)."""
    features = features.astype(np.float64, copy=False)
    # Above the diagonal only: the kernel is symmetric.
    total = sum(
        float(np.triu(_kernel(features[start : start + ROWS], features[start:]), k=1).sum())
        for start in range(0, len(features), ROWS)
    )
    return total / (len(features) * (len(features) - 1) / 2)


def diversity(features: np.ndarray) -> float:
    """How much images differ: the mean over all pairs of the squared Euclidean distance of their unit-length features.

    It is 2 - 2 times the mean cosine: 0 for images that are all the same, 2 for orthogonal ones. As twice the variance
    around the mean it needs no pairs. A vector of length zero stays zero, at a squared distance of 1 from all others.
    """
    features = features.astype(np.float64, copy=False)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    units = features / np.where(lengths > 0.0, lengths, 1.0)
    # Relative to the first, so that equal images give exactly zero.
    offsets = units - units[0]
    return float(2.0 * np.square(offsets - offsets.mean(axis=0)).sum() / (len(units) - 1))


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The polynomial kernel of (M, D) and (N, D): (M, N)."""
    base = left @ right.T
    base /= left.shape[1]
    base += 1.0
    # NumPy's power takes twenty times as long as two products.
    return base * base * base
