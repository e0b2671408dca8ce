"""k-reciprocal re-ranking against the definition worked through image by image, with sets and dense matrices."""

import math
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from evaluate.core.retrieval import k_reciprocal
from evaluate.core.retrieval.distances import FeatureDistances
from evaluate.core.retrieval.k_reciprocal import KReciprocalDistances, neighbours
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import rank
from tests.evaluate.matrix import MatrixDistances
from utils.errors import DataError


def reference_distances(features, metric):
    """(N, N) float64: squared length of the difference, for cosine of that of the unit vectors."""
    features = features.double().numpy()
    if metric == "cosine":
        features = features / np.sqrt((features**2).sum(axis=1, keepdims=True))
    return np.array([((features - one) ** 2).sum(axis=1) for one in features])


def reference(query, gallery, metric, k1, k2, lambda_value):
    """(Q, G) float64, step by step as the paper has it."""
    distance = reference_distances(torch.cat((query, gallery)), metric)
    number, num_query = len(distance), len(query)
    farthest = distance.max(axis=1, keepdims=True)
    distance = distance / np.where(farthest > 0, farthest, 1)
    order = np.argsort(distance, axis=1, kind="stable")
    nearest = {k: [set(row[: k + 1].tolist()) for row in order] for k in (k1, round(k1 / 2))}

    def reciprocal(i, k):
        return {j for j in nearest[k][i] if i in nearest[k][j]}

    weights = np.zeros((number, number))
    for i in range(number):
        plain = reciprocal(i, k1)
        whole = set(plain)
        for candidate in plain:
            theirs = reciprocal(candidate, round(k1 / 2))
            if theirs and Fraction(len(theirs & plain), len(theirs)) > Fraction(2, 3):
                whole |= theirs
        for j in whole:
            weights[i, j] = math.exp(-distance[i, j])
        weights[i] /= weights[i].sum() or 1
    weights = np.array([weights[row[:k2]].mean(axis=0) for row in order])

    jaccard = np.empty((num_query, number - num_query))
    for i in range(num_query):
        mine = weights[i].nonzero()[0]  # elsewhere the smaller of the two weights is 0
        shared = np.minimum(weights[i, mine], weights[num_query:, mine]).sum(axis=1)
        jaccard[i] = 1 - shared / (2 - shared)
    return (1 - lambda_value) * jaccard + lambda_value * distance[:num_query, num_query:]


def all_rows(distances, size=None):
    """(Q, G), asked for `size` rows at a time."""
    num_query = distances.shape[0]
    size = size or num_query
    return torch.cat(
        [distances.rows(start, min(start + size, num_query)).clone() for start in range(0, num_query, size)]
    )


def random_features(number, seed, dim=8):
    return torch.randn(number, dim, generator=torch.Generator().manual_seed(seed))


def exact_vectors():
    """Whole numbers of whole length, and for cosine only such whose inner products at length 1 are halves."""
    corners = list(product([-1, 1], repeat=4))
    axes = [(1, 0, 0, 0), (0, -8, 0, 0), (0, 0, 1, 0), (0, 0, 0, 8), (-1, 0, 0, 0)]
    others = [vector for one in ((0, 1, 2, 2), (0, 1, -2, 2), (0, 0, 3, 4)) for vector in permutations(one)]
    return {"cosine": corners + axes, "euclidean": corners + axes + others}


@st.composite
def problems(draw):
    """Embeddings whose distances float32 holds exactly, so that they tie here where they tie in the reference."""
    metric = draw(st.sampled_from(["euclidean", "cosine"]))
    num_query, num_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 24))
    number = num_query + num_gallery
    rows = draw(st.lists(st.sampled_from(exact_vectors()[metric]), min_size=number, max_size=number))
    features = torch.tensor(rows, dtype=torch.float32)
    k1 = draw(st.integers(1, 10))
    k2 = draw(st.integers(1, k1 + 1))
    return features[:num_query], features[num_query:], metric, k1, k2, draw(st.sampled_from([0.0, 0.3, 1.0]))


