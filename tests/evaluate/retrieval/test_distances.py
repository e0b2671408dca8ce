"""Distances against the definition, in float64, and what becomes of embeddings that have none."""

import math

import pytest
import torch

from evaluate.core.retrieval.distances import BLOCK_QUERIES, FeatureDistances, blocks, full_precision
from tests.evaluate.matrix import MatrixDistances
from utils.errors import DataError


def test_cosine_ignores_the_length_of_embeddings():
    query, gallery = torch.tensor([[3.0, 0.0]]), torch.tensor([[10.0, 1.0], [0.1, 0.1], [-5.0, 0.0], [0.0, 2.0]])
    expected = [1 - 10 / math.sqrt(101), 1 - math.sqrt(0.5), 2.0, 1.0]
    assert FeatureDistances(query, gallery, "cosine").rows(0, 1)[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rows_agree_with_the_definition_in_float64(metric, dtype):
    rng = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(number, 16, generator=rng).to(dtype) for number in (5, 7))
    if metric == "euclidean":
        expected = (query.double()[:, None] - gallery.double()).square().sum(2).sqrt()
    else:
        expected = 1 - torch.cosine_similarity(query.double()[:, None], gallery.double(), dim=2)
    distances = FeatureDistances(query, gallery, metric)
    assert distances.shape == (5, 7)
    # Summed up in float32 whatever the embeddings are; blocks of any size give the same.
    for start, stop in ((0, 5), (1, 3), (4, 5), (0, 1)):
        rows = distances.rows(start, stop)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.double(), expected[start:stop], rtol=1e-4, atol=1e-4)


def test_the_same_image_is_at_distance_zero_and_never_below():
    features = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) * 1e3
    for metric in ("cosine", "euclidean"):
        assert (FeatureDistances(features, features, metric).rows(0, 50) >= 0).all()


def test_whole_numbers_tie_exactly():
    rng = torch.Generator().manual_seed(0)
    grid = torch.randint(-3, 4, (60, 5), generator=rng).float()
    rows = FeatureDistances(grid, grid, "euclidean").rows(0, 60)
    assert (rows.diagonal() == 0).all()
    assert rows.equal((grid[:, None] - grid).square().sum(2).sqrt())


def test_the_caller_may_write_into_rows():
    matrix = torch.ones(2, 3)
    for distances in (MatrixDistances(matrix), FeatureDistances(torch.eye(2, 3), torch.eye(3), "cosine")):
        before = distances.rows(0, 2).clone()
        distances.rows(0, 2).fill_(9.0)
        assert distances.rows(0, 2).equal(before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_embeddings_that_are_no_numbers_are_refused(metric, bad):
    gallery = torch.ones(3, 2)
    gallery[1, 0] = bad
    with pytest.raises(ValueError, match=r"gallery: 1 of 3 embeddings .* the first in row 1"):
        FeatureDistances(torch.ones(1, 2), gallery, metric)


def test_finite_embeddings_of_any_length_have_distances_or_a_reason():
    query, gallery = torch.ones(1, 2), torch.full((3, 2), 1e18)
    assert FeatureDistances(query, gallery, "cosine").rows(0, 1).tolist() == [pytest.approx([0.0] * 3, abs=1e-6)]
    gallery[1, 0] = 1e30
    for metric in ("cosine", "euclidean"):
        with pytest.raises(DataError, match=r"gallery: 1 of 3 embeddings are too long.* the first in row 1"):
            FeatureDistances(query, gallery, metric)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("num_gallery", [3, 515, 1000])
def test_equal_images_are_equally_far_in_blocks_of_any_size(metric, num_gallery):
    rng = torch.Generator().manual_seed(0)
    query, one = torch.randn(40, 33, generator=rng), torch.randn(1, 33, generator=rng)
    distances = FeatureDistances(query, one.repeat(num_gallery, 1), metric)
    whole = distances.rows(0, 40).clone()
    assert (whole == whole[:, :1]).all()
    for start, stop in ((0, 1), (3, 4), (5, 7), (39, 40), (10, 30)):
        rows = distances.rows(start, stop)
        assert rows.shape == (stop - start, num_gallery)
        assert (rows == rows[:, :1]).all()


def test_rows_are_the_same_in_blocks_of_any_size():
    rng = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(64, 128, generator=rng), torch.randn(700, 128, generator=rng)
    distances = FeatureDistances(query, gallery, "cosine")
    whole = distances.rows(0, 64).clone()
    for row in (0, 1, 17, 63):
        torch.testing.assert_close(distances.rows(row, row + 1)[0], whole[row], rtol=0, atol=2e-7)


def test_what_all_embeddings_have_in_common_costs_no_digits():
    rng = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(number, 64, generator=rng) + 1000 for number in (5, 90))
    expected = (query.double()[:, None] - gallery.double()).square().sum(2).sqrt()
    rows = FeatureDistances(query, gallery, "euclidean").rows(0, 5)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-5, atol=1e-4)


def test_an_embedding_of_length_zero_has_no_cosine():
    query = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(DataError, match=r"query: 1 of 2 embeddings have length zero, the first in row 1.*euclidean"):
        FeatureDistances(query, torch.ones(3, 2), "cosine")
    assert FeatureDistances(query, torch.ones(3, 2), "euclidean").rows(1, 2).tolist() == [
        pytest.approx([math.sqrt(2)] * 3)
    ]


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (2, 3)), ((2, 0), (2, 0))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="embeddings"):
        FeatureDistances(torch.ones(shapes[0]), torch.ones(shapes[1]), "cosine")


def test_blocks_cover_all_queries_within_the_memory():
    distances = MatrixDistances(torch.zeros(10, 100))
    assert list(blocks(distances, memory=1, bytes_per_pair=4)) == [(row, row + 1) for row in range(10)]
    assert list(blocks(distances, memory=1200, bytes_per_pair=4)) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    many = MatrixDistances(torch.zeros(2 * BLOCK_QUERIES + 1, 2))
    sizes = [stop - start for start, stop in blocks(many, memory=2**40, bytes_per_pair=4)]
    assert sizes == [BLOCK_QUERIES, BLOCK_QUERIES, 1]
    assert list(blocks(MatrixDistances(torch.zeros(0, 100)), memory=1, bytes_per_pair=4)) == []


def test_reduced_precision_chosen_for_training_is_put_aside_and_back():
    torch.set_float32_matmul_precision("medium")
    for_training = torch.backends.cuda.matmul.fp32_precision
    assert for_training != "ieee"
    try:
        with full_precision():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == for_training
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
