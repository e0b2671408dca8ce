"""k-reciprocal re-ranking against the definition worked through image by image."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from evaluate.core.retrieval import encodings
from evaluate.core.retrieval.distances import FeatureDistances
from evaluate.core.retrieval.encodings import SharedWeights
from evaluate.core.retrieval.k_reciprocal import KReciprocalDistances
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import rank
from tests.evaluate.k_reciprocal_reference import (
    exact_vectors,
    random_features,
    reference_distances,
    reference_jaccard,
    reference_weights,
)
from tests.evaluate.matrix import MatrixDistances
from utils.errors import DataError


def reference(query, gallery, metric, k1, k2, lambda_value):
    """(Q, G) float64."""
    distance = reference_distances(torch.cat((query, gallery)), metric)
    farthest = distance.max(axis=1, keepdims=True)
    distance = distance / np.where(farthest > 0, farthest, 1)
    weights = reference_weights(distance, np.argsort(distance, axis=1, kind="stable"), k1, k2, besides=1)
    jaccard = reference_jaccard(weights[: len(query)], weights[len(query) :])
    return (1 - lambda_value) * jaccard + lambda_value * distance[: len(query), len(query) :]


def all_rows(distances, size=None):
    """(Q, G), asked for `size` rows at a time."""
    num_query = distances.shape[0]
    size = size or num_query
    return torch.cat(
        [distances.rows(start, min(start + size, num_query)).clone() for start in range(0, num_query, size)]
    )


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
    monkeypatch.setattr(encodings, "PAIR_BYTES", 1000)
    for memory, size in ((1000, 7), (20_000, 1), (200_000, 39)):
        parts = all_rows(KReciprocalDistances(*problem, memory=memory), size)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_no_span_has_more_terms_in_memory_than_allowed():
    weights = torch.rand(300, 300, generator=torch.Generator().manual_seed(2)).numpy()
    codes = csr_array(np.where(weights < 0.1, weights, 0))
    num_terms = 50_000
    shared = SharedWeights(codes[:60], codes[60:], memory=num_terms * encodings.ENTRY_BYTES)
    spans = list(shared.spans(5, 60))
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]
    assert (spans[0][0], spans[-1][1]) == (5, 60)
    assert max(shared.terms(*span).nnz for span in spans) <= num_terms
    assert 55 / len(spans) > 1.5  # several rows at a time
    assert all(stop - start == 1 for start, stop in SharedWeights(codes[:60], codes[60:], memory=1).spans(5, 60))


def test_images_that_are_all_the_same_have_nothing_but_their_order():
    problem = torch.ones(2, 3), torch.ones(40, 3), "euclidean", 5, 2, 0.3
    found = all_rows(KReciprocalDistances(*problem)).numpy()
    np.testing.assert_allclose(found, reference(*problem), rtol=0, atol=1e-6)
    assert set(found.flatten().round(5)) == {0.0}


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
    monkeypatch.setattr(encodings, "NUM_LISTED", 100)
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