@given(problem=problems(), memory=st.sampled_from([1, 5000, 2**30]), size=st.sampled_from([None, 1, 2]))
def test_agrees_with_the_definition_where_distances_tie(problem, memory, size):
    found = all_rows(KReciprocalDistances(*problem, memory=memory), size)
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    np.testing.assert_allclose(found.numpy(), reference(*problem), rtol=0, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (1, 1, 0.3), (5, 1, 0.0), (7, 8, 1.0)])
def test_agrees_with_the_definition_on_vectors_of_any_length(metric, k1, k2, lambda_value):
    features = random_features(130, seed=1) * torch.linspace(0.5, 3, 130)[:, None]
    problem = features[:30], features[30:], metric, k1, k2, lambda_value
    np.testing.assert_allclose(all_rows(KReciprocalDistances(*problem)).numpy(), reference(*problem), rtol=0, atol=1e-5)


def test_hand_computed_distances():
    # On a line: the query at 0 and the first gallery image at 1 have each other; those at 3 and 10 have nobody.
    distances = KReciprocalDistances(
        torch.tensor([[0.0]]), torch.tensor([[1.0], [3.0], [10.0]]), "euclidean", k1=1, k2=1, lambda_value=0.3
    )
    of_query = 1 / (1 + math.exp(-1 / 100))  # its weight on itself; the rest is on the first gallery image
    of_image = 1 / (1 + math.exp(-1 / 81))
    shared = min(of_query, 1 - of_image) + min(1 - of_query, of_image)
    expected = [0.7 * (1 - shared / (2 - shared)) + 0.3 / 100, 0.7 + 0.3 * 9 / 100, 0.7 + 0.3]
    assert distances.rows(0, 1)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_mean_average_precision_is_that_of_the_definition():
    rng = torch.Generator().manual_seed(5)
    num_query, number = 300, 3000
    pids = torch.randint(1, 200, (number,), generator=rng)
    camids = torch.randint(1, 7, (number,), generator=rng)
    persons, cameras = random_features(200, seed=6, dim=64), random_features(7, seed=7, dim=64)
    features = persons[pids] + 0.7 * cameras[camids] + 1.1 * random_features(number, seed=8, dim=64)
    query, gallery = features[:num_query], features[num_query:]
    truth = GroundTruth(pids[:num_query], camids[:num_query], pids[num_query:], camids[num_query:])

    found = rank(KReciprocalDistances(query, gallery, "cosine"), truth).mean_ap
    expected = rank(MatrixDistances(torch.from_numpy(reference(query, gallery, "cosine", 20, 6, 0.3))), truth).mean_ap
    before = rank(FeatureDistances(query, gallery, "cosine"), truth).mean_ap
    assert found == pytest.approx(expected, abs=1e-4)
    assert before + 0.05 < found < 0.95


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_size_of_tiles_and_blocks_changes_nothing(metric, monkeypatch):
    problem = random_features(40, seed=2), random_features(260, seed=3), metric
    whole = all_rows(KReciprocalDistances(*problem))
    monkeypatch.setattr(k_reciprocal, "PAIR_BYTES", 1000)
    for memory, size in ((1000, 7), (20_000, 1), (200_000, 39)):
        parts = all_rows(KReciprocalDistances(*problem, memory=memory), size)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_no_tile_takes_more_memory_than_allowed(monkeypatch):
    shapes = []

    class Recorded(FeatureDistances):
        def rows(self, start, stop):
            shapes.append((stop - start, self.shape[1]))
            return super().rows(start, stop)

    monkeypatch.setattr(k_reciprocal, "FeatureDistances", Recorded)
    neighbours(random_features(300, seed=4), "cosine", 21, memory=50 * 50 * k_reciprocal.TILE_BYTES_PER_PAIR)
    assert max(shapes) == (50, 50)
    assert len(shapes) == 6 * 7 / 2  # nothing is computed on both sides of the diagonal


def test_no_block_of_queries_has_more_terms_in_memory_than_allowed():
    spans = []

    class Recorded(KReciprocalDistances):
        def _write_overlap(self, start, stop, out):
            spans.append((start, stop, self._inverted[self._query[start:stop].indices].nnz))
            super()._write_overlap(start, stop, out)

    num_terms = 50_000
    distances = Recorded(
        random_features(60, seed=2), random_features(240, seed=3), "cosine", memory=num_terms * k_reciprocal.ENTRY_BYTES
    )
    distances.rows(5, 60)
    assert [stop for _, stop, _ in spans[:-1]] == [start for start, _, _ in spans[1:]]
    assert (spans[0][0], spans[-1][1]) == (5, 60)
    assert max(terms for start, stop, terms in spans if stop - start > 1) <= num_terms
    assert 55 / len(spans) > 1.5  # several queries at a time


