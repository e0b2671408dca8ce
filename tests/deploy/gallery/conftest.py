"""Embeddings that need no network, and the search by a plain loop."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from deploy.gallery.gallery import Gallery, Item, Match

DIM = 8


def unit(rng: np.random.Generator, number: int, dim: int = DIM, clusters: int = 0) -> np.ndarray:
    """Random directions, (N, D) float32, in clusters if wanted."""
    rows = rng.normal(size=(number, dim))
    if clusters:
        rows = unit(rng, clusters, dim)[rng.integers(clusters, size=number)] + 0.1 * rows
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def named(number: int, first: int = 0) -> list[Item]:
    """Items with cameras 1 to 3 and rising times."""
    return [Item(f"{place}.jpg", 1 + place % 3, 100.0 + place) for place in range(first, first + number)]


def ids(gallery: Gallery) -> dict[str, int]:
    """The id of each name."""
    return {item.name: id_ for id_, item in gallery.items().items()}


def distances(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """1 - cosine in double precision, (N,)."""
    return ((vectors.astype(np.float64) - query) ** 2).sum(axis=1) / 2


def check_matches(matches: Sequence[Match], vectors: dict[int, np.ndarray], query: np.ndarray, k: int) -> None:
    """Assert that these are the k nearest of the vectors by id, in order, up to the rounding of float32."""
    expected = np.sort(distances(np.array([*vectors.values()]).reshape(-1, len(query)), query))[:k]
    assert [match.distance for match in matches] == pytest.approx(expected, abs=1e-6)
    assert len({match.id for match in matches}) == len(matches)
    for match in matches:
        assert match.distance == pytest.approx(distances(vectors[match.id][None], query)[0], abs=1e-6)
    assert sorted(matches, key=lambda match: (match.distance, match.id)) == list(matches)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery(tmp_path / "index", DIM, "model") as gallery:
        yield gallery
