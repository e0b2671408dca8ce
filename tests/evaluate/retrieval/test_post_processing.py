"""Post-processing of embeddings against plain loops over the definitions."""

import math
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.features import Features
from data.samples import Sample
from evaluate.core.retrieval import post_processing
from evaluate.core.retrieval.distances import FeatureDistances
from evaluate.core.retrieval.post_processing import (
    averaged_queries,
    expanded_queries,
    normalised,
    standardised_by_camera,
    without_camera_bias,
)
from utils.errors import DataError


def make(rows, pids=None, camids=None, *, named=True, branch_dims=()) -> Features:
    pids = pids or [1] * len(rows)
    camids = camids or [1] * len(rows)
    samples = [Sample(Path(f"{row}.jpg"), pids[row], camids[row]) for row in range(len(rows))] if named else []
    features = torch.tensor(rows, dtype=torch.float32).view(len(rows), -1)
    return Features(features, torch.tensor(pids), torch.tensor(camids), samples, branch_dims)


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 4096])
@pytest.mark.parametrize(("how", "dims"), [("whole", (5,)), ("branch", (2, 3)), ("branch", (1, 1, 3))])
def test_each_part_has_length_one(how, dims, rows_at_a_time, monkeypatch):
    monkeypatch.setattr(post_processing, "ROWS", rows_at_a_time)
    embeddings = (torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 30).tolist()
    features = make(embeddings, branch_dims=dims)
    expected = []
    for row in features.features.tolist():
        unit, start = [], 0
        for dim in dims:
            part = row[start : start + dim]
            unit += [value / math.hypot(*part) for value in part]
            start += dim
        expected.append(unit)
    found = normalised(features, how)
    assert found.features.dtype == torch.float32
    assert torch.tensor(expected).equal(found.features)
    assert found[1:] == features[1:]
    assert features.features.equal(torch.tensor(embeddings)), "the given embeddings were changed"


def test_without_normalisation_nothing_changes():
    features = make([[3.0, 4.0], [0.0, 0.0]])
    assert normalised(features, "none") is features


def test_embeddings_of_extreme_length_have_a_direction():
    found = normalised(make([[3e-30, 4e-30], [3e30, 4e30]]), "whole")
    torch.testing.assert_close(found.features, torch.tensor([[0.6, 0.8], [0.6, 0.8]]))


@pytest.mark.parametrize(
    ("how", "named", "message"),
    [
        ("whole", True, r"^2\.jpg: the embedding has length zero"),
        ("whole", False, "^row 2 of the features: the embedding has length zero"),
        ("branch", True, r"^1\.jpg: branch 1 of the embedding has length zero"),
    ],
)
def test_what_has_no_direction_is_named(how, named, message, monkeypatch):
    monkeypatch.setattr(post_processing, "ROWS", 1)
    features = make([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], named=named, branch_dims=(1, 2))
    with pytest.raises(DataError, match=message):
        normalised(features, how)


def test_branches_must_be_known():
    with pytest.raises(DataError, match='"branch": nothing says which parts'):
        normalised(make([[1.0, 2.0]]), "branch")


def test_each_camera_is_standardised_and_small_ones_as_all_images():
    features = torch.randn(85, 6, generator=torch.Generator().manual_seed(0))
    camids = torch.tensor([1] * 40 + [4] * 40 + [9] * 5)
    features += camids[:, None]
    found = standardised_by_camera(features, camids).tolist()
    for row, camid in enumerate(camids.tolist()):
        among = [features[k].tolist() for k in range(85) if camid == 9 or camids[k] == camid]
        columns = zip(features[row].tolist(), zip(*among, strict=True), strict=True)
        expected = [(value - mean(column)) / stdev(column) for value, column in columns]
        assert found[row] == pytest.approx([value / math.hypot(*expected) for value in expected], abs=1e-5)


@pytest.mark.parametrize("value", [1000.1, 0.123])
def test_numbers_that_are_the_same_in_all_images_of_a_camera_become_zero(value):
    features = torch.randn(77, 3, generator=torch.Generator().manual_seed(0))
    features[:, 0] = torch.tensor([value] * 40 + [0.7] * 37)
    camids = torch.tensor([1] * 40 + [2] * 37)
    found = standardised_by_camera(features, camids)
    assert not found[:, 0].any()
    assert found[:, 1:].norm(dim=1).tolist() == pytest.approx([1.0] * 77)
    assert not standardised_by_camera(features[:1].expand(40, -1), camids[:40]).any()