def test_images_that_are_all_the_same_have_nothing_but_their_order():
    problem = torch.ones(2, 3), torch.ones(40, 3), "euclidean", 5, 2, 0.3
    found = all_rows(KReciprocalDistances(*problem)).numpy()
    np.testing.assert_allclose(found, reference(*problem), rtol=0, atol=1e-6)
    assert set(found.flatten().round(5)) == {0.0}


def test_neighbours_are_the_first_of_a_stable_sort_whatever_the_tiles():
    vectors = torch.tensor(exact_vectors()["euclidean"], dtype=torch.float32)
    features = vectors[torch.randint(len(vectors), (150,), generator=torch.Generator().manual_seed(9))]
    distance = reference_distances(features, "euclidean")
    for memory in (32 * 7 * 7, 32 * 45 * 45, 2**30):
        near = neighbours(features, "euclidean", 21, memory)
        assert near.order.tolist() == np.argsort(distance, axis=1, kind="stable")[:, :21].tolist()
        np.testing.assert_allclose(near.farthest.numpy(), distance.max(axis=1), rtol=1e-6)


def test_features_are_left_as_they_are():
    query, gallery = random_features(5, seed=1) * 3, random_features(9, seed=2) * 3
    copies = query.clone(), gallery.clone()
    all_rows(KReciprocalDistances(query, gallery, "cosine"))
    assert query.equal(copies[0])
    assert gallery.equal(copies[1])


def test_more_neighbours_than_can_be_listed_are_refused(monkeypatch):
    query, gallery = random_features(1, seed=1), random_features(49_999, seed=2)
    with pytest.raises(DataError, match=r"k1: 42949 neighbours of each of 50000 images .* at most 42948 are possible"):
        KReciprocalDistances(query, gallery, "euclidean", k1=42_949)
    # k1 counts no farther than there are images.
    monkeypatch.setattr(k_reciprocal, "NUM_LISTED", 100)
    KReciprocalDistances(query, gallery[:9], "euclidean", k1=2**40)
    KReciprocalDistances(query, gallery[:19], "euclidean", k1=4, k2=2)
    with pytest.raises(DataError, match=r"at most 4 are possible; lower k_reciprocal\.k1"):
        KReciprocalDistances(query, gallery[:19], "euclidean", k1=5, k2=2)


def test_embeddings_that_have_no_distance_are_refused():
    ones, zeros = torch.ones(2, 3), torch.zeros(2, 3)
    with pytest.raises(DataError, match="gallery: 2 of 2 embeddings have length zero"):
        KReciprocalDistances(ones, zeros, "cosine")
    with pytest.raises(ValueError, match="query: 2 of 2 embeddings hold NaN"):
        KReciprocalDistances(ones * torch.nan, ones, "euclidean")


def test_an_embedding_too_long_to_compare_is_refused():
    features = torch.tensor([[1e20, 0.0], [-1e20, 0.0], [0.0, 1.0]])
    with pytest.raises(DataError, match="too long for single precision"):
        neighbours(features, "euclidean", 2, memory=2**30)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: values read, masks as indices, copies to another device."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.name(), kwargs or {}
        if name.startswith("aten::index"):
            self.number += any(index is not None and index.dtype == torch.bool for index in args[1])
        else:
            copies = name == "aten::_to_copy" and kwargs.get("device") is not None
            self.number += copies or name in ("aten::_local_scalar_dense", "aten::nonzero")
        return func(*args, **kwargs)


@pytest.mark.parametrize(("metric", "per_tile"), [("cosine", 0), ("euclidean", 1)])
def test_a_gpu_is_waited_for_once_per_tile_and_side(metric, per_tile):
    features = torch.nn.functional.normalize(random_features(300, seed=4))
    with Waits() as waits:
        neighbours(features, metric, 21, memory=k_reciprocal.TILE_BYTES_PER_PAIR * 50 * 50)
    # 21 tiles of 50 images on a side, 6 of them on the diagonal; at the end the result is checked.
    assert waits.number <= 6 * 6 + per_tile * 21 + 1
