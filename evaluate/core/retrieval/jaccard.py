"""Jaccard distances of k-reciprocal encodings as a sparse matrix, of which clusters are made.

Source: Zhong, Zheng, Cao, Li 2017, Re-ranking Person Re-identification with k-reciprocal Encoding; as Ge et al. 2020,
Self-paced Contrastive Learning (SpCL), and Dai et al. 2021, Cluster Contrast, count neighbours and weigh them.
"""

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from evaluate.core.retrieval.encodings import SharedWeights, averaged, check_listable, encode
from evaluate.core.retrieval.neighbours import nearest_neighbours

UNIT = 0.5  # cosine distance that is a squared Euclidean one of 1, for embeddings of unit length
TOLERANCE = 1e-3  # in the length of embeddings


def sparse_jaccard(
    features: Tensor,
    k1: int = 30,
    k2: int = 6,
    max_distance: float = 0.6,
    *,
    order: Tensor | None = None,
    memory: int = 2**30,
) -> csr_array:
    """All Jaccard distances that are not above a maximum, between all pairs of images.

    On this matrix scikit-learn's DBSCAN, with `metric="precomputed"` and an `eps` of at most `max_distance`, finds the
    clusters that it finds on the matrix of all distances.

    Args:
        features: (N, D) float32 embeddings of unit length.
        k1: nearest images, the image itself among them, in which reciprocal ones are sought.
        k2: nearest images, the image itself among them, whose encodings are averaged, 1..k1; 1 = no averaging.
        max_distance: 0..1, without 1, which is the distance of images that share no neighbour.
        order: (N, K) int64 on the CPU, the k1 nearest of each image, nearest first, or more of them; None: they are
            searched for, exactly.
        memory: bytes that temporary results may take.

    Returns:
        (N, N) float32, symmetric. The entries of a row stand nearest first, the first being the image itself or one
        as near; what is not stored is farther than `max_distance`. The diagonal is stored, and zero.

    Raises:
        DataError: N images have 2**31 neighbours or more, k1 each.
        ValueError: a number out of its range, or embeddings that are not of unit length.
    """
    if not (1 <= k2 <= k1 and 0 <= max_distance < 1):
        raise ValueError(f"1 <= k2 <= k1 and 0 <= max_distance < 1 expected, got {k1=}, {k2=}, {max_distance=}")
    check_listable(len(features), k1, "k1")
    if not ((torch.linalg.vector_norm(features, dim=1) - 1).abs() < TOLERANCE).all():
        raise ValueError("embeddings of unit length expected")
    if order is None:
        order = nearest_neighbours(features, k1, "cosine", memory, is_checked=True).order
    if len(order) != len(features) or order.shape[1] < min(k1, len(features)):
        raise ValueError(f"{k1} neighbours of each of {len(features)} images expected, got {tuple(order.shape)}")
    order = order[:, :k1]  # not k1 + 1 as in re-ranking; half of them are counted as there
    unit = features.new_full((1,), UNIT).expand(len(features))
    codes = averaged(encode(features, "cosine", order, k1, unit, memory), order[:, :k2])
    # The weights that two images share are then added up in one order for both: the sums are symmetric to the bit.
    codes.sort_indices()
    shared = SharedWeights(codes, codes, memory)
    return csr_array(vstack([_rows(shared, *span, max_distance) for span in shared.spans(0, len(features))]))


def _rows(shared: SharedWeights, start: int, stop: int, max_distance: float) -> csr_array:
    """Rows start..stop of the result of `sparse_jaccard`."""
    own = np.arange(stop - start, dtype=np.int32)
    # A product with the identity adds up what stands in the same place, in the order of the terms.
    identity = csr_array((np.ones(len(own), np.float32), own, np.arange(len(own) + 1, dtype=np.int32)))
    sums = csr_array(identity @ shared.terms(start, stop))
    rows = np.repeat(own, np.diff(sums.indptr))
    # 1 - s / (2 - s), in another form.
    distance = np.maximum(2 - 2 / (2 - sums.data), 0)
    is_kept = (distance <= max_distance) & (sums.indices != rows + start)
    # The diagonal is added for all: an image without weights shares none, not even with itself.
    rows = np.concatenate((own, rows[is_kept]))
    columns = np.concatenate((own + start, sums.indices[is_kept]))
    distance = np.concatenate((np.zeros(len(own), np.float32), distance[is_kept]))
    by_distance = np.lexsort((columns, distance, rows))
    ends = np.concatenate(([0], np.bincount(rows, minlength=len(own)).cumsum())).astype(np.int32)
    return csr_array((distance[by_distance], columns[by_distance], ends), shape=sums.shape)
