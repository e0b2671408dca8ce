"""Exact search: each query is compared with every row.

A float32 product finds the candidates; their distances are computed in float64, so that the order does not depend on
the blocks of the product. Whatever the number of rows, a search takes 16 MiB for scores, as much for copies of the rows
that filters leave, and the results.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SCORES = 2**22
"""Products of a query and a row in a block."""
QUERIES = 64
"""Queries in a block."""
COPIED = 2**24
"""Bytes of rows that are copied at a time, if filters leave few."""
COPY_SHARE = 0.25
"""If filters leave a smaller share of a block, its rows are copied and multiplied; otherwise all are multiplied, and
some products ignored."""
LENGTH_TOLERANCE = 1e-5
"""Largest difference of a vector's length from 1."""


class Found(NamedTuple):
    """Of one query: rows (M,) int64 and distances (M,) float64, nearest first, of equal distances the lower row."""

    rows: np.ndarray
    distances: np.ndarray


def search_exactly(vectors: np.ndarray, wanted: np.ndarray | None, queries: np.ndarray, k: int) -> list[Found]:
    """The k nearest rows of each query by cosine distance.

    Args:
        vectors: (N, D) float32 of unit length.
        wanted: (N,) bool, the rows to search; None = all.
        queries: (Q, D) float32 of unit length.
        k: number of rows, if there are as many.

    Returns:
        Q results.
    """
    found = []
    for first in range(0, len(queries), QUERIES):
        together = queries[first : first + QUERIES]
        nearest = [_Nearest(query, k) for query in together]
        for rows, scores in _scores(vectors, wanted, together):
            for one, its_scores in zip(nearest, scores, strict=True):
                one.update(vectors, rows, its_scores)
        found += [one.found for one in nearest]
    return found


def nearest_of(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray, k: int) -> Found:
    """The k nearest of some rows (M,), ascending or not, without repetitions."""
    nearest = _Nearest(query, k)
    nearest.merge(vectors, rows)
    return nearest.found


class _Nearest:
    """The k nearest rows of one query so far."""

    def __init__(self, query: np.ndarray, k: int) -> None:
        self._query, self._k = query.astype(np.float64), k
        self._uncertainty = _uncertainty(len(query))
        self.found = Found(np.empty(0, np.int64), np.empty(0))

    def update(self, vectors: np.ndarray, rows: np.ndarray | slice, scores: np.ndarray) -> None:
        """Merge more rows, whose approximate scores are known."""
        least = -np.inf
        if len(self.found.rows) == self._k:
            least = 1 - self.found.distances[-1] - self._uncertainty
        candidates = np.flatnonzero(scores >= least)
        if len(candidates) > self._k:
            # The k nearest rows score no lower than the k-th best score, up to its uncertainty.
            in_order = np.partition(scores[candidates], -self._k)
            candidates = candidates[scores[candidates] >= in_order[-self._k] - 2 * self._uncertainty]
        if len(candidates):
            self.merge(vectors, rows.start + candidates if isinstance(rows, slice) else rows[candidates])

    def merge(self, vectors: np.ndarray, rows: np.ndarray) -> None:
        """Merge more rows by their exact distances."""
        block = max(1, COPIED // (16 * vectors.shape[1]))
        for first in range(0, len(rows), block):
            some = rows[first : first + block]
            both = np.concatenate([self.found.rows, some])
            distances = np.concatenate([self.found.distances, _distances(vectors[some], self._query)])
            order = np.lexsort((both, distances))[: self._k]
            self.found = Found(both[order], distances[order])


def _distances(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """(M, D) float32 and (D,) float64 -> (M,) float64, half the squared difference.

    For vectors of unit length this is 1 - cosine, but exactly 0 between equal ones, and precise between near ones.
    """
    difference = vectors.astype(np.float64)
    difference -= query
    difference *= difference
    return difference.sum(axis=1) / 2


def _uncertainty(dim: int) -> float:
    """Largest difference of a float32 product from 1 - `_distances`.

    Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: a sum of n products is off by
    at most n times the unit roundoff, relative to the sum of their magnitudes, in whatever order it is computed.
    """
    roundoff = float(np.finfo(np.float32).eps) / 2
    return 1.01 * dim * roundoff + 2.1 * LENGTH_TOLERANCE


def _scores(
    vectors: np.ndarray, wanted: np.ndarray | None, queries: np.ndarray
) -> Iterator[tuple[np.ndarray | slice, np.ndarray]]:
    """Block by block, rows and their products with the queries (Q, number of rows)."""
    block = SCORES // len(queries)
    for start in range(0, len(vectors), block):
        stop = min(start + block, len(vectors))
        if wanted is None:
            yield slice(start, stop), queries @ vectors[start:stop].T
            continue
        rows = start + np.flatnonzero(wanted[start:stop])
        if len(rows) >= COPY_SHARE * (stop - start):
            yield rows, (queries @ vectors[start:stop].T)[:, rows - start]
            continue
        num_copied = max(1, COPIED // vectors[:1].nbytes)
        for first in range(0, len(rows), num_copied):
            some = rows[first : first + num_copied]
            yield some, queries @ vectors[some].T
