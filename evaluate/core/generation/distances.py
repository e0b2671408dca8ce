"""How far the distribution of generated images is from that of real ones, and how much images differ among themselves.

Images are given as features (N, D), computed with in float64. Where one of two sets is measured again and again, what
is known of it alone can be handed over, so that it is computed once.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
import torch

ROWS = 512
"""Rows of a matrix of all pairs in hand at once."""
FACTOR_ROWS = 8192
"""Features added to a factor of the covariance at once; many more than D, as D rows are worked through again."""


class FeatureStatistics(NamedTuple):
    """What the Fréchet distance knows of N images."""

    mean: np.ndarray
    """(D,) float64."""
    factor: np.ndarray
    """(R, D) float64, R the smaller of N and D: a matrix F with F^T F = the covariance.

    The covariance itself would have to be taken apart again, which loses half the digits of its small eigenvalues.
    """

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), with the divisor N - 1."""
        return self.factor.T @ self.factor


def statistics_of(features: np.ndarray) -> FeatureStatistics:
    """Mean and covariance of the features (N, D) of at least two images.

    Raises:
        ValueError: of another shape, too few, or not finite.
    """
    features = as_features(features, "features", least=2)
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

    Raises:
        ValueError: the features have different sizes.

    Source: Heusel et al. 2017, arXiv 1706.08500, equation 6; Dowson and Landau 1982.
    """
    if real.mean.shape != generated.mean.shape:
        raise ValueError(f"features of {real.mean.shape} and {generated.mean.shape} numbers cannot be compared")
    common = np.linalg.svd(real.factor @ generated.factor.T, compute_uv=False).sum()
    spreads = np.square(real.factor).sum() + np.square(generated.factor).sum()
    # Rounding can leave a little less than nothing of equal statistics.
    return max(0.0, float(np.square(real.mean - generated.mean).sum() + spreads - 2.0 * common))


def kernel_distance(real: np.ndarray, generated: np.ndarray, rows: int = ROWS, real_mean: float | None = None) -> float:
    """KID: the unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3.

    Over all images, no random subsets of them: it is exact and needs no seed. Its mean over repeated draws does not
    depend on how many images there are, and where the distributions are the same that is 0, so that a single figure
    can be a little below.

    Args:
        real, generated: (N, D) and (M, D), at least two each.
        rows: how many rows of the matrix of all pairs are in hand at once.
        real_mean: `kernel_mean(real)`, if it is known.

    Raises:
        ValueError: shapes do not fit, too few, or not finite.

    Source: Bińkowski et al. 2018, arXiv 1801.01401, section 4; Gretton et al. 2012, equation 3.
    """
    real, generated = as_pair(real, generated, ("real", "generated"), least=2)
    blocks = (_kernel(generated[start : start + rows], real) for start in block_starts(len(generated), rows))
    across = sum(float(block.sum()) for block in blocks)
    within = kernel_mean(real, rows) if real_mean is None else real_mean
    return within + kernel_mean(generated, rows) - 2.0 * across / (len(real) * len(generated))


def kernel_mean(features: np.ndarray, rows: int = ROWS) -> float:
    """The mean of the kernel of `kernel_distance` over all pairs of two different images; features (N, D), N >= 2.

    Raises:
        ValueError: of another shape, too few, or not finite.
    """
    features = as_features(features, "features", least=2)
    # Above the diagonal only: the kernel is symmetric.
    total = sum(
        float(np.triu(_kernel(features[start : start + rows], features[start:]), k=1).sum())
        for start in block_starts(len(features), rows)
    )
    return total / (len(features) * (len(features) - 1) / 2)


def diversity(features: np.ndarray) -> float:
    """How much images differ: the mean over all pairs of the squared Euclidean distance of their unit-length features.

    It is 2 - 2 times the mean cosine: 0 for images that are all the same, 2 for directions that have nothing in common.
    The squared distance because its mean takes no pairs: it is twice the variance around the mean. A vector of length
    zero has no direction; it stays zero, at a squared distance of 1 from all that have one.

    Args:
        features: (N, D) of at least two images.

    Raises:
        ValueError: of another shape, too few, or not finite.
    """
    features = as_features(features, "features", least=2)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    units = features / np.where(lengths > 0.0, lengths, 1.0)
    # Seen from the first, so that images that are all the same are exactly nothing apart.
    offsets = units - units[0]
    return float(2.0 * np.square(offsets - offsets.mean(axis=0)).sum() / (len(units) - 1))


def as_features(features: np.ndarray, name: str, least: int) -> np.ndarray:
    """Features as they are computed with, (N, D) float64; those that are so already are not copied.

    Raises:
        ValueError: of another shape, fewer than `least`, or not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{name}: features of shape (N, D) expected, got {features.shape}")
    if len(features) < least:
        raise ValueError(f"{name}: {len(features)} images are too few; at least {least} are needed")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(f"{name}: {len(bad)} of {len(features)} rows hold NaN or infinity, the first: {bad[0]}")
    return features


def as_pair(first: np.ndarray, second: np.ndarray, names: tuple[str, str], least: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features of one size, otherwise as `as_features`."""
    first, second = as_features(first, names[0], least), as_features(second, names[1], least)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{names[0]} {first.shape} and {names[1]} {second.shape}: features of different sizes")
    return first, second


def block_starts(count: int, rows: int) -> range:
    """Where blocks of that many rows begin.

    Raises:
        ValueError: of less than one row.
    """
    if rows < 1:
        raise ValueError(f"rows: expected to be positive, got {rows}")
    return range(0, count, rows)


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The polynomial kernel of (M, D) and (N, D): (M, N)."""
    base = left @ right.T
    base /= left.shape[1]
    base += 1.0
    # NumPy's power takes twenty times as long as two products.
    return base * base * base
