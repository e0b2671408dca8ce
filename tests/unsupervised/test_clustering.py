"""Clusters of planted groups of embeddings, their centroids, and how far they agree with identities."""

from itertools import combinations
from math import comb
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from config.clustering import ClusteringParams
from data.samples import UNKNOWN_PID
from unsupervised.clustering import OUTLIER, centroids_of, cluster, rand_index, split_by_camera


def groups(sizes: list[int], spread: float = 0.02, seed: int = 0) -> Tensor:
    """So many embeddings around each of some directions at right angles, of unit length."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.eye(len(sizes), 16)
    rows = [centers[number].expand(size, -1) for number, size in enumerate(sizes)]
    whole = torch.cat(rows)
    return F.normalize(whole + spread * torch.randn(whole.shape, generator=generator), dim=1)


def params(**options: Any) -> ClusteringParams:
    return ClusteringParams(**{"method": "cluster_contrast", "k1": 8, "k2": 2, "min_samples": 3, **options})


@pytest.mark.parametrize("options", [{}, {"distance": "cosine", "eps": 0.2}])
def test_finds_planted_groups_numbered_by_their_first_images(options: dict[str, Any]) -> None:
    features = groups([8, 8, 8])
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    truth = torch.arange(3).repeat_interleave(8)[order]
    labels = cluster(features[order], params(**options))
    firsts = list(dict.fromkeys(truth.tolist()))
    assert labels.tolist() == [firsts.index(label) for label in truth.tolist()]


def test_groups_too_small_are_outliers() -> None:
    labels = cluster(groups([8, 2, 8, 1]), params(min_samples=4))
    assert labels.tolist() == [0] * 8 + [OUTLIER] * 2 + [1] * 8 + [OUTLIER]


def test_a_cluster_that_others_have_left_with_too_few_images_is_dropped() -> None:
    # On a circle, in degrees: the images at 0 and at 20 are cores, and share the one at 10, which the first gets.
    angles = torch.deg2rad(torch.tensor([-9.0, -8.0, 0.0, 10.0, 20.0, 28.0, 29.0]))
    features = torch.stack((angles.cos(), angles.sin()), 1)
    eps = 1 - torch.deg2rad(torch.tensor(10.1)).cos().item()
    labels = cluster(features, params(distance="cosine", eps=eps, min_samples=4))
    assert labels.tolist() == [0] * 4 + [OUTLIER] * 3


def test_centroids_are_the_means_at_unit_length() -> None:
    features, labels = groups([4, 3, 5], spread=0.5), torch.tensor([1, 1, -1, 0, 0, 2, 1, -1, 2, 2, 0, 1])
    expected = [F.normalize(features[labels == number].mean(0), dim=0) for number in range(3)]
    torch.testing.assert_close(centroids_of(features, labels), torch.stack(expected))


def test_each_camera_of_a_cluster_has_a_proxy() -> None:
    labels, camids = torch.tensor([1, -1, 0, 1, 1, 0, 1]), torch.tensor([7, 3, 3, 2, 7, 3, 2])
    proxies, clusters, cameras = split_by_camera(labels, camids)
    assert sorted(zip(clusters.tolist(), cameras.tolist(), strict=True)) == [(0, 3), (1, 2), (1, 7)]
    assert (proxies == OUTLIER).tolist() == (labels == OUTLIER).tolist()
    is_kept = labels != OUTLIER
    assert torch.equal(clusters[proxies[is_kept]], labels[is_kept])
    assert torch.equal(cameras[proxies[is_kept]], camids[is_kept])


def slow_rand_index(one: list[int], other: list[int]) -> float:
    """From the pairs that are together in one, in the other and in both partitions."""
    pairs = list(combinations(range(len(one)), 2))
    first = [one[a] == one[b] for a, b in pairs]
    second = [other[a] == other[b] for a, b in pairs]
    both = sum(x and y for x, y in zip(first, second, strict=True))
    expected = sum(first) * sum(second) / comb(len(one), 2)
    return (both - expected) / ((sum(first) + sum(second)) / 2 - expected)


def test_the_rand_index_counts_outliers_as_clusters_of_their_own() -> None:
    pids = [5, 5, 5, 9, 9, 2, 2, 2, UNKNOWN_PID]
    labels = torch.tensor([0, 0, 1, 1, 1, 2, -1, -1, 2])
    expected = slow_rand_index(pids[:8], [0, 0, 1, 1, 1, 2, 3, 4])
    assert rand_index(labels, pids) == pytest.approx(expected)
    assert rand_index(torch.tensor([0, 0, 1, 1]), [7, 7, 3, 3]) == 1
    assert rand_index(labels, [UNKNOWN_PID] * 9) is None
