"""Random galleries: who is drawn, how evenly, and what is reported of the trials."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.features import Features
from evaluate.core.retrieval.distances import FeatureDistances
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.random_gallery import mean_and_deviation, random_gallery_trials
from evaluate.core.retrieval.ranking import rank
from utils.errors import DataError


def make(pids) -> Features:
    """The embedding of each image is its row, so that a trial tells whom it drew."""
    rows = torch.arange(len(pids))
    return Features(rows[:, None].float(), torch.tensor(pids), torch.ones_like(rows), [], (1,))


def rows_of(features: Features) -> list[int]:
    return features.features.flatten().int().tolist()


@given(pids=st.lists(st.integers(-1, 5), max_size=25), seed=st.integers(0, 3))
def test_a_gallery_has_one_image_of_every_identity_and_the_rest_are_queries(pids, seed):
    pool = make(pids)
    identities = sorted({pid for pid in pids if pid > 0})
    images = [row for row, pid in enumerate(pids) if pid > 0]
    if len(identities) < 2 or len(images) == len(identities):
        with pytest.raises(DataError, match=f"{len(images)} of the {len(pids)} images"):
            random_gallery_trials(pool, 3, seed)
        return
    trials = list(random_gallery_trials(pool, 3, seed))
    assert len(trials) == 3
    for query, gallery in trials:
        assert sorted(gallery.pids.tolist()) == identities
        assert sorted(rows_of(query) + rows_of(gallery)) == images
        for part in (query, gallery):
            assert rows_of(part) == sorted(rows_of(part))
            assert part.pids.tolist() == [pids[row] for row in rows_of(part)]
            assert part.branch_dims == (1,)


def galleries(pids, repeats, seed):
    return [rows_of(gallery) for _, gallery in random_gallery_trials(make(pids), repeats, seed)]


def test_draws_depend_on_the_seed_alone():
    pids = [1, 2, 3, 4] * 5
    first = galleries(pids, 6, seed=1)
    assert galleries(pids, 6, seed=1) == first
    assert galleries(pids, 3, seed=1) == first[:3]
    assert galleries(pids, 6, seed=2) != first
    assert len({tuple(rows) for rows in first}) == 6


def test_every_image_is_as_likely_as_any_other_of_its_identity():
    repeats = 3000
    pids = [7, 8, 7, 9, 8, 7, 9, 8, 7]
    counts = [0] * len(pids)
    for rows in galleries(pids, repeats, seed=0):
        for row in rows:
            counts[row] += 1
    for count, pid in zip(counts, pids, strict=True):
        share = 1 / pids.count(pid)
        assert abs(count - repeats * share) < 5 * math.sqrt(repeats * share * (1 - share))


def test_a_trial_is_ranked_without_the_camera_rule():
    # Two identities on a line, apart from each other: every query finds its own first, though cameras are all the same.
    pool = make([1, 1, 1, 2, 2, 2])
    pool = pool._replace(features=torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]]))
    for query, gallery in random_gallery_trials(pool, 4, seed=0):
        truth = GroundTruth(query.pids, query.camids, gallery.pids, gallery.camids, cross_camera=False)
        result = rank(FeatureDistances(query.features, gallery.features, "euclidean"), truth)
        assert (result.num_query, len(result.queries)) == (4, 4)
        assert (result.cmc(1), result.mean_ap, result.mean_inp) == (1.0, 1.0, 1.0)


def test_mean_and_deviation_of_the_population():
    trials = [{"rank1": 0.5, "mAP": 0.25}, {"rank1": 0.7, "mAP": 0.25}, {"rank1": 0.9, "mAP": 0.25}]
    found = mean_and_deviation(trials)
    assert list(found) == ["rank1", "mAP", "rank1_std", "mAP_std"]
    assert found == pytest.approx({"rank1": 0.7, "mAP": 0.25, "rank1_std": math.sqrt(0.08 / 3), "mAP_std": 0.0})
