"""Ranking against a plain loop over the definition, and against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.core.distances import full_precision, pairwise_distance, prepared
from evaluate.core.ranking import RankResult, judge, match_positions, per_query_metrics, rank, ranked_gallery
from utils.errors import DataError


def reference_query(distance, query_pid, query_camid, gallery_pids, gallery_camids):
    """(first, ap, ap_trapezoid, inp) of one query by walking down its sorted gallery; None without a true match."""
    order = sorted(range(len(distance)), key=lambda index: (distance[index], index))
    position = hits = last = 0
    first = None
    precisions, trapezoids = [], []
    for index in order:
        pid, camid = gallery_pids[index], gallery_camids[index]
        if pid == -1 or (pid == query_pid and camid == query_camid):
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


def rank_distances(distance, labels) -> RankResult:
    """`rank` from given distances on, for queries that all have a true match."""
    match, ignored = judge(*labels)
    positions, num_matches = match_positions(distance, match, ignored)
    return RankResult(
        torch.arange(len(distance)),
        positions[:, 0],
        *per_query_metrics(positions, num_matches),
        num_query=len(distance),
    )


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


@settings(max_examples=250, deadline=None)
@given(problem=problems(), memory=st.sampled_from([1, 3000, 2**28]))
def test_agrees_with_a_walk_down_the_sorted_gallery(problem, memory):
    query, gallery, *labels = problem
    distance = pairwise_distance(query, gallery, "euclidean").tolist()
    query_pids, query_camids, gallery_pids, gallery_camids = (part.tolist() for part in labels)
    expected = {
        index: found
        for index, row in enumerate(distance)
        if (found := reference_query(row, query_pids[index], query_camids[index], gallery_pids, gallery_camids))
    }
    if not expected:
        with pytest.raises(DataError, match="true match"):
            rank(*problem, metric="euclidean", memory=memory)
        return
    result = rank(*problem, metric="euclidean", memory=memory)
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


def test_hand_computed_query():
    # By distance:  junk  wrong  RIGHT  own camera  distractor  RIGHT      Positions of the right ones: 1 and 3.
    gallery = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    gallery_pids = torch.tensor([-1, 9, 7, 7, 0, 7])
    gallery_camids = torch.tensor([2, 2, 2, 1, 2, 3])
    result = rank(
        torch.zeros(1, 1), gallery, torch.tensor([7]), torch.tensor([1]), gallery_pids, gallery_camids, "euclidean"
    )
    assert result.mean_ap == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.mean_ap_trapezoid == pytest.approx(((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    assert result.mean_inp == pytest.approx(2 / 4)
    assert [result.cmc(k) for k in (1, 2)] == [0.0, 1.0]


def test_a_perfect_ranking_scores_one_everywhere():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    result = rank(
        torch.tensor([[1.0, 0.0]]),
        gallery,
        query_pids=torch.tensor([4]),
        query_camids=torch.tensor([1]),
        gallery_pids=torch.tensor([4, 4, 5]),
        gallery_camids=torch.tensor([2, 3, 2]),
    )
    assert (result.cmc(1), result.mean_ap, result.mean_ap_trapezoid, result.mean_inp) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(("right_first", "expected_ap"), [(True, 1.0), (False, 1 / 3)])
def test_equal_distances_are_ordered_by_gallery_index(right_first, expected_ap):
    gallery_pids = torch.tensor([1, 2, 3] if right_first else [2, 3, 1])
    result = rank(
        torch.ones(1, 4), torch.ones(3, 4), torch.tensor([1]), torch.tensor([1]), gallery_pids, torch.full((3,), 2)
    )
    assert result.mean_ap == pytest.approx(expected_ap)


def test_negative_zero_is_as_near_as_zero():
    distance = torch.tensor([[0.0, -0.0, 0.0]])
    labels = [torch.tensor(part) for part in ([1], [1], [2, 1, 1], [2, 2, 2])]
    assert rank_distances(distance, labels).ap.item() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_infinite_and_tiny_distances_keep_their_order():
    distance = torch.tensor([[torch.inf, 1e-40, 3e38, 0.0]])
    labels = [torch.tensor(part) for part in ([1], [1], [1, 1, 2, 3], [2, 2, 2, 2])]
    assert rank_distances(distance, labels).ap.item() == pytest.approx((1 / 2 + 2 / 4) / 2)


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
    whole = rank(*problem, metric=metric)
    for memory in (1, 100_000, 200_000):
        parts = rank(*problem, metric=metric, memory=memory)
        assert parts.queries.equal(whole.queries)
        torch.testing.assert_close(parts.ap, whole.ap, rtol=0, atol=1e-12)
        torch.testing.assert_close(parts.inp, whole.inp, rtol=0, atol=1e-12)


def test_cosine_ignores_the_length_of_embeddings():
    query, gallery = torch.tensor([[3.0, 0.0]]), torch.tensor([[10.0, 1.0], [0.1, 0.1], [-5.0, 0.0], [0.0, 2.0]])
    distance = pairwise_distance(prepared(query, "cosine"), prepared(gallery, "cosine"), "cosine")
    expected = [1 - 10 / math.sqrt(101), 1 - math.sqrt(0.5), 2.0, 1.0]
    assert distance[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_euclidean_agrees_with_differences():
    rng = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(5, 16, generator=rng), torch.randn(7, 16, generator=rng)
    expected = (query[:, None] - gallery).double().square().sum(2).sqrt().float()
    torch.testing.assert_close(pairwise_distance(query, gallery, "euclidean"), expected, rtol=1e-4, atol=1e-4)


def test_reduced_precision_chosen_for_training_is_put_aside_and_back():
    rng = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(4, 64, generator=rng), torch.randn(5, 64, generator=rng)
    expected = pairwise_distance(query, gallery, "euclidean")
    torch.set_float32_matmul_precision("medium")
    for_training = torch.backends.cuda.matmul.fp32_precision
    assert for_training != "ieee"
    try:
        with full_precision():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert pairwise_distance(query, gallery, "euclidean").equal(expected)
        assert torch.backends.cuda.matmul.fp32_precision == for_training
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_ranked_gallery_marks_junk_and_matches():
    gallery = torch.tensor([[4.0], [1.0], [2.0], [3.0], [1.0]])
    labels = [torch.tensor(part) for part in ([7], [1], [7, -1, 7, 0, 8], [2, 2, 1, 2, 2])]
    ranked = ranked_gallery(torch.zeros(1, 1), gallery, *labels, metric="euclidean")
    assert ranked.order.tolist() == [[1, 4, 2, 3, 0]]
    assert ranked.distance.tolist() == [[1.0, 1.0, 2.0, 3.0, 4.0]]
    assert ranked.ignored.tolist() == [[True, False, True, False, False]]
    assert ranked.match.tolist() == [[False, False, False, False, True]]


def test_misuse_is_refused():
    ones, labels = torch.ones(2, 3), torch.ones(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="query: features"):
        rank(ones, ones, labels[:1], labels, labels, labels)
    with pytest.raises(ValueError, match="gallery: features hold NaN"):
        rank(ones, ones * torch.nan, labels, labels, labels, labels + 1)
    with pytest.raises(ValueError, match="unknown metric 'manhattan'"):
        rank(ones, ones, labels, labels, labels, labels + 1, metric="manhattan")  # pyright: ignore[reportArgumentType]