def test_query_and_gallery_of_a_camera_are_standardised_together():
    rows, camids = torch.randn(80, 4, generator=torch.Generator().manual_seed(1)), [3, 8] * 40
    whole = make(rows.tolist(), camids=camids)
    expected = standardised_by_camera(whole.features, whole.camids)
    query, gallery = without_camera_bias(make(rows[:10].tolist(), camids=camids[:10]), whole.at(torch.arange(10, 80)))
    assert query.features.equal(expected[:10])
    assert gallery.features.equal(expected[10:])
    assert gallery.samples == whole.samples[10:]


@given(
    images=st.lists(
        st.tuples(st.integers(-1, 3), st.integers(1, 2), st.tuples(st.floats(-9, 9, width=32), st.integers(-3, 3))),
        min_size=1,
        max_size=20,
    )
)
def test_queries_of_a_person_and_camera_become_their_mean(images):
    query = make([row for _, _, row in images], [pid for pid, _, _ in images], [camid for _, camid, _ in images])
    groups: dict[object, list[int]] = {}
    for index, (pid, camid, _) in enumerate(images):
        groups.setdefault((pid, camid) if pid > 0 else index, []).append(index)
    expected = [[math.fsum(images[row][2][d] for row in rows) / len(rows) for d in (0, 1)] for rows in groups.values()]
    firsts = [rows[0] for rows in groups.values()]
    found = averaged_queries(query)
    torch.testing.assert_close(found.features, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert found.samples == [query.samples[row] for row in firsts]
    assert found.pids.tolist() == [images[row][0] for row in firsts]
    assert found.camids.tolist() == [images[row][1] for row in firsts]


def test_the_order_of_queries_does_not_change_their_mean(monkeypatch):
    monkeypatch.setattr(post_processing, "ROWS", 4)
    rng = torch.Generator().manual_seed(1)
    embeddings = torch.randn(10, 3, generator=rng)
    query = make(embeddings.tolist(), [5] * 10, named=False)
    mean = averaged_queries(query).features
    assert mean.shape == (1, 3)
    torch.testing.assert_close(mean[0], embeddings.mean(dim=0))
    for _ in range(5):
        shuffled = query.at(torch.randperm(10, generator=rng))
        assert averaged_queries(shuffled).features.equal(mean)


def test_a_single_query_of_each_person_and_camera_stays_as_it_is():
    query = make([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], [1, 1, 2], [1, 2, 1])
    assert averaged_queries(query).features.equal(query.features)


coordinate = st.integers(-2, 2)
embedding = st.tuples(coordinate, coordinate, coordinate).filter(any)


@given(
    query=st.lists(embedding, min_size=1, max_size=5),
    gallery=st.lists(embedding, min_size=1, max_size=12),
    data=st.data(),
    metric=st.sampled_from(["cosine", "euclidean"]),
    memory=st.sampled_from([1, 2**20]),
)
def test_a_query_moves_to_the_mean_of_itself_and_its_nearest(query, gallery, data, metric, memory):
    k = data.draw(st.integers(1, len(gallery)))
    queries, images = torch.tensor(query).float(), torch.tensor(gallery).float()
    # On whole numbers Euclidean distances are exact, and many are equal; cosines are taken as they come.
    cosine = FeatureDistances(queries, images, "cosine").rows(0, len(query)).tolist()
    expected = []
    for row, own in enumerate(query):
        distance = [math.dist(own, image) for image in gallery] if metric == "euclidean" else cosine[row]
        near = sorted(range(len(gallery)), key=lambda index: (distance[index], index))[:k]
        members = [own, *(gallery[index] for index in near)]
        if metric == "cosine":
            members = [[value / math.hypot(*member) for value in member] for member in members]
        expected.append([math.fsum(values) / (k + 1) for values in zip(*members, strict=True)])
    found = expanded_queries(queries, images, metric, k, memory)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert queries.equal(torch.tensor(query).float()), "the given queries were changed"


def test_expansion_needs_enough_gallery_images():
    ones = torch.ones(2, 3)
    with pytest.raises(DataError, match="nearest 3: the gallery has 2 images"):
        expanded_queries(ones, ones, "cosine", 3)
