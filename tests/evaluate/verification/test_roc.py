"""ROC, AUC, EER and TAR at FAR against plain loops over every pair."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from evaluate.core.retrieval.distances import FeatureDistances
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.verification.roc import pair_statistics, retrieval_roc, roc
from tests.evaluate.matrix import MatrixDistances
from utils.errors import DataError

FARS = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0)


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def reference_auc(genuine, impostor):
    """Every genuine pair against every impostor."""
    won = sum((impostor_ > genuine_) + 0.5 * (impostor_ == genuine_) for genuine_ in genuine for impostor_ in impostor)
    return won / (len(genuine) * len(impostor))


def reference_points(genuine, impostor):
    """(FAR, TAR) of no threshold at all and of every threshold at which something changes, in ascending order."""
    points = [(0.0, 0.0)]
    for threshold in sorted({*genuine, *impostor}):
        far = sum(distance <= threshold for distance in impostor) / len(impostor)
        points.append((far, sum(distance <= threshold for distance in genuine) / len(genuine)))
    return points


def reference_eer(points):
    """Walk along the curve until FAR is no longer less than the share rejected; straight lines between points."""
    for (far_0, tar_0), (far_1, tar_1) in pairwise(points):
        excess_0, excess_1 = far_0 + tar_0 - 1, far_1 + tar_1 - 1
        if excess_1 >= 0:
            share = -excess_0 / (excess_1 - excess_0)
            return far_0 + share * (far_1 - far_0)
    raise AssertionError


def check_against_reference(found, genuine, impostor):
    points = reference_points(genuine, impostor)
    assert found.num_genuine == len(genuine)
    assert found.num_impostor == len(impostor)
    assert found.thresholds.tolist() == sorted(genuine)
    assert found.auc == pytest.approx(reference_auc(genuine, impostor), abs=1e-12)
    assert found.eer == pytest.approx(reference_eer(points), abs=1e-12)
    for far in FARS:
        expected = max(tar for reached, tar in points if reached <= far)
        assert found.tar_at(far) == pytest.approx(expected, abs=1e-12)
        threshold = found.threshold_at(far)
        if threshold is None:
            assert expected == 0.0
        else:
            accepted = [sum(distance <= threshold for distance in side) for side in (genuine, impostor)]
            assert accepted[0] / len(genuine) == pytest.approx(expected, abs=1e-12)
            assert accepted[1] / len(impostor) <= far


few_distances = st.lists(st.integers(0, 6), min_size=1, max_size=14)


@given(genuine=few_distances, impostor=few_distances)
def test_agrees_with_loops_where_distances_tie(genuine, impostor):
    check_against_reference(roc(tensor(genuine), tensor(impostor)), genuine, impostor)


def test_agrees_with_the_rank_sum_statistic():
    rng = np.random.default_rng(0)
    genuine, impostor = (rng.normal(mean, 1.0, number).round(1) for mean, number in ((1.0, 400), (2.0, 700)))
    found = roc(tensor(genuine), tensor(impostor))
    statistic = mannwhitneyu(tensor(impostor).numpy(), tensor(genuine).numpy()).statistic
    assert found.auc == pytest.approx(statistic / (400 * 700), abs=1e-12)


@pytest.mark.parametrize(
    ("genuine", "impostor", "auc", "eer"),
    [
        ([1, 2, 3], [4, 5], 1.0, 0.0),
        ([4, 5], [1, 2, 3], 0.0, 1.0),
        ([1, 1], [1, 1, 1], 0.5, 0.5),
        ([0, 2], [1, 3], 0.75, 0.5),  # 0 is nearer than both, 2 than one of two; between 1 and 2 half of each is wrong
    ],
)
def test_near_is_genuine_and_far_is_not(genuine, impostor, auc, eer):
    found = roc(tensor(genuine), tensor(impostor))
    assert (found.auc, found.eer) == (pytest.approx(auc), pytest.approx(eer))


def test_rates_are_met_to_the_last_impostor():
    # 0.29 * 100 is a little less than 29 in floating point.
    found = roc(torch.arange(100) + 0.5, torch.arange(100.0))
    assert [found.tar_at(count / 100) for count in range(101)] == [min(count, 100) / 100 for count in range(101)]
    assert found.threshold_at(0.29) == 28.5


def test_no_threshold_is_given_where_none_accepts_anything():
    found = roc(tensor([2, 3]), tensor([1, 4]))
    assert (found.tar_at(0.1), found.threshold_at(0.1)) == (0.0, None)
    assert (found.tar_at(0.5), found.threshold_at(0.5)) == (1.0, 3.0)


def test_the_drawn_curve_has_every_point_where_there_are_few():
    far, tar = roc(tensor([1, 2, 2, 5]), tensor([2, 3, 6])).curve()
    seen = dict.fromkeys(zip(far.tolist(), tar.tolist(), strict=True))
    assert list(seen) == [(0, 0), (0, 0.25), (1 / 3, 0.75), (2 / 3, 0.75), (2 / 3, 1), (1, 1)]


@pytest.mark.parametrize("num_points", [4, 10, 400])
def test_the_drawn_curve_follows_the_full_one(num_points):
    rng = torch.Generator().manual_seed(0)
    found = roc(torch.rand(5000, generator=rng), torch.rand(20000, generator=rng) + 0.3)
    far, tar = found.curve(num_points)
    assert len(far) == len(tar) <= num_points
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    assert tar[far == 0].max() == found.tar_at(0.0) > 0.1
    assert (np.diff(far) >= 0).all()
    assert (np.diff(tar) >= 0).all()
    if num_points == 400:
        at = np.geomspace(1e-4, 1.0, 50)
        exact = [found.tar_at(rate) for rate in at]
        assert np.interp(at, far, tar) == pytest.approx(exact, abs=1 / 198 + 1e-9)
        assert (far[far > 0] < 1e-3).sum() > 5


@st.composite
def retrievals(draw):
    """A matrix of integer distances with labels to which every rule applies."""
    num_query, num_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 12))

    def labels(number, values):
        return torch.tensor(draw(st.lists(st.sampled_from(values), min_size=number, max_size=number)))

    entries = st.lists(st.integers(0, 5), min_size=num_query * num_gallery, max_size=num_query * num_gallery)
    return (
        tensor(draw(entries)).view(num_query, num_gallery),
        labels(num_query, [1, 2, 3, 0, -1]),
        labels(num_query, [1, 2]),
        labels(num_gallery, [1, 2, 3, 1, 2, 0, -1]),
        labels(num_gallery, [1, 2]),
    )


def split_pairs(matrix, query_pids, query_camids, gallery_pids, gallery_camids, cross_camera=True):
    """Distances of genuine pairs and impostors, one pair after the other."""
    genuine, impostor = [], []
    for row, (query_pid, query_camid) in enumerate(zip(query_pids.tolist(), query_camids.tolist(), strict=True)):
        for column, (pid, camid) in enumerate(zip(gallery_pids.tolist(), gallery_camids.tolist(), strict=True)):
            own_camera = cross_camera and query_pid == pid and query_camid == camid
            if pid == -1 or own_camera or query_pid < 1:
                continue
            side = genuine if pid == query_pid else impostor
            side.append(matrix[row, column].item())
    return genuine, impostor


@given(problem=retrievals(), cross_camera=st.booleans(), memory=st.sampled_from([1, 500, 2**28]))
def test_retrieval_agrees_with_a_walk_over_all_pairs(problem, cross_camera, memory):
    matrix, *labels = problem
    genuine, impostor = split_pairs(*problem, cross_camera=cross_camera)
    distances, truth = MatrixDistances(matrix), GroundTruth(*labels, cross_camera=cross_camera)
    if not genuine or not impostor:
        with pytest.raises(DataError, match="true match" if not genuine else "no impostor"):
            retrieval_roc(distances, truth, memory)
        return
    found = retrieval_roc(distances, truth, memory, num_bins=7)
    check_against_reference(found.roc, genuine, impostor)
    edges = found.bin_edges.tolist()
    largest = max(genuine + impostor) or 1.0
    assert edges == pytest.approx([largest * place / 7 for place in range(8)])
    for counts, side in ((found.genuine, genuine), (found.impostor, impostor)):
        inside = [sum(left < value <= right for value in side) for left, right in pairwise(edges)]
        inside[0] += side.count(0)
        assert counts.tolist() == inside


def test_retrieval_from_embeddings_agrees_with_pairs_in_memory():
    rng = torch.Generator().manual_seed(5)
    query_pids, gallery_pids = (torch.randint(-1, 9, (number,), generator=rng) for number in (60, 300))
    query_camids, gallery_camids = (torch.randint(1, 4, (number,), generator=rng) for number in (60, 300))
    query, gallery = torch.randn(60, 16, generator=rng), torch.randn(300, 16, generator=rng)
    gallery[:60] = query  # identical images: distances of 0 among genuine pairs and impostors alike
    distances = FeatureDistances(query, gallery, "euclidean")
    labels = (query_pids, query_camids, gallery_pids, gallery_camids)
    genuine, impostor = split_pairs(distances.rows(0, 60).clone(), *labels)
    expected = roc(tensor(genuine), tensor(impostor))
    found = retrieval_roc(distances, GroundTruth(*labels), num_bins=1)
    for part in ("thresholds", "impostors_below", "impostors_up_to"):
        assert getattr(found.roc, part).equal(getattr(expected, part)), part
    assert found.roc.num_impostor == expected.num_impostor
    assert (found.genuine.tolist(), found.impostor.tolist()) == ([len(genuine)], [len(impostor)])
    in_memory = pair_statistics(tensor(genuine), tensor(impostor), num_bins=30)
    streamed = retrieval_roc(distances, GroundTruth(*labels), num_bins=30)
    for part in ("bin_edges", "genuine", "impostor"):
        assert getattr(in_memory, part).equal(getattr(streamed, part)), part
    assert in_memory.roc.auc == streamed.roc.auc


def test_distances_that_are_all_zero_have_a_histogram():
    truth = GroundTruth(*(torch.tensor(part) for part in ([1], [1], [1, 2], [2, 2])))
    found = retrieval_roc(MatrixDistances(torch.zeros(1, 2)), truth, num_bins=4)
    assert found.bin_edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert (found.genuine.tolist(), found.impostor.tolist()) == ([1, 0, 0, 0], [1, 0, 0, 0])
    assert found.roc.auc == 0.5


def test_queries_that_are_nobody_tell_nothing():
    labels = [torch.tensor(part) for part in ([1, 0, -1], [1, 1, 1], [1, 2, 0, -1], [2, 2, 2, 2])]
    matrix = tensor([[1, 2, 3, 7], [9, 9, 0, 9], [0, 9, 0, 9]])
    found = retrieval_roc(MatrixDistances(matrix), GroundTruth(*labels), num_bins=3)
    assert (found.roc.num_genuine, found.roc.num_impostor, found.roc.auc) == (1, 2, 1.0)
    assert found.bin_edges.tolist() == [0, 1, 2, 3]
    assert (found.genuine.tolist(), found.impostor.tolist()) == ([1, 0, 0], [0, 1, 1])
