"""Embeddings that need no network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.gallery.gallery import Gallery, Item

DIM = 8


def unit(rng: np.random.Generator, number: int, dim: int = DIM) -> np.ndarray:
    """Random directions, (N, D) float32."""
    rows = rng.normal(size=(number, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def named(number: int, first: int = 0) -> list[Item]:
    """Items with cameras 1 to 3 and rising times."""
    return [Item(f"{place}.jpg", 1 + place % 3, 100.0 + place) for place in range(first, first + number)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery(tmp_path / "index", DIM, "model") as gallery:
        yield gallery


@pytest.fixture
def make_vectors(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """(N, D) float32 of unit length, in clusters."""

    def make(number: int, dim: int = 16) -> np.ndarray:
        centres = rng.standard_normal((8, dim))
        rows = centres[rng.integers(8, size=number)] + 0.5 * rng.standard_normal((number, dim))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return make
