"""Approximate neighbours against a loop over the images of the cells that each visits."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaluate.core.retrieval.approximate import (
    approximate_neighbours,
    cell_centres,
    find_neighbours,
    nearest_centres,
    rows_by_cell,
)
from evaluate.core.retrieval.neighbours import TILE_BYTES_PER_PAIR, nearest_neighbours
from tests.evaluate.k_reciprocal_reference import random_features, reference_distances
from tests.processes import run_in_processes


def clustered(number):
    """(N, 8) around 12 points, of any length."""
    rows = random_features(12, seed=1)[torch.arange(number) % 12] + 0.3 * random_features(number, seed=2)
    return rows * torch.linspace(0.5, 3, number)[:, None]


@pytest.mark.parametrize(("cells", "probes", "memory"), [(10, 2, 2**30), (30, 1, 2000), (30, 7, 50_000)])
def test_the_neighbours_are_the_nearest_of_the_cells_that_an_image_visits(cells, probes, memory):
    features, count = clustered(240), 6
    centres = cell_centres(features, cells, seed=5)
    near = (F.normalize(features) @ centres.T).argsort(dim=1, descending=True)[:, :probes]
    distance = reference_distances(features, "cosine")
    found = approximate_neighbours(features, count, cells, probes, seed=5, memory=memory)
    num_compared_with_all = 0
    for row, visited, distances in zip(found.tolist(), near.tolist(), distance, strict=True):
        allowed = np.flatnonzero(np.isin(near[:, 0].numpy(), visited))
        if len(allowed) < count:
            allowed, num_compared_with_all = np.arange(240), num_compared_with_all + 1
        assert row == allowed[np.argsort(distances[allowed], kind="stable")[:count]].tolist()
    assert (num_compared_with_all > 0) == (probes == 1)


def test_with_all_cells_the_search_is_exact_and_with_fewer_nearly():
    features = clustered(240)
    exact = nearest_neighbours(features, 10).order
    assert approximate_neighbours(features, 10, 9, 9).equal(exact)
    assert approximate_neighbours(features, 400, 9, 1).equal(nearest_neighbours(features, 400).order)
    found = approximate_neighbours(features, 10, 9, 2)
    recall = np.mean([len({*one} & {*two}) / 10 for one, two in zip(found.tolist(), exact.tolist(), strict=True)])
    assert 0.9 < recall < 1


def test_centres_are_of_unit_length_and_nearer_than_those_they_began_with():
    features = clustered(2000)
    centres = cell_centres(features, 12, seed=0)
    torch.testing.assert_close(torch.linalg.vector_norm(centres, dim=1), torch.ones(12))
    chosen = torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:12]
    similarity, before = (
        (F.normalize(features) @ each.T).amax(dim=1).mean() for each in (centres, F.normalize(features[chosen]))
    )
    assert similarity > before + 0.02
    assert cell_centres(features.new_ones(5, 3), 5, seed=0).isfinite().all()  # four centres have no image


def test_rows_by_cell_are_in_order_and_empty_cells_have_none():
    assert [rows.tolist() for rows in rows_by_cell(torch.tensor([[2, 0], [0, 2], [2, 3]]), 5)] == [
        [0, 1],
        [],
        [0, 1, 2],
        [2],
        [],
    ]


def test_the_nearest_centres_are_in_order():
    centres = F.normalize(random_features(7, seed=3))
    features = random_features(50, seed=4)
    expected = (F.normalize(features) @ centres.T).argsort(dim=1, descending=True)[:, :3]
    assert nearest_centres(features, centres, 3, memory=TILE_BYTES_PER_PAIR * 7 * 4).equal(expected)


def shared_search():
    """The neighbours, 6 of which some images only have among all."""
    return approximate_neighbours(clustered(240), 6, 30, 1, is_shared=True)


def test_several_processes_share_the_cells_and_all_have_the_whole():
    (alone,), both = run_in_processes(shared_search, 1), run_in_processes(shared_search, 2)
    assert all(found.equal(alone) for found in both)


def test_a_search_is_exact_without_probes_or_with_as_many_as_there_are_cells():
    features = clustered(240)
    exact = nearest_neighbours(features, 6).order
    assert find_neighbours(features, 6, 0).equal(exact)
    assert find_neighbours(features, 6, 1000).equal(exact)
    assert find_neighbours(features, 6, 2).equal(approximate_neighbours(features, 6, 15, 2))
    assert not find_neighbours(features, 6, 1).equal(exact)


def test_numbers_out_of_range_are_refused():
    for cells, probes in ((0, 0), (5, 6), (5, 0), (41, 3)):
        with pytest.raises(ValueError, match="probes <= cells <= 40 expected, got"):
            approximate_neighbours(clustered(40), 3, cells, probes)
    with pytest.raises(ValueError, match="features: 40 of 40 embeddings hold NaN"):
        approximate_neighbours(clustered(40) * torch.nan, 3, 4, 2)
