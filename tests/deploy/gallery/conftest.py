"""Embeddings that need no network."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.gallery.gallery import Gallery, Item

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


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery(tmp_path / "index", DIM, "model") as gallery:
        yield gallery
