"""Distances of distributions against their definitions, written out, and against what is known of normal ones."""

import math

import numpy as np
import pytest
import scipy.linalg

from evaluate.core.generation import distances
from evaluate.core.generation.distances import (
    FeatureStatistics,
    diversity,
    frechet_distance,
    kernel_distance,
    kernel_mean,
    statistics_of,
)


def draw(seed: int, num: int, dim: int, shift: float = 0.0) -> np.ndarray:
    """Correlated features with a mean."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim) + shift).astype(np.float32)


def frechet_by_definition(real: np.ndarray, generated: np.ndarray) -> float:
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    one, other = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    root = np.real(np.asarray(scipy.linalg.sqrtm(one @ other)))
    return float(((real.mean(0) - generated.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root))


def kernel_by_loops(left: np.ndarray, right: np.ndarray, *, is_same: bool) -> float:
    values = [
        (math.fsum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3
        for i, x in enumerate(left)
        for j, y in enumerate(right)
        if not (is_same and i == j)
    ]
    return math.fsum(values) / len(values)


def kid_by_loops(real: np.ndarray, generated: np.ndarray) -> float:
    within = kernel_by_loops(real, real, is_same=True) + kernel_by_loops(generated, generated, is_same=True)
    return within - 2 * kernel_by_loops(real, generated, is_same=False)


def kid(real: np.ndarray, generated: np.ndarray) -> float:
    return kernel_distance(real, kernel_mean(real), generated)


def diversity_by_loops(features: np.ndarray) -> float:
    units = [x / np.linalg.norm(x) if np.linalg.norm(x) else x for x in features.astype(np.float64)]
    pairs = [((x - y) ** 2).sum() for i, x in enumerate(units) for y in units[:i]]
    return math.fsum(pairs) / len(pairs)


@pytest.mark.parametrize("rows", [8192, 64, 7])
@pytest.mark.parametrize(("num", "dim"), [(2, 3), (9, 20), (20, 20), (21, 20), (300, 8)])
def test_statistics_are_mean_and_covariance(num: int, dim: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "FACTOR_ROWS", rows)
    features = draw(0, num, dim, shift=50.0)
    mean, factor = statistics_of(features)
    assert len(factor) <= min(num, dim)
    np.testing.assert_allclose(mean, features.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(factor.T @ factor, np.cov(features.astype(np.float64), rowvar=False), atol=1e-10)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_frechet_distance_is_that_of_the_formula(shift: float) -> None:
    real, generated = draw(1, 400, 12), draw(2, 300, 12, shift)
    found = frechet_distance(statistics_of(real), statistics_of(generated))
    assert found == pytest.approx(frechet_by_definition(real, generated), rel=1e-6)
    assert found > 1.0


def test_frechet_distance_of_shifted_and_of_scaled_features() -> None:
    features = draw(3, 50, 6).astype(np.float64)
    real = statistics_of(features)
    shift = np.arange(6.0)
    assert frechet_distance(real, statistics_of(features + shift)) == pytest.approx((shift**2).sum())
    # Around the mean: (1 - 3)^2 times the variance.
    scaled = statistics_of(real.mean + 3 * (features - real.mean))
    assert frechet_distance(real, scaled) == pytest.approx(4 * np.trace(np.cov(features.T)))


def test_frechet_distance_of_independent_dimensions_is_that_of_their_deviations() -> None:
    real = FeatureStatistics(np.zeros(3), np.diag([1.0, 2.0, 0.0]))
    generated = FeatureStatistics(np.ones(3), np.diag([3.0, 0.0, 0.5]))
    assert frechet_distance(real, generated) == pytest.approx(3 + 2**2 + 2**2 + 0.5**2)


def test_frechet_distance_of_fewer_images_than_dimensions() -> None:
    # In orthogonal subspaces nothing is common; in one and the same, the dimensions beside it change nothing.
    low = draw(4, 10, 3).astype(np.float64)
    other = draw(5, 12, 3).astype(np.float64)
    first, second = np.zeros((10, 40)), np.zeros((12, 40))
    first[:, :3] = low - low.mean(0)
    second[:, 20:23] = other - other.mean(0)
    apart = frechet_distance(statistics_of(first), statistics_of(second))
    assert apart == pytest.approx(np.cov(low.T).trace() + np.cov(other.T).trace())
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40))).Q[:3]
    together = frechet_distance(statistics_of(low @ turn), statistics_of(other @ turn))
    assert together == pytest.approx(frechet_by_definition(low, other), rel=1e-6)


@pytest.mark.parametrize(("num", "dim"), [(400, 64), (30, 64)])
def test_equal_images_in_any_order_are_at_distance_zero(num: int, dim: int) -> None:
    features = 100 * draw(6, num, dim)
    real = statistics_of(features)
    assert 0.0 <= frechet_distance(real, real) < 1e-9 * np.trace(np.cov(features.T))
    again = statistics_of(np.random.default_rng(0).permutation(features))
    assert 0.0 <= frechet_distance(real, again) < 1e-9 * np.trace(np.cov(features.T))


@pytest.mark.parametrize("rows", [1, 4, 512])
def test_kernel_distance_is_that_of_double_loops(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "ROWS", rows)
    real, generated = draw(7, 11, 5), draw(8, 9, 5)
    assert kernel_mean(real) == pytest.approx(kernel_by_loops(real, real, is_same=True), rel=1e-9)
    assert kid(real, generated) == pytest.approx(kid_by_loops(real, generated), rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(9)
    found = [kid(rng.normal(size=(6, 3)), rng.normal(size=(8, 3))) for _ in range(2000)]
    # A biased estimate would be above zero by the mean difference of the diagonal, which is about 1.
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(2000) < 0.3
    assert min(found) < 0


@pytest.mark.parametrize("features", [draw(10, 15, 4), np.eye(4), np.array([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]])])
def test_diversity_is_the_mean_over_all_pairs(features: np.ndarray) -> None:
    assert diversity(features) == pytest.approx(diversity_by_loops(features), rel=1e-9)
    assert diversity(features * 7.0) == pytest.approx(diversity(features), rel=1e-9)


def test_diversity_of_equal_images_is_zero_and_of_opposite_ones_the_largest() -> None:
    assert diversity(np.full((7, 3), 0.1)) == 0.0
    assert diversity(np.zeros((3, 2))) == 0.0
    assert diversity(np.array([[2.0, 0.0], [-1.0, 0.0]])) == pytest.approx(4.0)


def test_the_order_of_images_changes_nothing() -> None:
    real, generated = draw(11, 20, 4), draw(12, 16, 4)
    shuffled = [np.random.default_rng(0).permutation(part) for part in (real, generated)]
    assert kid(*shuffled) == pytest.approx(kid(real, generated), rel=1e-9)
    assert diversity(shuffled[0]) == pytest.approx(diversity(real), rel=1e-9)
