"""Principal components against the singular value decomposition, and who stands on the map."""

import numpy as np
import pytest
import torch

from evaluate.core.report import embedding
from evaluate.core.report.blocks import Chart, Note
from evaluate.core.report.embedding import embedding_map, embedding_section, principal_components
from tests.evaluate.report.conftest import blocks_of


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (12, 12), (200, 3)])
def test_agrees_with_the_singular_value_decomposition(shape):
    features = np.random.default_rng(1).normal(size=shape) * np.linspace(3, 1, shape[1]) + 5.0
    projection = principal_components(torch.tensor(features))
    centred = features - features.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(projection.points.abs(), np.abs(left * values)[:, :2], atol=1e-9)
    np.testing.assert_allclose(projection.explained, values**2 / (values**2).sum(), atol=1e-12)
    for points in projection.points.T:
        assert points[points.abs().argmax()] > 0


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (2, 9)])
def test_a_component_that_does_not_exist_is_zero(shape):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    projection = principal_components(features)
    assert projection.points.shape == (shape[0], 2)
    torch.testing.assert_close(projection.points[:, 1], torch.zeros(shape[0], dtype=torch.float64), atol=1e-6, rtol=0)
    centred = features.double() - features.double().mean(dim=0)
    assert projection.points.square().sum().item() == pytest.approx(centred.square().sum().item(), abs=1e-9)


def test_equal_embeddings_have_no_variance(retrieval):
    query, gallery = (part._replace(features=torch.full_like(part.features, 0.1)) for part in retrieval[:2])
    assert principal_components(gallery.features).explained.tolist() == [0.0] * 12
    same = retrieval._replace(query=query, gallery=gallery)
    for metric in ("cosine", "euclidean"):
        section = embedding_section(same, metric, np.random.default_rng(0))
        assert isinstance(section.blocks[0], Note)


def test_the_map_shows_searched_persons_and_fills_up_with_others(retrieval, monkeypatch):
    monkeypatch.setattr(embedding, "MAX_PERSONS", 2)
    monkeypatch.setattr(embedding, "MAX_POINTS", 40)
    found = embedding_map(retrieval, "cosine", np.random.default_rng(0))
    assert len(found.persons) == 2
    assert {*found.persons} <= set(range(1, 7))
    own = sum((found.pids == pid).sum().item() for pid in found.persons)
    assert own == 2 * (3 + 9)
    assert len(found.pids) == len(found.projection.points) == 40
    again = embedding_map(retrieval, "cosine", np.random.default_rng(0))
    assert again.projection.points.equal(found.projection.points)


def test_rows_of_the_map_belong_together(retrieval):
    found = embedding_map(retrieval, "euclidean", np.random.default_rng(0))
    query, gallery = retrieval.query, retrieval.gallery
    assert found.pids.tolist() == [*query.pids.tolist(), *gallery.pids.tolist()]
    assert found.is_query.tolist() == [True] * len(query.pids) + [False] * len(gallery.pids)
    expected = principal_components(torch.cat([query.features, gallery.features]))
    torch.testing.assert_close(found.projection.points, expected.points)


def test_the_section_draws_the_map_and_the_variance(retrieval):
    section = embedding_section(retrieval, "cosine", np.random.default_rng(0))
    points, variance = blocks_of(section, Chart)
    assert points.svg.count("<title>pid 3</title>") == 2
    assert "of 12 components hold 90%" in variance.caption
