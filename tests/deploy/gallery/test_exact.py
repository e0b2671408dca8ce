"""Exact search returns what a plain loop returns, in the same order."""

import math

import numpy as np
import pytest

from deploy.gallery import exact
from deploy.gallery.exact import nearest_of, search_exactly
from tests.deploy.gallery.conftest import unit


def plain(vectors: np.ndarray, wanted: np.ndarray | None, query: np.ndarray, k: int) -> list[tuple[float, int]]:
    """Distances by exact sums, sorted with the row."""
    pairs = []
    for row, vector in enumerate(vectors.astype(float).tolist()):
        if wanted is None or wanted[row]:
            squares = ((a - b) ** 2 for a, b in zip(vector, query.astype(float).tolist(), strict=True))
            pairs.append((math.fsum(squares) / 2, row))
    return sorted(pairs)[:k]


@pytest.fixture(params=["one block", "many blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many blocks":
        monkeypatch.setattr(exact, "SCORES", 90)
        monkeypatch.setattr(exact, "QUERIES", 2)
        monkeypatch.setattr(exact, "COPIED", 16 * 16 * 3)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("share", [None, 0.0, 0.05, 0.6])
@pytest.mark.parametrize("k", [1, 7, 400])
def test_the_results_are_those_of_a_plain_loop(rng: np.random.Generator, share: float | None, k: int) -> None:
    vectors, queries = np.split(unit(rng, 303, 16, clusters=8), [300])
    vectors[200:220] = vectors[10]  # ties, in other blocks
    queries[0] = vectors[10]
    wanted = None if share is None else rng.random(300) < share
    for found, query in zip(search_exactly(vectors, wanted, queries, k), queries, strict=True):
        expected = plain(vectors, wanted, query, k)
        assert found.rows.tolist() == [row for _, row in expected]
        np.testing.assert_allclose(found.distances, [distance for distance, _ in expected], atol=1e-14)


@pytest.mark.usefixtures("_blocks")
def test_neighbours_too_near_for_float32_products_are_in_order(rng: np.random.Generator) -> None:
    query = unit(rng, 1, 64)
    vectors = np.repeat(query, 300, axis=0)
    vectors += (rng.integers(-40, 41, size=vectors.shape) * 6e-8).astype(np.float32)
    expected = [row for _, row in plain(vectors, None, query[0], 10)]
    assert np.argsort(-(vectors @ query[0]))[:10].tolist() != expected  # the order of a product alone
    assert search_exactly(vectors, None, query, 10)[0].rows.tolist() == expected


def test_equal_vectors_are_at_distance_zero(rng: np.random.Generator) -> None:
    vectors = unit(rng, 5)
    assert [found.distances.tolist() for found in search_exactly(vectors, None, vectors, 1)] == [[0.0]] * 5


def test_there_may_be_no_rows_or_no_queries(rng: np.random.Generator) -> None:
    assert search_exactly(unit(rng, 0), None, unit(rng, 1), 5)[0].rows.tolist() == []
    assert search_exactly(unit(rng, 5), None, unit(rng, 0), 5) == []


def test_the_nearest_of_some_rows(rng: np.random.Generator) -> None:
    vectors = unit(rng, 50)
    rows = np.array([40, 3, 17, 9])
    expected = [row for _, row in plain(vectors, np.isin(np.arange(50), rows), vectors[0], 3)]
    assert nearest_of(vectors, rows, vectors[0], 3).rows.tolist() == expected
