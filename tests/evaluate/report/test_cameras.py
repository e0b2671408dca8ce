"""The table of camera pairs against a plain loop over queries, cameras and the sorted gallery."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.features import Features
from evaluate.core.report.blocks import Note, Table
from evaluate.core.report.cameras import camera_pairs, camera_section, most_frequent
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import RankResult, rank
from evaluate.core.retrieval.retrieve import Retrieval
from tests.evaluate.matrix import MatrixDistances
from tests.evaluate.report.conftest import blocks_of


def reference(distance, query, gallery, cross_camera):
    """{(query camera, gallery camera): [(rank-1, AP) of each query that has a match there]}; sides: pids, camids."""
    (query_pids, query_camids), (gallery_pids, gallery_camids) = query, gallery
    cells = {}
    for row, (pid, camid) in enumerate(zip(query_pids, query_camids, strict=True)):
        for camera in sorted({*gallery_camids}):
            columns = [column for column in range(len(gallery_pids)) if gallery_camids[column] == camera]
            position = hits = 0
            right_first, precisions = False, []
            for column in sorted(columns, key=lambda column: (distance[row][column], column)):
                same = gallery_pids[column] == pid
                if gallery_pids[column] == -1 or (same and cross_camera and camera == camid):
                    continue
                position += 1
                if same and pid not in (0, -1):
                    right_first |= position == 1
                    hits += 1
                    precisions.append(hits / position)
            if hits:
                cells.setdefault((camid, camera), []).append((float(right_first), math.fsum(precisions) / hits))
    return cells


@st.composite
def problems(draw):
    num_query, num_gallery = draw(st.integers(1, 7)), draw(st.integers(1, 20))

    def numbers(count, values):
        return torch.tensor(draw(st.lists(st.sampled_from(values), min_size=count, max_size=count)))

    distance = numbers(num_query * num_gallery, [0.0, 0.5, 1.0, 2.0]).view(num_query, num_gallery)
    query = numbers(num_query, [0, 1, 2, 3, -1]), numbers(num_query, [1, 2, 7])
    return distance, query, (numbers(num_gallery, [1, 2, -1, 0, 1, 2]), numbers(num_gallery, [1, 2, 9]))


class Once(MatrixDistances):
    """Notes which rows are asked for."""

    def __init__(self, matrix):
        super().__init__(matrix)
        self.asked = []

    def rows(self, start, stop):
        self.asked += range(start, stop)
        return super().rows(start, stop)


@given(problem=problems(), cross_camera=st.booleans(), memory=st.sampled_from([1, 1000, 2**28]))
def test_agrees_with_a_loop_and_computes_each_distance_once(problem, cross_camera, memory):
    distance, query, gallery = problem
    distances = Once(distance)
    of, among = (Features(torch.zeros(len(pids), 1), pids, camids, []) for pids, camids in (query, gallery))
    truth = GroundTruth(*query, *gallery, cross_camera=cross_camera)
    empty = torch.empty(0)
    nothing = RankResult(empty, empty, empty, empty, empty, num_query=len(query[0]))
    pairs = camera_pairs(Retrieval(of, among, distances, truth, nothing), memory)
    assert distances.asked == list(range(len(distance)))
    assert pairs.query_cameras == sorted({*query[1].tolist()})
    assert pairs.gallery_cameras == sorted({*gallery[1].tolist()})
    of_query, of_gallery = ([part.tolist() for part in side] for side in (query, gallery))
    cells = reference(distance.tolist(), of_query, of_gallery, cross_camera)
    for row, camera in enumerate(pairs.query_cameras):
        for column, other in enumerate(pairs.gallery_cameras):
            expected = cells.get((camera, other), [])
            assert pairs.num_query[row, column] == len(expected)
            for found, values in ((pairs.rank1, [r for r, _ in expected]), (pairs.mean_ap, [a for _, a in expected])):
                mean = math.fsum(values) / len(values) if values else math.nan
                assert found[row, column].item() == pytest.approx(mean, abs=1e-12, nan_ok=True)


def test_the_cameras_with_most_images_are_kept_in_their_order():
    camids = torch.tensor([5, 5, 5, 2, 8, 8, 1])
    assert most_frequent(camids, 3) == [1, 5, 8]
    assert most_frequent(camids, 9) == [1, 2, 5, 8]


def retrieval_of(num_cameras, num_images=200):
    rng = torch.Generator().manual_seed(0)
    pids = torch.arange(num_images) % 5 + 1
    camids = torch.randint(1, num_cameras + 1, (num_images,), generator=rng)
    camids[:num_cameras] = torch.arange(1, num_cameras + 1)
    features = Features(torch.randn(num_images, 4, generator=rng), pids, camids, [])
    distances = MatrixDistances(torch.cdist(features.features, features.features))
    truth = GroundTruth(pids, camids, pids, camids, cross_camera=num_cameras > 1)
    return Retrieval(features, features, distances, truth, rank(distances, truth))


def test_a_section_has_two_tables_whose_last_column_is_the_whole_gallery():
    retrieval = retrieval_of(3)
    rank1, mean_ap = blocks_of(camera_section(retrieval, 2**28), Table)
    assert rank1.header[1:] == mean_ap.header[1:] == ("1", "2", "3", "all")
    own = retrieval.query.camids[retrieval.result.queries] == 2
    assert mean_ap.rows[1][-1].text == f"{retrieval.result.ap[own].mean():.1%}"[:-1]
    assert [row[place + 1].text for place, row in enumerate(rank1.rows)] == ["–"] * 3
    heat = [cell.heat for row in mean_ap.rows for cell in row if cell.heat is not None]
    assert (len(heat), min(heat), max(heat)) == (6, 0.0, 1.0)


def test_one_camera_is_a_sentence_and_very_many_are_a_part():
    (note,) = blocks_of(camera_section(retrieval_of(1), 2**28), Note)
    assert "one camera" in note.text
    rank1, _, *notes = camera_section(retrieval_of(50), 2**28).blocks
    assert isinstance(rank1, Table)
    assert (len(rank1.rows), len(rank1.header)) == (30, 32)
    assert all("the 30 of 50 cameras with most images" in note.text for note in notes if isinstance(note, Note))
