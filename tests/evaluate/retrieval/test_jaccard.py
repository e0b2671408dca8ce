"""Sparse Jaccard distances against the definition worked through image by image."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from evaluate.core.retrieval.jaccard import sparse_jaccard
from evaluate.core.retrieval.neighbours import nearest_neighbours
from tests.evaluate.k_reciprocal_reference import (
    exact_vectors,
    random_features,
    reference_distances,
    reference_jaccard,
    reference_weights,
)
from utils.errors import DataError

ROUNDING = 1e-5


def reference(features, k1, k2):
    """(N, N) float64: the matrix of all distances; the weights are exp(-squared Euclidean distance)."""
    distance = reference_distances(features, "euclidean")
    weights = reference_weights(distance, np.argsort(distance, axis=1, kind="stable"), k1, k2, besides=0)
    return reference_jaccard(weights, weights)


def clustered(number, seed=3, num_clusters=25, spread=0.3):
    """(N, 16) of unit length; clusters of several sizes and densities, some of which overlap."""
    rng = torch.Generator().manual_seed(seed)
    owner = (torch.rand(number, generator=rng).square() * num_clusters).long()
    noise = spread * (0.5 + torch.rand(num_clusters, generator=rng))[owner, None]
    rows = random_features(num_clusters, seed + 1, dim=16)[owner] + noise * random_features(number, seed + 2, dim=16)
    return torch.nn.functional.normalize(rows)


def assert_is(found, expected, max_distance):
    """The sparse matrix has what the dense one has up to the maximum, nearest first, and the diagonal."""
    assert (found.dtype, found.indices.dtype, found.shape) == (np.float32, np.int32, expected.shape)
    rows = np.repeat(np.arange(len(expected)), np.diff(found.indptr))
    stored = np.zeros(expected.shape, dtype=int)
    np.add.at(stored, (rows, found.indices), 1)
    assert stored.max() <= 1
    off_diagonal = ~np.eye(len(expected), dtype=bool)
    assert stored[~off_diagonal].all()
    assert (found.diagonal() == 0).all()
    assert not (stored.astype(bool) & off_diagonal & (expected > max_distance + ROUNDING)).any()
    assert stored[off_diagonal & (expected < max_distance - ROUNDING)].all()
    is_pair = rows != found.indices
    values = expected[rows[is_pair], found.indices[is_pair]]
    np.testing.assert_allclose(found.data[is_pair], values, rtol=0, atol=ROUNDING)
    assert (found.data >= 0).all()
    assert (found.data <= np.float32(max_distance)).all()
    steps = np.diff(found.data)[np.diff(rows) == 0]
    assert (steps >= 0).all()


def same(one, other):
    """Whether two sparse matrices store the same entries in the same order."""
    parts = ((one.indptr, other.indptr), (one.indices, other.indices), (one.data, other.data))
    return all(np.array_equal(*pair) for pair in parts)


@pytest.mark.parametrize(
    ("k1", "k2", "max_distance"), [(30, 6, 0.6), (20, 1, 0.6), (7, 7, 0.9), (3, 2, 0.0), (1, 1, 0.5)]
)
def test_agrees_with_the_definition(k1, k2, max_distance):
    features = clustered(300)
    expected = reference(features, k1, k2)
    found = sparse_jaccard(features, k1, k2, max_distance)
    assert_is(found, expected, max_distance)
    transposed = found.T.tocsr()
    assert (found.toarray() == transposed.toarray()).all()
    assert found.nnz == transposed.nnz
    if max_distance > 0 and k1 > 1:
        assert len(features) * 1.5 < found.nnz < len(features) ** 2 / 2


@given(data=st.data(), k1=st.integers(1, 12), memory=st.sampled_from([1, 5000, 2**30]))
def test_agrees_with_the_definition_where_distances_tie(data, k1, memory):
    vectors = exact_vectors()["cosine"]
    rows = data.draw(st.lists(st.sampled_from(vectors), min_size=1, max_size=30))
    features = torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32))
    k2 = data.draw(st.integers(1, k1))
    assert_is(sparse_jaccard(features, k1, k2, 0.99, memory=memory), reference(features, k1, k2), 0.99)


def test_the_size_of_blocks_changes_nothing():
    features = clustered(300)
    whole = sparse_jaccard(features)
    for memory in (20_000, 500_000, 20_000_000):
        assert same(sparse_jaccard(features, memory=memory), whole)


def test_neighbours_found_elsewhere_are_used():
    features = clustered(200)
    order = nearest_neighbours(features, 12).order
    found, expected = sparse_jaccard(features, 10, 2, order=order), sparse_jaccard(features, 10, 2)
    assert same(found, expected)
    worse = order.roll(1, dims=0)
    assert not same(sparse_jaccard(features, 10, 2, order=worse), expected)


@pytest.mark.parametrize("eps", [0.3, 0.5, 0.6])
def test_dbscan_finds_the_clusters_of_the_dense_matrix(eps):
    features = clustered(400, num_clusters=20, spread=0.35)
    dense = reference(features, 20, 6).astype(np.float32)
    np.fill_diagonal(dense, 0)
    sparse = sparse_jaccard(features, 20, 6, max_distance=0.6)
    expected, found = (DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit(each) for each in (dense, sparse))
    assert len(set(expected.labels_)) > 5
    assert (expected.labels_ < 0).any()
    assert (found.labels_ == expected.labels_).all()
    assert (found.core_sample_indices_ == expected.core_sample_indices_).all()


def test_numbers_out_of_range_are_refused():
    features = clustered(20)
    for wrong in ({"k1": 0}, {"k2": 0}, {"k1": 3, "k2": 4}, {"max_distance": 1.0}, {"max_distance": -0.1}):
        with pytest.raises(ValueError, match="expected, got"):
            sparse_jaccard(features, **{"k1": 10, "k2": 4, **wrong})
    with pytest.raises(ValueError, match="10 neighbours of each of 20 images"):
        sparse_jaccard(features, 10, order=nearest_neighbours(features, 9).order)
    for wrong in (features * 2, features * torch.nan, torch.zeros(3, 2)):
        with pytest.raises(ValueError, match="unit length"):
            sparse_jaccard(wrong)


def test_more_neighbours_than_can_be_listed_are_refused(monkeypatch):
    monkeypatch.setattr("evaluate.core.retrieval.encodings.NUM_LISTED", 100)
    sparse_jaccard(clustered(20), 5, 2)
    with pytest.raises(DataError, match=r"k1: 6 neighbours of each of 20 images .* at most 5 are possible; lower k1"):
        sparse_jaccard(clustered(20), 6, 2)
