import numpy as np
import torch

from audit.findings import Findings, Pool
from audit.judge import judge
from data.samples import Sample
from tests.audit.conftest import Pedestrians, Planted, distinct_pixels, view_of

CUT = (20, 24, 30, 35, 40, 44)
"""Persons whose images of one camera get another identity."""


def judged(planted: Planted, pids: torch.Tensor) -> Findings:
    pool = planted.pool(pids)
    return judge(pool, distinct_pixels(len(pids)), [view_of(planted.features, len(pids))], 0.0, seed=0)


def with_wrong_labels(samples: list[Sample], share: float) -> tuple[list[Sample], set[int]]:
    """The samples, a share of them with the pid of another person, and which these are."""
    rng = np.random.default_rng(0)
    wrong = set(rng.choice(len(samples), round(share * len(samples)), replace=False).tolist())
    pids = sorted({sample.pid for sample in samples})
    relabelled = [
        sample._replace(pid=int(rng.choice([pid for pid in pids if pid != sample.pid]))) if row in wrong else sample
        for row, sample in enumerate(samples)
    ]
    return relabelled, wrong


def test_wrong_labels_of_pedestrians_are_found_by_colour_alone(pedestrians: Pedestrians) -> None:
    samples, wrong = with_wrong_labels(pedestrians.samples, 0.05)
    pool = Pool(pedestrians.root, samples, len(samples), 0, 30)
    view = view_of(pedestrians.features, len(samples))
    found = judge(pool, pedestrians.pixels, [view], 4.0, seed=0)
    flagged = set(found.swapped(0.5))
    assert len(flagged & wrong) >= 0.8 * len(wrong)
    assert len(flagged & wrong) >= 0.8 * len(flagged)
    right = [row for row in flagged & wrong if int(found.swaps.nearest[row]) == pedestrians.samples[row].pid]
    assert len(right) >= 0.8 * len(flagged & wrong)


def test_the_scores_of_wrong_labels_are_probabilities(planted: Planted) -> None:
    for share in (0.02, 0.05, 0.1):
        samples, wrong = with_wrong_labels(planted.pool(planted.pids).samples, share)
        found = judged(planted, torch.tensor([sample.pid for sample in samples]))
        assert abs(float(found.swaps.probabilities.sum()) - len(wrong)) <= 0.2 * len(wrong) + 1
        assert set(found.swapped(0.5)) <= wrong
        assert len(found.swapped(0.5)) >= 0.9 * len(wrong)


def test_nothing_is_found_where_nothing_is_wrong(planted: Planted) -> None:
    found = judged(planted, planted.pids)
    assert found.swapped(0.1) == []
    assert [split for split in found.splits if split.probability > 0.5] == []
    assert [merge for merge in found.merges if merge.probability > 0.5] == []
    assert found.copies == found.crops == []


def test_identities_of_two_persons_and_persons_of_two_identities_are_found(planted: Planted) -> None:
    pids = planted.pids.clone()
    for pid in (2, 4, 6):  # two persons in one identity
        pids[pids == pid + 1] = pid
    for pid in CUT:  # one person in two identities, by camera
        pids[(pids == pid) & (planted.camids == 2)] = pid + 100
    found = judged(planted, pids)
    splits = {split.label: split for split in found.splits if split.probability >= 0.5}
    assert splits.keys() == {2, 4, 6}
    for pid, split in splits.items():
        parts = [set(planted.pids[rows].tolist()) for rows in (split.parts.larger, split.parts.smaller)]
        assert sorted(parts, key=min) == [{pid}, {pid + 1}]
    merges = {(merge.first, merge.second) for merge in found.merges if merge.probability >= 0.5}
    assert merges == {(pid, pid + 100) for pid in CUT}


def test_a_part_of_an_identity_that_looks_like_another_is_given_to_it(planted: Planted) -> None:
    pids = planted.pids.clone()
    # Four pictures in a row: each looks like its neighbours, which have the same wrong label.
    pids[(pids == 9) & (planted.camids == 1)] = 8
    for pid in (2, 4):
        pids[pids == pid + 1] = pid
    found = judged(planted, pids)
    assert found.swapped(0.5) == []
    assert {(split.label, split.other) for split in found.splits if split.probability >= 0.5} >= {(8, 9), (2, None)}


def test_a_person_of_training_and_test_set_is_found(planted: Planted) -> None:
    pids = planted.pids.clone()
    for pid in CUT:
        pids[(pids == pid) & (planted.camids == 2)] = pid + 100
    order = torch.cat([(pids < 100).nonzero().flatten(), (pids >= 100).nonzero().flatten()])
    moved = Planted(planted.features[order], pids[order], planted.camids[order])
    num_train = int((pids < 100).sum())
    pool = moved.pool(moved.pids)._replace(num_train=num_train, num_query=0)
    view = view_of(moved.features, num_train)
    found = judge(pool, distinct_pixels(len(pids)), [view], 0.0, seed=0)
    merges = {(merge.first, merge.second) for merge in found.merges if merge.probability >= 0.5}
    assert merges == {(pid, pid + 100) for pid in CUT}


def test_each_view_judges_its_own_images(planted: Planted) -> None:
    samples, wrong = with_wrong_labels(planted.pool(planted.pids).samples, 0.05)
    pids = torch.tensor([sample.pid for sample in samples])
    garbage = torch.randn(planted.features.shape, generator=torch.Generator().manual_seed(1))
    is_first = pids <= 30
    # Each embeds the other's images badly.
    views = [
        view_of(torch.where(is_first[:, None], planted.features, garbage), len(pids))._replace(is_judged=is_first),
        view_of(torch.where(is_first[:, None], garbage, planted.features), len(pids))._replace(is_judged=~is_first),
    ]
    found = judge(planted.pool(pids), distinct_pixels(len(pids)), views, 0.0, seed=0)
    both_known = {row for row in wrong if (planted.pids[row] <= 30) == (pids[row] <= 30)}
    assert len(both_known & set(found.swapped(0.5))) >= 0.8 * len(both_known)
    assert set(found.swapped(0.5)) <= wrong
