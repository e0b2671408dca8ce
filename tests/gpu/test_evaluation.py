"""Ranking, re-ranking and verification give on a GPU what they give on the CPU."""

import pytest
import torch

from benchmarks.planted import Size, planted_features
from evaluate.core.retrieval.approximate import approximate_neighbours
from evaluate.core.retrieval.distances import Distances, FeatureDistances, Metric
from evaluate.core.retrieval.jaccard import sparse_jaccard
from evaluate.core.retrieval.k_reciprocal import KReciprocalDistances
from evaluate.core.retrieval.neighbours import nearest_neighbours
from evaluate.core.retrieval.post_processing import expanded_queries
from evaluate.core.retrieval.protocols import GroundTruth
from evaluate.core.retrieval.ranking import nearest, rank
from evaluate.core.retrieval.spectral import SpectralDistances
from evaluate.core.verification.roc import retrieval_roc
from tests.gpu.conftest import CPU, GPU

METRICS: list[Metric] = ["cosine", "euclidean"]
SIZE = Size(num_query=100, num_gallery=400, num_pids=30, num_cameras=6, dim=256)


def problem(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, GroundTruth]:
    query, gallery = planted_features(SIZE, seed=0)
    labels = [part.to(device) for part in (query.pids, query.camids, gallery.pids, gallery.camids)]
    return query.features.to(device), gallery.features.to(device), GroundTruth(*labels)


def distances_of(kind: str, query: torch.Tensor, gallery: torch.Tensor, metric: Metric) -> Distances:
    if kind == "k_reciprocal":
        return KReciprocalDistances(query, gallery, metric)
    plain = FeatureDistances(query, gallery, metric)
    return SpectralDistances(plain, query, gallery) if kind == "spectral" else plain


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["plain", "spectral", "k_reciprocal"])
def test_metrics_are_those_of_the_cpu(kind: str, metric: Metric, device: torch.device) -> None:
    found = []
    for place in (CPU, device):
        query, gallery, truth = problem(place)
        distances = distances_of(kind, query, gallery, metric)
        result, roc = rank(distances, truth, memory=2**22), retrieval_roc(distances, truth, memory=2**22).roc
        scores = [result.cmc(1), result.cmc(5), result.mean_ap, result.mean_ap_trapezoid, result.mean_inp]
        found.append([*scores, roc.auc, roc.eer, roc.tar_at(0.01)])
    # Rounding may swap two gallery images that are equally far but for the last bit.
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_ties_are_ordered_alike(device: torch.device) -> None:
    rng = torch.Generator().manual_seed(0)
    # Whole numbers: products are exact, so that equal distances are equal on both devices.
    query, gallery = (torch.randint(1, 4, (number, 4), generator=rng).float() for number in (40, 500))
    pids = [torch.randint(0, 9, (number,), generator=rng) for number in (40, 500)]
    camids = [torch.randint(1, 4, (number,), generator=rng) for number in (40, 500)]
    positions, orders = [], []
    for place in (CPU, device):
        labels = [part.to(place) for part in (pids[0], camids[0], pids[1], camids[1])]
        truth, distances = GroundTruth(*labels), FeatureDistances(query.to(place), gallery.to(place), "euclidean")
        positions.append(rank(distances, truth).ap)
        orders.append(nearest(distances, truth, 50).order)
    torch.testing.assert_close(positions[0], positions[1], rtol=0, atol=1e-12)
    assert orders[0].equal(orders[1])


def test_expanded_queries_are_those_of_the_cpu(device: torch.device) -> None:
    first, second = (expanded_queries(query, gallery, "cosine", 3) for query, gallery, _ in map(problem, (CPU, device)))
    torch.testing.assert_close(first, second.cpu(), rtol=1e-5, atol=1e-5)


# Blocks of fewer than 128 queries and of more are sorted by different kernels.
@pytest.mark.parametrize("device", [GPU], indirect=True)  # no fake has its memory
@pytest.mark.parametrize("memory", [2**26, 2**28])
def test_ranking_stays_within_its_memory(memory: int, device: torch.device) -> None:
    rng = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(number, 64, generator=rng).to(device) for number in (600, 20_000))
    labels = [torch.randint(1, 90, (number,), generator=rng).to(device) for number in (600, 600, 20_000, 20_000)]
    distances, truth = FeatureDistances(query, gallery, "cosine"), GroundTruth(*labels)
    distances.rows(0, 1)  # cuBLAS takes memory of its own at its first product
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    rank(distances, truth, memory)
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * memory


def test_neighbours_and_their_jaccard_distances_are_those_of_the_cpu(device: torch.device) -> None:
    features = torch.nn.functional.normalize(planted_features(SIZE, seed=0).gallery.features)
    exact, approximate, jaccard = [], [], []
    for place in (CPU, device):
        here = features.to(place)
        near = nearest_neighbours(here, 10, memory=2**20)
        exact.append(near)
        approximate.append(approximate_neighbours(here, 10, cells=20, probes=4))
        jaccard.append(sparse_jaccard(here, 10, 3, 0.9, order=exact[0].order).toarray())
    # Rounding may swap two images that are equally far but for the last bit.
    for one, two in (approximate, [near.order for near in exact]):
        assert one.device == two.device == CPU
        assert (one == two).float().mean() > 0.99
    torch.testing.assert_close(exact[0].distance, exact[1].distance, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(jaccard[0]), torch.from_numpy(jaccard[1]), rtol=0, atol=1e-5)
