"""The rules of retrieval against the rules written out as comparisons of every query with every gallery image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluate.core.retrieval import protocols
from evaluate.core.retrieval.protocols import GroundTruth


def labels(draw, number):
    pids = draw(st.lists(st.sampled_from([-1, 0, 1, 2, 900]), min_size=number, max_size=number))
    camids = draw(st.lists(st.integers(1, 3), min_size=number, max_size=number))
    return torch.tensor(pids, dtype=torch.int64), torch.tensor(camids, dtype=torch.int64)


@given(data=st.data(), cross_camera=st.booleans())
def test_agrees_with_comparing_every_pair(data, cross_camera):
    query_pids, query_camids = labels(data.draw, data.draw(st.integers(0, 6)))
    gallery_pids, gallery_camids = labels(data.draw, data.draw(st.integers(1, 15)))
    truth = GroundTruth(query_pids, query_camids, gallery_pids, gallery_camids, cross_camera=cross_camera)
    same_pid = query_pids[:, None] == gallery_pids
    same_camera = (query_camids[:, None] == gallery_camids) & cross_camera
    is_match = same_pid & ~same_camera & (gallery_pids > 0)
    is_ignored = (gallery_pids == -1) | (same_pid & same_camera & (gallery_pids > 0))
    assert truth.shape == (len(query_pids), len(gallery_pids))
    assert truth.is_person.equal(query_pids > 0)
    assert truth.num_matches.equal(is_match.sum(dim=1))
    start = data.draw(st.integers(0, len(query_pids)))
    stop = data.draw(st.integers(start, len(query_pids)))
    index, valid = truth.matches(start, stop)
    assert [row[is_there].tolist() for row, is_there in zip(index, valid, strict=True)] == [
        row.nonzero().flatten().tolist() for row in is_match[start:stop]
    ]
    # Matches first, filling after them, and no wider than the longest row.
    assert (valid.int().diff(dim=1) <= 0).all()
    assert index.shape[1] == (int(is_match[start:stop].sum(dim=1).max()) if stop > start else 0)
    rows, columns = truth.ignored(start, stop)
    marked = torch.zeros(stop - start, len(gallery_pids), dtype=torch.bool)
    marked[rows, columns] = True
    assert marked.equal(is_ignored[start:stop])


@pytest.mark.parametrize("num_places", [1, 40, 99, 2**22])
def test_few_gallery_images_are_compared_at_once_when_matches_are_counted(num_places, monkeypatch):
    monkeypatch.setattr(protocols, "NUM_PLACES", num_places)
    shapes = []

    class Recorded(GroundTruth):
        def _same_person(self, start, stop):
            found = super()._same_person(start, stop)
            shapes.append(found[0].shape)
            return found

    # The many distractors are true matches of no query, not even of one of pid 0.
    gallery_pids = torch.tensor([1] * 20 + [2] * 3 + [0] * 5000)
    query_pids = torch.tensor([1, 2, 0, 1, 0, 3, 2])
    ones = [torch.ones_like(pids) for pids in (query_pids, gallery_pids)]
    truth = Recorded(query_pids, ones[0], gallery_pids, ones[1], cross_camera=False)
    assert truth.num_matches.tolist() == [20, 3, 0, 20, 0, 0, 3]
    assert all(rows == 1 or rows * width <= num_places for rows, width in shapes)
    assert [rows for rows, _ in shapes] == {1: [1] * 7, 40: [2, 2, 2, 1], 99: [4, 3], 2**22: [7]}[num_places]
    assert max(width for _, width in shapes) == 20
