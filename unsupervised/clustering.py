"""Clusters of embeddings: DBSCAN on the Jaccard distance of k-reciprocal neighbours."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn import functional as F

from config.clustering import ClusteringParams
from data.samples import UNKNOWN_PID
from evaluate.core.retrieval.jaccard import sparse_jaccard

OUTLIER = -1
"""Label of an image that is in no cluster."""


def cluster(features: Tensor, section: ClusteringParams, order: Tensor | None = None) -> Tensor:
    """Embeddings of unit length (N, D) -> cluster of each image (N,) int64 on the CPU, `OUTLIER` for those in none.

    The clusters are numbered in the order of their first core images. Those that DBSCAN leaves with fewer than
    `min_samples` images, as another has taken the images between both, are dropped.

    Args:
        order: (N, k1) the nearest of each image, for the Jaccard distance; None: they are searched for.

    Source: Ester et al. 1996, "A density-based algorithm for discovering clusters" (DBSCAN); as by Dai et al. 2021,
    arXiv 2103.11568, section 3.
    """
    eps, smallest = section.eps, section.min_samples
    if section.distance == "jaccard":
        distances = sparse_jaccard(features, section.k1, section.k2, eps, order=order)
        found = DBSCAN(eps=eps, min_samples=smallest, metric="precomputed").fit_predict(distances)
    else:
        found = DBSCAN(eps=eps, min_samples=smallest, metric="cosine").fit_predict(features.cpu().numpy())
    is_kept = found != OUTLIER
    is_kept[is_kept] = np.bincount(found[is_kept])[found[is_kept]] >= smallest
    labels = np.full(len(found), OUTLIER, np.int64)
    labels[is_kept] = np.unique(found[is_kept], return_inverse=True)[1]
    return torch.from_numpy(labels)


def centroids_of(features: Tensor, labels: Tensor) -> Tensor:
    """The mean of each cluster's embeddings, at unit length.

    Args:
        features: (N, D) of unit length, on the CPU.
        labels: (N,) int64, of `cluster`, or the proxies of `split_by_camera`.

    Returns:
        (C, D) for the C clusters.
    """
    is_kept = labels != OUTLIER
    kept = labels[is_kept]
    sums = features.new_zeros(int(labels.max()) + 1, features.shape[1])
    return F.normalize(sums.index_add_(0, kept, features[is_kept]), dim=1)


def split_by_camera(labels: Tensor, camids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A proxy for each cluster and each camera that has images of it.

    Args:
        labels: (N,) int64, of `cluster`.
        camids: (N,) int64, the cameras.

    Returns:
        (N,) int64 the proxy of each image, `OUTLIER` for those in no cluster; (R,) int64 the cluster and (R,) int64 the
        camera of each of the R proxies.

    Source: Wang et al. 2021, arXiv 2012.10674, camera-aware proxies.
    """
    is_kept = labels != OUTLIER
    pairs, kept = torch.stack((labels, camids), 1)[is_kept].unique(dim=0, return_inverse=True)
    proxies = torch.full_like(labels, OUTLIER)
    proxies[is_kept] = kept
    return proxies, pairs[:, 0], pairs[:, 1]


def rand_index(labels: Tensor, pids: Sequence[int]) -> float | None:
    """Adjusted Rand index of clusters and identities; each outlier counts as a cluster of its own.

    Args:
        labels: (N,) int64, of `cluster`.
        pids: identity of each image, `UNKNOWN_PID` for those that do not count.

    Returns:
        1 = the same partition, 0 = as expected by chance; None where no identity is known.

    Source: Hubert and Arabie 1985, "Comparing partitions".
    """
    truth, found = np.array(pids), labels.numpy().copy()
    outliers = found == OUTLIER
    found[outliers] = found.max() + 1 + np.arange(np.count_nonzero(outliers))
    is_known = truth != UNKNOWN_PID
    return float(adjusted_rand_score(truth[is_known], found[is_known])) if is_known.any() else None
