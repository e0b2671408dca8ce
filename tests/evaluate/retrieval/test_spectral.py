"""Spectral re-ranking against plain loops over the definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluate.core.retrieval import spectral
from evaluate.core.retrieval.distances import FeatureDistances
from evaluate.core.retrieval.spectral import SpectralDistances, share_out_, spectral_scores
from tests.evaluate.matrix import MatrixDistances
from utils.errors import DataError


def reference_scores(query, near, temperature):
    """Cosine of one query with each of its n nearest after the transform, in double precision, one by one."""

    def unit(vector):
        return [value / math.hypot(*vector) for value in vector]

    def dot(left, right):
        return math.fsum(a * b for a, b in zip(left, right, strict=True))

    near = [unit(image) for image in near]
    scores = []
    for image in near:
        affinity = [math.exp(dot(image, other) / temperature) for other in near]
        weights = [value / math.fsum(affinity) for value in affinity]
        moved = [math.fsum(w * other[d] for w, other in zip(weights, near, strict=True)) for d in range(len(query))]
        scores.append(dot(unit(moved), unit(query)))
    return scores


def make(num_query=9, num_gallery=40, dim=6):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(num_query, dim, generator=rng), torch.randn(num_gallery, dim, generator=rng) * 3


def ranks(distance):
    return sorted(range(len(distance)), key=lambda index: (distance[index], index))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_scores_agree_with_loops_over_the_definition(temperature):
    query, gallery = make()
    near = gallery.view(8, 5, 6)
    expected = [reference_scores(*pair, temperature) for pair in zip(query[:8].tolist(), near.tolist(), strict=True)]
    found = spectral_scores(query[:8], near, temperature)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("top", [1, 7, 39, 40, 99])
@pytest.mark.parametrize("block_bytes", [1, 2**25])
def test_the_nearest_are_put_in_the_order_of_their_scores(metric, top, block_bytes, monkeypatch):
    monkeypatch.setattr(spectral, "NEAR_BYTES", block_bytes)
    query, gallery = make()
    base = FeatureDistances(query, gallery, metric)
    before = base.rows(0, 9).tolist()
    distances = SpectralDistances(base, query, gallery, top, temperature=0.4)
    assert distances.shape == (9, 40)
    # Request for in two blocks, as ranking does.
    after = torch.cat([distances.rows(0, 4).clone(), distances.rows(4, 9).clone()]).tolist()
    num_moved = 0
    for row in range(9):
        old = ranks(before[row])
        near = old[:top]
        scores = reference_scores(query[row].tolist(), gallery[near].tolist(), 0.4)
        if len(near) > 1:
            assert np.diff(sorted(scores)).min() > 1e-6, "the reference cannot tell the order"
        new = [near[place] for place in sorted(range(len(near)), key=lambda place: -scores[place])]
        assert ranks(after[row]) == new + old[top:]
        assert sorted(after[row]) == sorted(before[row])
        num_moved += new != near
    assert num_moved > 3 or top == 1


@pytest.mark.parametrize("top", [2, 30])
def test_no_block_takes_more_memory_than_allowed(top, monkeypatch):
    shapes = []

    def recorded(query, near, temperature):
        shapes.append(tuple(near.shape))
        return spectral_scores(query, near, temperature)

    monkeypatch.setattr(spectral, "spectral_scores", recorded)
    query, gallery = make()
    base = FeatureDistances(query, gallery, "cosine")
    whole = SpectralDistances(base, query, gallery, top).rows(0, 9).clone()
    assert shapes == [(9, top, 6)]
    # Embeddings, what they become, that of unit length; products before and after the softmax.
    needed = 4 * (3 * top * 6 + 2 * top * top)
    parts = SpectralDistances(base, query, gallery, top, memory=4 * needed + needed // 2).rows(0, 9)
    assert shapes[1:] == [(4, top, 6), (4, top, 6), (1, top, 6)]
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    SpectralDistances(base, query, gallery, top, memory=needed)
    with pytest.raises(DataError, match=rf"the {top} nearest .* take 1 MiB, got 0 MiB; lower spectral\.top or raise"):
        SpectralDistances(base, query, gallery, top, memory=needed - 1)


DISTANCES = [0.0, -0.0, 1e-40, 0.25, 0.5, float(np.nextafter(np.float32(0.5), np.float32(1))), 1.0]


@given(
    distance=st.lists(st.sampled_from(DISTANCES), min_size=1, max_size=12),
    scores=st.lists(st.sampled_from([-0.5, 0.1, 0.2, 0.3]), min_size=1, max_size=6),
)
def test_equal_distances_do_not_undo_the_order(distance, scores):
    scores = scores[: len(distance)]
    num = len(scores)
    old = ranks(distance)
    expected = [old[place] for place in sorted(range(num), key=lambda place: (-scores[place], place))] + old[num:]
    before = torch.tensor([distance])
    after = before.clone()
    share_out_(after, torch.tensor([old[: num + 1]]), torch.tensor([scores]))
    assert ranks(after[0].tolist()) == expected
    # Nobody gives way by more steps than there are images to tell apart, and without need nobody does.
    in_order = [values.sort().values for values in (before[0] + 0.0, after[0])]
    steps = (in_order[0].view(torch.int32) - in_order[1].view(torch.int32)).abs()
    assert steps.max() <= num
    if len(set(distance)) == len(distance):
        assert steps.max() == 0
    assert (after >= 0).all()


def test_more_images_at_distance_zero_than_are_reranked():
    distance = torch.zeros(1, 5)
    share_out_(distance, torch.tensor([[0, 1, 2]]), torch.tensor([[0.1, 0.9]]))
    assert ranks(distance[0].tolist()) == [1, 0, 2, 3, 4]
    assert distance.max() < 1e-40


def test_images_of_one_kind_gather():
    """The nearest image stands alone; the three behind it resemble each other, and their middle is nearer."""
    angles = torch.tensor([20.0, -14.0, -22.0, -24.0, 90.0]).deg2rad()
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    query = torch.tensor([[1.0, 0.0]])
    base = FeatureDistances(query, gallery, "cosine")
    assert ranks(base.rows(0, 1)[0].tolist()) == [1, 0, 2, 3, 4]
    after = SpectralDistances(base, query, gallery, top=4, temperature=0.05).rows(0, 1)[0].tolist()
    assert ranks(after) == [0, 1, 2, 3, 4]


def test_an_embedding_of_length_zero_is_refused():
    query, gallery = make()
    gallery[3] = 0
    with pytest.raises(
        DataError, match=r"gallery: 1 of 40 .* length zero, the first in row 3.* spectral re-ranking off"
    ):
        SpectralDistances(MatrixDistances(torch.ones(9, 40)), query, gallery)


@pytest.mark.parametrize("scale", [1e-20, 1e15])
def test_the_length_of_embeddings_changes_nothing(scale):
    query, gallery = make(dim=64)
    base = FeatureDistances(query, gallery, "euclidean")
    expected = SpectralDistances(base, query, gallery, 7).rows(0, 9).clone()
    assert SpectralDistances(base, query * scale, gallery * scale, 7).rows(0, 9).equal(expected)
