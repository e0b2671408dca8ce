"""Rank lists, chosen queries and confused persons against plain loops."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.features import Features
from evaluate.core.report.ordering import chosen_queries, confused_pairs, walk
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import rank
from evaluate.core.retrieval.retrieve import Retrieval
from tests.evaluate.matrix import MatrixDistances


@st.composite
def retrievals(draw):
    """Distances that often tie; at least one query has a true match."""
    num_query, num_gallery = draw(st.integers(1, 8)), draw(st.integers(1, 16))

    def numbers(count, values):
        return torch.tensor(draw(st.lists(st.sampled_from(values), min_size=count, max_size=count)))

    query = Features(torch.zeros(num_query, 1), numbers(num_query, [1, 2, 3, 0]), numbers(num_query, [1, 2]), [])
    gallery = Features(
        torch.zeros(num_gallery, 1), numbers(num_gallery, [1, 2, 3, 0, -1]), numbers(num_gallery, [1, 2]), []
    )
    query.pids[0], query.camids[0], gallery.pids[0], gallery.camids[0] = 1, 1, 1, 2
    distances = MatrixDistances(numbers(num_query * num_gallery, [0.0, 0.5, 1.0]).view(num_query, num_gallery))
    truth = GroundTruth(query.pids, query.camids, gallery.pids, gallery.camids, cross_camera=draw(st.booleans()))
    return Retrieval(query, gallery, distances, truth, rank(distances, truth))


def verdict(retrieval, row, column):
    pid, other = int(retrieval.query.pids[row]), int(retrieval.gallery.pids[column])
    same_camera = retrieval.query.camids[row] == retrieval.gallery.camids[column]
    if other == -1 or (pid == other != 0 and same_camera and retrieval.truth.cross_camera):
        return "ignored"
    return "right" if pid == other != 0 else "wrong"


@given(retrieval=retrievals())
def test_walk_goes_down_the_sorted_gallery(retrieval):
    for row, distance in enumerate(retrieval.distances.rows(0, len(retrieval.query.pids)).tolist()):
        found = list(walk(retrieval.distances, retrieval.truth, row))
        assert [each.row for each in found] == sorted(
            range(len(distance)), key=lambda column: (distance[column], column)
        )
        assert [each.distance for each in found] == sorted(distance)
        assert [each.verdict for each in found] == [verdict(retrieval, row, each.row) for each in found]
        ranks = [each.rank for each in found if each.verdict != "ignored"]
        assert ranks == list(range(1, len(ranks) + 1))
        assert all(each.rank is None for each in found if each.verdict == "ignored")


@given(retrieval=retrievals(), memory=st.sampled_from([1, 2**28]))
def test_confused_pairs_agree_with_a_loop(retrieval, memory):
    times, closest, num_query = Counter(), {}, Counter()
    for row in retrieval.result.queries.tolist():
        pid = int(retrieval.query.pids[row])
        num_query[pid] += 1
        first = next(each for each in walk(retrieval.distances, retrieval.truth, row) if each.rank)
        if first.verdict == "wrong":
            key = pid, int(retrieval.gallery.pids[first.row])
            times[key] += 1
            candidate = first.distance, row, first.row
            closest[key] = min(closest.get(key, candidate), candidate)
    expected = sorted(((-number, closest[key][0], closest[key][1], key) for key, number in times.items()))
    found = confused_pairs(retrieval, 100, memory)
    assert [(-pair.times, pair.distance, pair.query, pair[:2]) for pair in found] == expected
    assert all(pair.num_query == num_query[pair.query_pid] for pair in found)
    assert all((pair.distance, pair.query, pair.gallery) == closest[pair[:2]] for pair in found)
    assert confused_pairs(retrieval, 1, memory) == found[:1]


def test_chosen_queries_are_the_worst_the_best_and_some_others():
    num_query = 30
    pids = torch.arange(num_query) + 1
    ones = torch.ones(num_query, dtype=torch.int64)
    side = Features(torch.zeros(num_query, 1), pids, ones, [])
    distances = MatrixDistances(torch.rand(num_query, num_query, generator=torch.Generator().manual_seed(1)))
    truth = GroundTruth(pids, ones, pids, ones, cross_camera=False)
    retrieval = Retrieval(side, side, distances, truth, rank(distances, truth))
    ap = retrieval.result.ap.numpy()
    chosen = chosen_queries(retrieval, 8, np.random.default_rng(0))
    assert list(chosen) == ["worst", "best", "random"]
    order = np.argsort(ap, kind="stable")
    assert ap[chosen["worst"]].tolist() == ap[order[:8]].tolist()
    assert ap[chosen["best"]].tolist() == ap[order[::-1][:8]].tolist()
    assert len({place for places in chosen.values() for place in places}) == 24
    assert chosen == chosen_queries(retrieval, 8, np.random.default_rng(0))
    few = chosen_queries(retrieval, 20, np.random.default_rng(0))
    assert [len(places) for places in few.values()] == [20, 10, 0]


def test_of_equally_good_queries_those_with_more_matches_are_chosen():
    query_pids, gallery_pids = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 2, 2, 3, 3])
    camids = [torch.zeros(number, dtype=torch.int64) for number in (3, 6)]
    distances = MatrixDistances((query_pids[:, None] != gallery_pids).float())
    truth = GroundTruth(query_pids, camids[0], gallery_pids, camids[1], cross_camera=False)
    query = Features(torch.zeros(3, 1), query_pids, camids[0], [])
    gallery = Features(torch.zeros(6, 1), gallery_pids, camids[1], [])
    retrieval = Retrieval(query, gallery, distances, truth, rank(distances, truth))
    assert retrieval.result.ap.tolist() == [1.0, 1.0, 1.0]
    assert chosen_queries(retrieval, 1, np.random.default_rng(0)) == {"worst": [1], "best": [2], "random": [0]}
