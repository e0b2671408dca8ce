"""Embeddings to put into galleries."""

import numpy as np
import pytest

from deploy.gallery.gallery import Item


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def make_vectors(rng: np.random.Generator):
    """(N, D) float32 of unit length, in clusters."""

    def make(number: int, dim: int = 16) -> np.ndarray:
        centres = rng.standard_normal((8, dim))
        vectors = centres[rng.integers(8, size=number)] + 0.5 * rng.standard_normal((number, dim))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    return make


@pytest.fixture
def make_items():
    """Items of three cameras, one per second."""

    def make(number: int, first: int = 0) -> list[Item]:
        return [Item(f"{row}.png", row % 3 + 1, 1000.0 + row) for row in range(first, first + number)]

    return make
