"""Ranking against a plain loop over the definition, and against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluate.core.retrieval.distances import FeatureDistances, Metric
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import RankResult, nearest, rank, ranking_blocks
from tests.evaluate.matrix import MatrixDistances
from utils.errors import DataError


def reference_query(distance, query_pid, query_camid, gallery_pids, gallery_camids, cross_camera=True):
    """(first, ap, ap_trapezoid, inp) of one query by walking down its sorted gallery; None without a true match."""
    order = sorted(range(len(distance)), key=lambda index: (distance[index], index))
    position = hits = last = 0
    first = None
    precisions, trapezoids = [], []
    for index in order:
        pid, camid = gallery_pids[index], gallery_camids[index]
        if pid == -1 or (cross_camera and pid == query_pid != 0 and camid == query_camid):
            continue
        if pid == query_pid and pid != 0:
            first = position if first is None else first
            old_precision = 1.0 if position == 0 else hits / position
            precision = (hits + 1) / (position + 1)
            precisions.append(precision)
            trapezoids.append((old_precision + precision) / 2)
            hits += 1
            last = position
        position += 1
    if first is None:
        return None
    return first, math.fsum(precisions) / hits, math.fsum(trapezoids) / hits, hits / (last + 1)


def rank_features(query, gallery, *labels, metric: Metric = "cosine", memory=2**30, cross_camera=True) -> RankResult:
    """`rank` for embeddings (Q, D), (G, D) and the pids and camids of both."""
    return rank(
        FeatureDistances(query, gallery, metric), GroundTruth(*labels, cross_camera=cross_camera), memory=memory
    )


def rank_matrix(matrix, *labels) -> RankResult:
    """`rank` for given distances."""
    return rank(MatrixDistances(torch.tensor(matrix)), GroundTruth(*map(torch.tensor, labels)))


@st.composite
def problems(draw):
    """Features on a coarse grid, so that distances tie often, and few pids and cameras, so that every rule applies."""
    num_query, num_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 24))
    coordinate = st.integers(-2, 2)

    def features(number):
        rows = st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=number, max_size=number)
        return torch.tensor(draw(rows), dtype=torch.float32)

    def labels(number, values):
        return torch.tensor(draw(st.lists(st.sampled_from(values), min_size=number, max_size=number)))

    return (
        features(num_query),
        features(num_gallery),
        labels(num_query, [0, 1, 2, 3, -1]),
        labels(num_query, [1, 2]),
        labels(num_gallery, [1, 2, -1, 0, 1, 2]),
        labels(num_gallery, [1, 2]),
    )


@given(problem=problems(), memory=st.sampled_from([1, 3000, 2**28]), cross_camera=st.booleans())
def test_agrees_with_a_walk_down_the_sorted_gallery(problem, memory, cross_camera):
    query, gallery, *labels = problem
    distances = FeatureDistances(query, gallery, "euclidean")
    query_pids, query_camids, gallery_pids, gallery_camids = (part.tolist() for part in labels)
    expected = {
        index: found
        for index, row in enumerate(distances.rows(0, len(query)).tolist())
        if (
            found := reference_query(
                row, query_pids[index], query_camids[index], gallery_pids, gallery_camids, cross_camera
            )
        )
    }
    truth = GroundTruth(*labels, cross_camera=cross_camera)
    if not expected:
        with pytest.raises(DataError, match="true match"):
            rank(distances, truth, memory=memory)
        return
    result = rank(distances, truth, memory=memory)
    assert result.queries.tolist() == list(expected)
    assert result.num_query_without_match == len(query) - len(expected)
    first, ap, ap_trapezoid, inp = zip(*expected.values(), strict=True)
    assert result.first.tolist() == list(first)
    assert result.ap.tolist() == pytest.approx(ap, abs=1e-12)
    assert result.ap_trapezoid.tolist() == pytest.approx(ap_trapezoid, abs=1e-12)
    assert result.inp.tolist() == pytest.approx(inp, abs=1e-12)
    assert result.mean_ap == pytest.approx(math.fsum(ap) / len(ap), abs=1e-9)
    for k in (1, 5, 10):
        assert result.cmc(k) == pytest.approx(sum(position < k for position in first) / len(first), abs=1e-12)


@given(problem=problems(), length=st.integers(1, 30), memory=st.sampled_from([1, 2**28]), data=st.data())
def test_the_nearest_are_those_of_a_sorted_gallery(problem, length, memory, data):
    query, gallery, *labels = problem
    query_pids, query_camids, gallery_pids, gallery_camids = (part.tolist() for part in labels)
    distances, truth = FeatureDistances(query, gallery, "euclidean"), GroundTruth(*labels)
    rows = data.draw(st.none() | st.lists(st.integers(0, len(query) - 1), min_size=1, max_size=4))
    found = nearest(distances, truth, length, None if rows is None else torch.tensor(rows), memory)
    assert found.order.shape == (len(query) if rows is None else len(rows), min(length, len(gallery)))
    for place, row in enumerate(range(len(query)) if rows is None else rows):
        distance = distances.rows(row, row + 1)[0].tolist()
        seen = [
            index
            for index in sorted(range(len(gallery)), key=lambda index: (distance[index], index))
            if gallery_pids[index] != -1
            and not (gallery_pids[index] == query_pids[row] != 0 and gallery_camids[index] == query_camids[row])
        ][:length]
        rest = found.order.shape[1] - len(seen)
        assert found.order[place].tolist() == seen + [-1] * rest
        assert found.distance[place].tolist() == [distance[index] for index in seen] + [math.inf] * rest
        is_match = [gallery_pids[index] == query_pids[row] != 0 for index in seen]
        assert found.match[place].tolist() == is_match + [False] * rest


def test_hand_computed_query():
    # By distance:  junk  wrong  RIGHT  own camera  distractor  RIGHT      Positions of the right ones: 1 and 3.
    gallery = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    gallery_pids = torch.tensor([-1, 9, 7, 7, 0, 7])
    gallery_camids = torch.tensor([2, 2, 2, 1, 2, 3])
    labels = torch.tensor([7]), torch.tensor([1]), gallery_pids, gallery_camids
    result = rank_features(torch.zeros(1, 1), gallery, *labels, metric="euclidean")
    assert result.mean_ap == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.mean_ap_trapezoid == pytest.approx(((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    assert result.mean_inp == pytest.approx(2 / 4)
    assert [result.cmc(k) for k in (1, 2)] == [0.0, 1.0]


def test_a_perfect_ranking_scores_one_everywhere():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    labels = [torch.tensor(part) for part in ([4], [1], [4, 4, 5], [2, 3, 2])]
    result = rank_features(torch.tensor([[1.0, 0.0]]), gallery, *labels)
    assert (result.cmc(1), result.mean_ap, result.mean_ap_trapezoid, result.mean_inp) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(("right_first", "expected_ap"), [(True, 1.0), (False, 1 / 3)])
def test_equal_distances_are_ordered_by_gallery_index(right_first, expected_ap):
    gallery_pids = torch.tensor([1, 2, 3] if right_first else [2, 3, 1])
    labels = torch.tensor([1]), torch.tensor([1]), gallery_pids, torch.full((3,), 2)
    result = rank_features(torch.ones(1, 4), torch.ones(3, 4), *labels)
    assert result.mean_ap == pytest.approx(expected_ap)


def test_a_network_that_tells_nothing_apart_gets_the_order_of_the_gallery():
    # All distances equal: true matches stand at 1 and 3 of what is not ignored, whatever the size of the blocks.
    labels = [torch.tensor(part) for part in ([7] * 3, [1] * 3, [8, 7, 7, -1, 8, 7, 8], [2, 1, 2, 2, 2, 3, 2])]
    for memory in (1, 2**30):
        result = rank_features(torch.ones(3, 4), torch.ones(7, 4), *labels, memory=memory)
        assert result.first.tolist() == [1, 1, 1]
        assert result.ap.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2] * 3)


def test_negative_zero_is_as_near_as_zero():
    result = rank_matrix([[0.0, -0.0, 0.0]], [1], [1], [2, 1, 1], [2, 2, 2])
    assert result.ap.item() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_huge_and_tiny_distances_keep_their_order():
    result = rank_matrix([[3.2e38, 1e-40, 3e38, 0.0]], [1], [1], [1, 1, 2, 3], [2, 2, 2, 2])
    assert result.ap.item() == pytest.approx((1 / 2 + 2 / 4) / 2)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_size_of_chunks_changes_nothing(metric):
    rng = torch.Generator().manual_seed(3)
    query_pids, gallery_pids = torch.randint(1, 9, (40,), generator=rng), torch.randint(-1, 9, (300,), generator=rng)
    problem = (
        torch.randn(40, 8, generator=rng),
        torch.randn(300, 8, generator=rng),
        query_pids,
        torch.randint(1, 4, (40,), generator=rng),
        gallery_pids,
        torch.randint(1, 4, (300,), generator=rng),
    )
    whole = rank_features(*problem, metric=metric)
    for memory in (1, 100_000, 200_000):
        parts = rank_features(*problem, metric=metric, memory=memory)
        assert parts.queries.equal(whole.queries)
        torch.testing.assert_close(parts.ap, whole.ap, rtol=0, atol=1e-12)
        torch.testing.assert_close(parts.inp, whole.inp, rtol=0, atol=1e-12)


class NumQueries:
    """Distances of which only the shape and the device are known."""

    def __init__(self, num_query: int, num_gallery: int, device: str) -> None:
        self.shape, self.device = (num_query, num_gallery), torch.device(device)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(("device", "bytes_per_pair"), [("cpu", 8), ("cuda", 52)])
def test_the_distances_of_a_block_are_sorted_within_the_memory(device, bytes_per_pair):
    memory, num_gallery = 2**24, 10_000
    spans = list(ranking_blocks(NumQueries(200, num_gallery, device), memory))
    most = max(stop - start for start, stop in spans)
    assert most * num_gallery * bytes_per_pair <= memory
    assert most >= 32  # enough to keep the device busy
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
